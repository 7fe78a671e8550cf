"""A Problem: a declared no. Exception, dataclass and RFC 9457 body in one.

Its annotated fields become extension members of the body, so the names of RFC 9457 and of Ringpost are taken. At the
caller it comes back as the same class, found by its `type`: `urn:ringpost:problem:<contract>.<code>`.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec

from ringpost.contract.errors import InvalidRequest, RingpostError, UsageError
from ringpost.contract.models import read_model, write_model
from ringpost.contract.names import checked_name, snake_case
from ringpost.contract.pointer import pointer

RESERVED_MEMBERS = frozenset(
    {"type", "title", "status", "detail", "instance", "code", "retryable", "operation", "errors"}
)
PROBLEM_URN = "urn:ringpost:problem:"


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
class _Fields(RingpostError):
    """Tell type checkers that every Problem is a dataclass without writing the decorator."""


class Problem(_Fields):
    """Declare a no that belongs to the contract: `class EmailTaken(Problem, status=409): email: str`.

    Raise it in a handler: what was written and staged is discarded. Return it: that is committed. Name it in the
    operation's `raises=`, else it is a failure and no answer. `detail` says what happened this time.
    """

    status: ClassVar[int] = 422
    title: ClassVar[str] = "The request was refused"
    code: ClassVar[str] = "problem"
    detail: str = dataclasses.field(default="", kw_only=True)

    def __init_subclass__(cls, *, status: int | None = None, title: str | None = None, code: str | None = None) -> None:
        """Take what the class says of itself: an HTTP status of 400 to 599, a title, a code (default: its name)."""
        super().__init_subclass__()
        words = snake_case(cls.__name__).replace("_", " ")
        cls.status = _checked_status(cls, cls.status if status is None else status)
        cls.title = title if title is not None else words[:1].upper() + words[1:]
        cls.code = checked_name(code if code is not None else snake_case(cls.__name__), f"The Problem {cls.__name__}")
        _refuse_taken_names(cls)
        dataclasses.dataclass(eq=False, repr=False)(cls)

    def __str__(self) -> str:
        said = f"{self.title}: {self.detail}" if self.detail else self.title
        fields = ", ".join(_shown_fields(self))
        return f"{said} ({fields})" if fields else said

    def __repr__(self) -> str:
        detail = [f"detail={self.detail!r}"] if self.detail else []
        return f"{type(self).__name__}({', '.join([*_shown_fields(self), *detail])})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(type(self))  # Fields may change and may not be hashable; equal ones must hash alike.

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would make it of `args`, which hold positional arguments only.
        return (_restored, (type(self), dict(self.__dict__)))

    def __copy__(self) -> Self:
        return cast(Self, _restored(type(self), dict(self.__dict__)))


dataclasses.dataclass(eq=False, repr=False)(Problem)


def problem_type(contract: str, problem: type[Problem]) -> str:
    """Give the `type` of a declared Problem: `urn:ringpost:problem:<contract>.<code>`; `contract` is its name."""
    return f"{PROBLEM_URN}{contract}.{problem.code}"


def to_members(problem: Problem, contract: str = "") -> dict[str, Any]:
    """Give the members of the RFC 9457 body, as JSON has them; `type` only with the contract's name.

    Raises InvalidRequest for a field whose value doesn't fit its type.
    """
    kind = type(problem)
    members: dict[str, Any] = {"type": problem_type(contract, kind)} if contract else {}
    members |= {"title": kind.title, "status": kind.status, "code": kind.code}
    if problem.detail:
        members["detail"] = problem.detail
    for name, form in _forms(kind).items():
        try:
            members[name] = cast(object, msgspec.to_builtins(getattr(problem, name), str_keys=True, enc_hook=_plain))
        except (TypeError, ValueError) as error:
            raise _misfit(kind, name, str(error)) from None
        _read(kind, name, form, members[name])
    return members


def from_members(kind: type[Problem], members: Mapping[str, Any]) -> Problem:
    """Make the Problem from the members of a body. Raises InvalidRequest for one that is missing or doesn't fit."""
    detail = members.get("detail", "")
    values: dict[str, Any] = {"detail": detail if isinstance(detail, str) else ""}
    for name, form in _forms(kind).items():
        if name in members:
            values[name] = _read(kind, name, form, members[name])
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        missing = [name for name in _forms(kind) if name not in values]
        raise _misfit(kind, missing[0] if missing else "", str(error)) from None


def _checked_status(cls: type[Problem], status: object) -> int:
    if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 599:
        raise UsageError(f"{cls.__name__}: status is an HTTP status from 400 to 599, not {status!r}.")
    return int(status)


def _refuse_taken_names(cls: type[Problem]) -> None:
    for name in inspect.get_annotations(cls):
        if name in RESERVED_MEMBERS:
            how = " Say it in the class line: class …(Problem, status=409, title=…)." if name in _SAID_ONCE else ""
            detail = " Every Problem has it already." if name == "detail" else ""
            raise UsageError(
                f"{cls.__name__} can't have a field {name!r}: the name belongs to the problem body.{how}{detail}"
            )
        if hasattr(BaseException, name) or name.startswith("_"):
            raise UsageError(f"{cls.__name__} can't have a field {name!r}: exceptions have that name. Choose another.")


_SAID_ONCE = ("status", "title", "code")


def _forms(kind: type[Problem]) -> dict[str, Any]:
    """Give the types of the fields that travel, `detail` apart."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != "detail" and field.init]
    if not names:
        return {}
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in names}


def _read(kind: type[Problem], name: str, form: Any, value: object) -> Any:
    try:
        return msgspec.convert(value, form, str_keys=True, dec_hook=read_model)
    except msgspec.ValidationError as error:
        raise _misfit(kind, name, str(error)) from None


def _plain(value: object) -> object:
    return cast(object, msgspec.json.decode(msgspec.json.encode(write_model(value))))


def _misfit(kind: type[Problem], name: str, reason: str) -> InvalidRequest:
    place = pointer([name]) if name else ""
    return InvalidRequest(
        f"The Problem {kind.__name__} doesn't fit{f' at {place}' if place else ''}: {reason}.",
        pointer=place,
        detail=reason,
    )


def _values(problem: Problem) -> list[object]:
    return [getattr(problem, field.name, None) for field in dataclasses.fields(problem)]


def _shown_fields(problem: Problem) -> list[str]:
    return [
        f"{field.name}={'***' if _says_secret(field.type) else repr(getattr(problem, field.name, None))}"
        for field in dataclasses.fields(problem)
        if field.name != "detail"
    ]


def _says_secret(form: object) -> bool:
    """Say whether a Secret is in it, without resolving names: a message is written where nothing may fail."""
    if isinstance(form, str):
        return "Secret" in form
    if any(isinstance(extra, msgspec.Meta) and extra.extra for extra in getattr(form, "__metadata__", ())):
        return True
    return get_origin(form) is not None and any(_says_secret(arg) for arg in get_args(form))


def _restored(kind: type[Problem], state: dict[str, Any]) -> Problem:
    problem = kind.__new__(kind)
    problem.__dict__.update(state)
    return problem
