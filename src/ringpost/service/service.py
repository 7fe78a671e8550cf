"""A service as its author declares it. Nothing runs here: a Host reads the declarations when the service starts."""

import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TypedDict, TypeVar, Unpack, cast, get_origin, overload

from typing_extensions import is_typeddict

from ringpost.contract.codec import Codec
from ringpost.contract.contract import Contract, name_of, operations_of
from ringpost.contract.errors import UsageError, listed
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import DeadLetter
from ringpost.contract.problem import Problem
from ringpost.contract.vocabulary import Handles, Provider, Reply, Request, Seconds, T, seconds
from ringpost.core.call import Identity
from ringpost.core.limit import Kind
from ringpost.core.retry import Retry
from ringpost.service import schedule as schedules
from ringpost.service.context import Context
from ringpost.service.handler import Handler, Plan, Work
from ringpost.service.provide import Source, bare, hints_of, is_async, source_of, type_name
from ringpost.service.provide import name_of as function_name
from ringpost.service.schedule import Tick

Middleware = Callable[[Context, Callable[[], Awaitable[object]]], Awaitable[object]]
Authenticate = Callable[[Mapping[str, str]], Awaitable[Identity | None]]

CONCURRENCY_ASYNC = 128
CONCURRENCY_DEF = 8
CONCURRENCY_MAX = 100_000
MAX_RUN_S = 900.0

