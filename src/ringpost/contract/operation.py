"""Operation and Event: what can be asked of a service, and what it tells others."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeForm, Unpack

from ringpost.contract.codec import Codec
from ringpost.contract.errors import InvalidRequest, UsageError, listed
from ringpost.contract.forms import shown
from ringpost.contract.problem import Problem, problem_type
from ringpost.contract.vocabulary import Effect, OperationOptions, Priority, Reply, Request, Seconds, T, seconds

_OPERATION_OPTIONS = tuple(OperationOptions.__annotations__)
_KEY_CHARS_MAX = 255
_PRIORITIES = ("high", "normal", "low")
_EFFECTS = ("read", "idempotent")
_NAMES_OF_A_CONTRACT = ("name", "contract_name", "full_name")


class Operation(Generic[Request, Reply]):
    """Declare what can be called or sent: `register = Operation(NewUser, User, raises=[EmailTaken], timeout=2)`.

    `Operation(User)` replies with nothing, `Operation(None, int)` takes nothing. `timeout` and `ttl` in seconds.
    `ordering_key` of a request: requests with one key are handled one after the other. `idempotency_key` of a request:
    the same key takes effect once. Raises UsageError for what can't work, at the line that declares it.
    """

    __slots__ = (
        "_dedup_key",
        "_line_key",
        "_problems",
        "_stated_name",
        "contract_name",
        "doc",
        "effect",
        "full_name",
        "name",
        "priority",
        "raises",
        "reply",
        "request",
        "sunset",
        "timeout_s",
        "ttl_s",
    )

    name: str
    contract_name: str
    full_name: str  # contract.operation: its queue, and its path on the door
    request: Codec[Request]
    reply: Codec[Reply]
    raises: tuple[type[Problem], ...]
    timeout_s: float | None
    ttl_s: float | None
    priority: Priority | None
    effect: Effect | None
    sunset: datetime | None
    doc: str

    def __init__(
        self,
        request: TypeForm[Request],
        reply: TypeForm[Reply] = None,  # type: ignore[assignment]  # noqa: RUF013 (None is a type form too)
        /,
        *,
        raises: Sequence[type[Problem]] = (),
        ordering_key: Callable[[Request], str] | None = None,
        idempotency_key: Callable[[Request], str] | None = None,
        **options: Unpack[OperationOptions],
    ) -> None:
        _refuse_unknown(options, "Operation")
        self.request = Codec(request, "request")
        self.reply = Codec(reply, "reply")
        self.raises = _checked_raises(raises)
        self.doc = _checked_text(options.get("doc", ""), "doc")
        self.timeout_s = _length(options.get("timeout"), "timeout")
        self.ttl_s = _length(options.get("ttl"), "ttl")
        self.priority = _one_of(options.get("priority"), _PRIORITIES, "priority")
        self.effect = _one_of(options.get("effect"), _EFFECTS, "effect")
        self.sunset = _checked_sunset(options.get("sunset"))
        self._line_key = _checked_key(ordering_key, "ordering_key")
        self._dedup_key = _checked_key(idempotency_key, "idempotency_key")
        self._stated_name = options.get("name")
        self._problems: dict[str, type[Problem]] = {}

    def line_key(self, request: Request) -> str | None:
        """Give the request's ordering key; None: it has no order."""
        return None if self._line_key is None else _key(self, "ordering_key", self._line_key(request))

    def dedup_key(self, request: Request) -> str | None:
        """Give the request's idempotency key, if the operation makes one."""
        return None if self._dedup_key is None else _key(self, "idempotency_key", self._dedup_key(request))

    def problem_for(self, urn: str) -> type[Problem] | None:
        """Give the declared Problem of a `type`, if it is one of this operation's."""
        return self._problems.get(urn)

    def belongs_to(self, contract_name: str, name: str) -> None:
        """Take the name under which the contract has it; called once, by the contract."""
        self.name, self.contract_name, self.full_name = name, contract_name, f"{contract_name}.{name}"
        self.request.owner = self.reply.owner = self.full_name
        self._problems = {problem_type(contract_name, problem): problem for problem in self.raises}

    def __repr__(self) -> str:
        return f"<Operation {_display(self)}: {shown(self.request.type)} -> {shown(self.reply.type)}>"

    if not TYPE_CHECKING:  # Type checkers shall refuse these; whoever runs without one is told what to write.

        def __call__(self, *arguments: object, **more: object) -> None:
            raise UsageError(_not_a_function(self))

        def __getattr__(self, name: str) -> object:
            raise _missing(self, name)


class Event(Generic[T]):
    """Declare what a service tells whoever listens: `registered = Event(User)`.

    `keep`: seconds for which the store keeps a log of it, so that who subscribes later can begin with what was told
    before, and who missed some can be given it; for so long a repeat is known, too. Without it there is no log.
    `ordering_key` of the data: what has one key is handled one after the other by each subscriber. Raises
    UsageError for what can't work.
    """

    __slots__ = ("_line_key", "_stated_name", "contract_name", "data", "doc", "full_name", "keep_s", "name")

    name: str
    contract_name: str
    full_name: str  # contract.event
    data: Codec[T]
    doc: str
    keep_s: float | None

    def __init__(
        self,
        data: TypeForm[T],
        /,
        *,
        name: str | None = None,
        doc: str = "",
        keep: Seconds | None = None,
        ordering_key: Callable[[T], str] | None = None,
    ) -> None:
        self.data = Codec(data, "data")
        self.doc = _checked_text(doc, "doc")
        self.keep_s = _length(keep, "keep")
        self._line_key = _checked_key(ordering_key, "ordering_key")
        self._stated_name = name

    def line_key(self, data: T) -> str | None:
        """Give the ordering key of the data; None: it has no order."""
        return None if self._line_key is None else _key(self, "ordering_key", self._line_key(data))

    def belongs_to(self, contract_name: str, name: str) -> None:
        """Take the name under which the contract has it; called once, by the contract."""
        self.name, self.contract_name, self.full_name = name, contract_name, f"{contract_name}.{name}"
        self.data.owner = self.full_name

    def __repr__(self) -> str:
        return f"<Event {_display(self)}: {shown(self.data.type)}>"

    if not TYPE_CHECKING:

        def __call__(self, *arguments: object, **more: object) -> None:
            raise UsageError(_not_a_function(self))

        def __getattr__(self, name: str) -> object:
            raise _missing(self, name)