_F = TypeVar("_F", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
CALL_QUEUE_MAX = 100_000
_OPTIONS = ("concurrency", "limiter", "call_queue", "limit", "dry_run", "halt", "retry", "max_run", "finish")
_LIMITERS = ("aimd", "gradient", "fixed")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class HandlerOptions(TypedDict, total=False):
    """What only the implementer decides.

    `concurrency`: how many at a time in one process, calls and messages together (128, of `def` handlers 8). `limiter`:
    how it is found how many of them may be calls, from 4 up to all: "aimd", "gradient" or "fixed". `call_queue`: how
    many calls may wait for a slot, where that is less than may run; 0: none. `retry`: how failed messages are tried
    again, by exception (the nearest class counts). `max_run`: seconds after which a handler is cancelled (15 min).
    `finish`: it goes on when its caller has gone away. `halt`: a dead message keeps its line waiting until it is
    replayed or dropped. `dry_run`: it heeds `ctx.dry_run`, so that it may be rehearsed. `limit`: not in this version.
    """

    concurrency: int
    limiter: Kind
    call_queue: int
    limit: int
    dry_run: bool
    halt: bool
    retry: Retry | Mapping[type[Exception], Retry]
    max_run: Seconds
    finish: bool


class _Declaring:
    """The decorator that the declaring methods give: it adds a handler and returns the function unchanged."""

    def __init__(self, service: "Service", declare: Callable[[Callable[..., Any], FrameType], None]) -> None:
        self._service = service
        self._declare = declare

    def __call__(self, handler: _F, /) -> _F:
        self._declare(handler, sys._getframe(1))  # annotations may name what is local there
        return handler


class Service:
    """Declare what handles the operations of contracts, events, schedules and dead letters.

    `resources` are made once per process, `provides` once per message or call; each is a function, async function,
    generator or async generator, and what it returns or yields is handed to parameters of that type. `middleware` runs
    around every handler, the first one outermost. `authenticate` says who calls, from the headers: an Identity, None
    for anybody; raise a Problem to refuse. `limiter` and `call_queue` hold for handlers that
    don't say their own, see HandlerOptions. Raises UsageError for what can't work, at the line that declares it.
    """

    def __init__(
        self,
        *contracts: type[Contract],
        name: str | None = None,
        resources: Sequence[Provider] = (),
        provides: Sequence[Provider] = (),
        middleware: Sequence[Middleware] = (),
        authenticate: Authenticate | None = None,
        limiter: Kind | None = None,
        call_queue: int | None = None,
    ) -> None:
        for contract in contracts:
            if not (isinstance(contract, type) and issubclass(contract, Contract)):
                raise UsageError(f"Service takes contracts first, such as Accounts, not {contract!r}.")
        if name is None:
            if not contracts:
                raise UsageError('A service without a contract needs a name: Service(name="analytics").')
            name = name_of(contracts[0])
        self.name = _named(name, "The name of a service")
        self.contracts = contracts
        self.resources: tuple[Source, ...] = tuple(map(source_of, resources))
        self.provides: tuple[Source, ...] = tuple(map(source_of, provides))
        self.middleware = tuple(middleware)
        self.authenticate = authenticate
        self.limiter: Kind | None = None if limiter is None else _limiter(limiter, f"Service {self.name}")
        self.call_queue = None if call_queue is None else _call_queue(call_queue, f"Service {self.name}")
        self.handlers: dict[str, Handler] = {}
        for one in self.middleware:
            if not is_async(one):
                raise UsageError(f"The middleware {function_name(one)} must be `async def (ctx, proceed)`.")
        if authenticate is not None and not is_async(authenticate):
            raise UsageError(f"authenticate={function_name(authenticate)} must be `async def (headers)`.")
        self.on_failure = cast(Handles[DeadLetter, None], _Declaring(self, self._declare_on_failure))

    def __repr__(self) -> str:
        return f"<Service {self.name}>"

    def implements(
        self, operation: Operation[Request, Reply], /, **options: Unpack[HandlerOptions]
    ) -> Handles[Request, Reply]:
        """Declare the handler of an operation: `@accounts.implements(Accounts.register)`.

        It takes the request first, then anything by type; it returns the reply or a Problem. It must be safe to run
        again: a message is handled at least once, while what it sends and publishes happens once.
        """
        self._check_operation(operation)
        checked = _options(options, f"implements({operation.full_name})")

        def declare(function: Callable[..., Any], frame: FrameType) -> None:
            self._add(
                "operation",
                operation.full_name,
                operation.full_name,
                function,
                frame,
                operation.request,
                operation.reply,
                checked,
                operation=operation,
                raises=tuple(operation.raises),
            )

        return cast(Handles[Request, Reply], _Declaring(self, declare))

    def on(
        self,
        event: Event[T],
        /,
        *,
        name: str | None = None,
        from_beginning: bool = False,
        **options: Unpack[HandlerOptions],
    ) -> Handles[T, None]:
        """Listen to an event of any service. The subscription is durable, made at the first start and kept while the
        service is down; it is removed by command only.

        `name`: for a second handler of the same event. `from_beginning`: a new subscription gets first, in order, what
        the event's log keeps (`keep=` at the event), and goes on with what is told from then on; one that is there
        already stays as it is.
        """
        if isinstance(event, Operation):
            raise UsageError(f"on takes an event; {_full(event)} is an operation. Use implements.")
        if not isinstance(event, Event):
            raise UsageError(f"on takes an event such as Accounts.registered, not {_what(event)}.")
        full_name = event.full_name
        if not isinstance(cast(object, from_beginning), bool):
            raise UsageError(f"on({full_name}): from_beginning is True or False, not {from_beginning!r}.")
        if from_beginning and event.keep_s is None:
            raise UsageError(
                f"{full_name} keeps no log that a subscription could begin with. Declare it with the time for which it "
                "is to be kept: Event(…, keep=timedelta(days=30))."
            )
        queue = f"{self.name}.on.{full_name}"
        if name is not None:
            queue += "." + _named(name, "The name of a subscription")
        if queue in self.handlers:
            raise UsageError(f"{self.name} listens to {full_name} twice: give the second one a name, `name=…`.")
        checked = _options(options, f"on({full_name})")
        nothing = Codec[Any](None)

        def declare(function: Callable[..., Any], frame: FrameType) -> None:
            self._add(
                "event",
                full_name,
                queue,
                function,
                frame,
                event.data,
                nothing,
                {**checked, "from_beginning": from_beginning},
                event=event,
            )

        return cast(Handles[T, None], _Declaring(self, declare))

    @overload
    def schedule(
        self,
        cron: str,
        /,
        *,
        tz: str = "UTC",
        name: str = ...,
        overlap: bool = False,
        **options: Unpack[HandlerOptions],
    ) -> Handles[Tick, None]: ...
    @overload
    def schedule(
        self, /, *, every: Seconds, name: str = ..., overlap: bool = False, **options: Unpack[HandlerOptions]
    ) -> Handles[Tick, None]: ...
    def schedule(
        self,
        cron: str | None = None,
        /,
        *,
        every: Seconds | None = None,
        tz: str = "UTC",
        name: str | None = None,
        overlap: bool = False,
        **options: Any,
    ) -> Handles[Tick, None]:
        """Run a handler by the clock: a cron line in a time zone, or every so many seconds, aligned to the epoch.

        One tick is one message, whatever the number of processes; with `overlap=False` one runs at a time. `name` is
        the function's if not given. A tick that fell due while nothing ran is handled at the next start, once.
        """
        if (cron is None) == (every is None):
            raise UsageError('schedule takes a cron line, schedule("0 3 * * *"), or every=, schedule(every=60).')
        if cron is not None and not isinstance(cron, str):
            raise UsageError(f'schedule takes a cron line such as "0 3 * * *" or every=, not {cron!r}.')
        plan = Plan(cron=cron or "", tz=tz, every_s=0.0 if every is None else seconds(every, "every"), overlap=overlap)
        schedules.check(plan)
        checked = _options(cast(HandlerOptions, options), "schedule")
        codecs = Codec[Any](Tick), Codec[Any](None)

        def declare(function: Callable[..., Any], frame: FrameType) -> None:
            own = getattr(function, "__name__", "").lstrip("_").lower() if name is None else name
            queue = f"{self.name}.schedule.{_named(own, 'The name of a schedule')}"
            if queue in self.handlers:
                raise UsageError(f"{self.name} has two schedules called {own!r}: give one a name, `name=…`.")
            self._add("schedule", queue, queue, function, frame, *codecs, checked, plan=plan)

        return cast(Handles[Tick, None], _Declaring(self, declare))

    def _declare_on_failure(self, function: Callable[..., Any], frame: FrameType) -> None:
        queue = f"{self.name}.on_failure"
        if queue in self.handlers:
            raise UsageError(f"{self.name} has two on_failure handlers; one is all that is called.")
        codecs = Codec[Any](DeadLetter), Codec[Any](None)
        self._add("failure", queue, queue, function, frame, *codecs, _options({}, "on_failure"))

    def _check_operation(self, operation: object) -> None:
        if isinstance(operation, Event):
            raise UsageError(f"implements takes an operation; {_full(operation)} is an event. Use on.")
        if not isinstance(operation, Operation):
            raise UsageError(f"implements takes an operation such as Accounts.register, not {_what(operation)}.")
        full_name = operation.full_name
        if not any(one is operation for contract in self.contracts for one in operations_of(contract).values()):
            raise UsageError(
                f"{full_name} belongs to none of the contracts of the service {self.name}: "
                f"Service({', '.join([one.__name__ for one in self.contracts] + ['…'])})."
            )
        if full_name in self.handlers:
            known = function_name(self.handlers[full_name].function)
            raise UsageError(f"{full_name} is implemented twice in the service {self.name}; the first is {known}.")

    def _add(
        self,
        work: Work,
        name: str,
        queue: str,
        function: Callable[..., Any],
        frame: FrameType,
        request: Codec[Any],
        reply: Codec[Any],
        options: Mapping[str, Any],
        *,
        operation: Operation[Any, Any] | None = None,
        event: Event[Any] | None = None,
        plan: Plan | None = None,
        raises: tuple[type[Problem], ...] = (),
    ) -> None:
        if queue in self.handlers:
            raise UsageError(f"{name} is handled twice in the service {self.name}.")
        _check_function(function, name)
        in_loop = is_async(function)
        chosen: dict[str, Any] = {"concurrency": CONCURRENCY_ASYNC if in_loop else CONCURRENCY_DEF, **options}
        self.handlers[queue] = Handler(
            work=work,
            service=self.name,
            name=name,
            queue=queue,
            function=function,
            is_async=in_loop,
            hints=_hints(function, frame),
            request=request,
            reply=reply,
            operation=operation,
            event=event,
            plan=plan,
            raises=raises,
            **chosen,
        )


def unimplemented(service: Service) -> list[str]:
    """Name the operations of a service's contracts that have no handler."""
    return [
        operation.full_name
        for contract in service.contracts
        for operation in operations_of(contract).values()
        if operation.full_name not in service.handlers
    ]


def check_request(handler: Handler, hints: Mapping[str, Any]) -> None:
    """Refuse a handler whose first parameter names another type than the request's: it would get what it doesn't
    expect. Only where both are classes, as anything else may fit."""
    first = next(iter(inspect.signature(handler.function).parameters.values()))
    if first.name not in hints:
        return
    annotated, given = _class_of(hints[first.name]), _class_of(handler.request.type)
    if annotated is None or given is None or annotated is given or issubclass(given, annotated):
        return
    raise UsageError(
        f"{function_name(handler.function)} takes {first.name}: {type_name(hints[first.name])}, and the "
        f"{'data' if handler.event else 'request'} of {handler.name} is {type_name(handler.request.type)}."
    )


def _class_of(form: object) -> type | None:
    if form is None:
        return type(None)
    form = bare(form)
    if form is float or is_typeddict(form) or getattr(form, "_is_protocol", False):
        return None  # an int is a float, too; of the others Python can't say what fits
    return form if isinstance(form, type) and get_origin(form) is None else None


def _hints(function: Callable[..., Any], frame: FrameType) -> Mapping[str, Any] | None:
    """Read the annotations; None where a name isn't known yet, which is looked at again at start."""
    try:
        return hints_of(function, frame)
    except UsageError:
        return None


def _check_function(function: object, name: str) -> None:
    if not callable(function) or inspect.isclass(function):
        raise UsageError(f"The handler of {name} must be a function, not {_what(function)}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function_name(function)} yields; a handler returns its reply. Use ctx.progress to report.")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise UsageError(f"{function_name(function)} must take the request of {name} as its first parameter.")


def _options(options: HandlerOptions, where: str) -> dict[str, Any]:
    """Check the options of a handler and give them as the fields of Handler."""
    unknown = [one for one in options if one not in _OPTIONS]
    if unknown:
        raise UsageError(f"{where} takes no {listed(unknown)}; its options are {listed(sorted(_OPTIONS))}.")
    if "limit" in options:
        raise UsageError(f"{where}: limit= isn't in this version. concurrency= bounds what one process does at a time.")
    checked: dict[str, Any] = {
        "retry": _retry(options.get("retry", Retry()), where),
        "max_run_s": seconds(options["max_run"], "max_run") if "max_run" in options else MAX_RUN_S,
    }
    if checked["max_run_s"] <= 0:
        raise UsageError(f"{where}: max_run must be more than 0 seconds.")
    if "concurrency" in options:
        count = cast(object, options["concurrency"])
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= CONCURRENCY_MAX:
            raise UsageError(f"{where}: concurrency is a whole number from 1 to {CONCURRENCY_MAX:,}, not {count!r}.")
        checked["concurrency"] = count
    if "limiter" in options:
        checked["limiter"] = _limiter(options["limiter"], where)
    if "call_queue" in options:
        checked["call_queue"] = _call_queue(options["call_queue"], where)
    for name, value in (
        ("dry_run", options.get("dry_run", False)),
        ("finish", options.get("finish", False)),
        ("halt", options.get("halt", False)),
    ):
        if not isinstance(cast(object, value), bool):
            raise UsageError(f"{where}: {name} is True or False, not {value!r}.")
        checked[name] = value
    return checked


def _limiter(given: Kind, where: str) -> Kind:
    if given not in _LIMITERS:
        raise UsageError(f"{where}: limiter is {listed(_LIMITERS)}, not {given!r}.")
    return given


def _call_queue(given: object, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= CALL_QUEUE_MAX:
        raise UsageError(f"{where}: call_queue is a whole number from 0 to {CALL_QUEUE_MAX:,}, not {given!r}.")
    return given


def _retry(given: object, where: str) -> dict[type[Exception], Retry]:
    """Give the rules by class, with one for every Exception."""
    if isinstance(given, Retry):
        return {Exception: given}
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}: retry takes Retry(…), or a mapping of exceptions to Retry(…), not {given!r}.")
    rules: dict[type[Exception], Retry] = {Exception: Retry()}
    for kind, rule in cast(Mapping[object, object], given).items():
        if not (isinstance(kind, type) and issubclass(kind, Exception)) or not isinstance(rule, Retry):
            raise UsageError(f"{where}: retry maps exceptions to Retry(…), not {kind!r} to {rule!r}.")
        rules[kind] = rule
    return rules


def _named(name: object, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{what} is lower-case letters, digits and _, beginning with a letter; not {name!r}.")
    return name


def _full(thing: Any) -> str:
    try:
        return str(thing.full_name)
    except UsageError:
        return "this"


def _what(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"{type(thing).__name__} {thing!r}"