Declared = Operation[Any, Any] | Event[Any]


def stated_name(declared: Declared) -> str | None:
    """Give the `name=` of a declaration, if it has one."""
    return declared._stated_name


def is_bound(declared: Declared) -> bool:
    """Say whether it belongs to a contract."""
    try:
        return bool(declared.full_name)
    except UsageError:
        return False


def _display(declared: Declared) -> str:
    return declared.full_name if is_bound(declared) else "without contract"


def _not_a_function(declared: Declared) -> str:
    name = _display(declared)
    if isinstance(declared, Event):
        return f"The event {name} can't be called. Tell it: await client.publish(EVENT, data)."
    return (
        f"The operation {name} isn't called like a function: how it is reached is yours to say."
        " await client.call(OPERATION, request) waits for the reply, await client.send(OPERATION, request) doesn't;"
        " in a handler it is ctx.call and ctx.send."
    )


def _missing(declared: Declared, name: str) -> Exception:
    kind = type(declared).__name__
    if name in _NAMES_OF_A_CONTRACT:
        article = "This operation" if kind == "Operation" else "This event"
        return UsageError(
            f"{article} belongs to no contract: write it as an attribute of a class that inherits from Contract."
        )
    return AttributeError(f"{kind!r} has no attribute {name!r}")


def _refuse_unknown(options: Mapping[str, object], kind: str) -> None:
    for name in options:
        if name in ("request", "reply", "data"):
            raise UsageError(f"{kind} takes request and reply by position: Operation(NewUser, User), not {name}=….")
        if name not in _OPERATION_OPTIONS:
            known = ("raises", "ordering_key", "idempotency_key", *_OPERATION_OPTIONS)
            near = get_close_matches("raises" if name == "errors" else name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" It has {listed(known)}."
            raise UsageError(f"{kind} has no option {name!r}.{hint}")


def _checked_raises(raises: object) -> tuple[type[Problem], ...]:
    if isinstance(raises, type):
        raise UsageError(f"raises takes a list: raises=[{raises.__name__}].")
    if not isinstance(raises, list | tuple | set | frozenset):
        raise UsageError(f"raises takes a list of Problem classes, not {type(raises).__name__}.")
    checked: dict[str, type[Problem]] = {}
    for problem in cast("Sequence[object]", raises):
        if isinstance(problem, Problem):
            raise UsageError(f"raises takes classes: {type(problem).__name__}, without calling it.")
        if not isinstance(problem, type) or not issubclass(problem, Problem):
            name = problem.__name__ if isinstance(problem, type) else repr(problem)
            raise UsageError(f"raises takes Problem classes, and {name} is none: class {name}(Problem): …")
        if problem is Problem:
            raise UsageError("raises takes classes of your own: class EmailTaken(Problem, status=409): …")
        if checked.setdefault(problem.code, problem) is not problem:
            raise UsageError(
                f"{checked[problem.code].__qualname__} and {problem.__qualname__} have one code, {problem.code!r}:"
                " the caller couldn't tell them apart. Give one of them another code=."
            )
    return tuple(checked.values())


def _checked_text(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f"{what} is a str, not {type(text).__name__}.")
    return text


def _length(value: Seconds | None, what: str) -> float | None:
    if value is None:
        return None
    length_s = seconds(value, what)
    if length_s == 0:
        raise UsageError(f"{what} must be more than 0 seconds.")
    return length_s


def _one_of(value: Any, known: tuple[str, ...], what: str) -> Any:
    if value is not None and value not in known:
        raise UsageError(f"{what} is {' or '.join(map(repr, known))}, not {value!r}.")
    return value


def _checked_sunset(sunset: object) -> datetime | None:
    if sunset is None:
        return None
    if not isinstance(sunset, datetime) or sunset.tzinfo is None:
        raise UsageError("sunset is a datetime with a time zone: datetime(2027, 1, 31, tzinfo=UTC).")
    return sunset


def _checked_key(function: Callable[[T], str] | None, what: str) -> Callable[[T], str] | None:
    if function is not None and not callable(function):
        raise UsageError(f"{what} is a function of the request: {what}=lambda request: request.id.")
    return function


def _key(declared: Declared, what: str, key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str):
        raise UsageError(f"The {what} of {_display(declared)} gave {type(key).__name__} {key!r}: it must give a str.")
    if not 0 < len(key) <= _KEY_CHARS_MAX:  # it depends on what was sent: who sent it has to know
        size = "an empty str (None stands for no key)" if not key else f"{len(key):,} characters"
        raise InvalidRequest(
            f"The {what} of {_display(declared)} gave {size}: it must have 1 to {_KEY_CHARS_MAX}.",
            detail=f"its {what} would have {len(key):,} characters, and must have 1 to {_KEY_CHARS_MAX}",
        )
    return key
