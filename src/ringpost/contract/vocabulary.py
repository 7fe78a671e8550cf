"""The types that several rooms speak in: type variables, lengths of time, the options of the verbs, what a handler is.

Options are TypedDicts so that every verb spells them out to type checkers (`**options: Unpack[SendOptions]`) and none
repeats the list. `CallOptions` and `SendOptions` hold what the caller may say; what both sides must know is said once,
at the operation (`OperationOptions`).
"""

import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import (
    Annotated,
    Any,
    Concatenate,
    Literal,
    Never,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    cast,
    overload,
)

from msgspec import Meta
from typing_extensions import TypeVar

from ringpost.contract.errors import UsageError
from ringpost.contract.problem import Problem

Request = TypeVar("Request")
Reply = TypeVar("Reply", default=None)
T = TypeVar("T")
P = ParamSpec("P")
No = TypeVar("No", bound=Problem, default=Never)

# Is T. The odd half makes mypy solve T from the operation first: literals infer, and errors name both types.
Fits: TypeAlias = T | Callable[[T], Never]

Seconds = float | timedelta
"""A length of time: seconds, or a timedelta."""
When = Seconds | datetime
"""A length of time from now, or an aware datetime."""
Priority = Literal["high", "normal", "low"]
"""What is taken first among what is ready."""
Effect = Literal["read", "idempotent"]
Provider = Callable[..., object]
"""A function, async or not, or a generator: what it returns or yields is handed to parameters of that type."""

SECRET = "secret"
# `password: Secret[str]` never shows in a log, a trace or the view of a dead letter.
Secret = Annotated[T, Meta(extra={"ringpost": SECRET})]


class OperationOptions(TypedDict, total=False):
    """Say what both sides of an operation must know.

    `timeout` (of a call, at most 60) and `ttl` (of a message) are seconds. `effect`: whether repeating is harmless.
    `sunset`: an aware datetime after which it goes away. `name`: on the wire, else that of the attribute.
    """

    name: str
    doc: str
    timeout: Seconds
    ttl: Seconds
    priority: Priority
    effect: Effect
    sunset: datetime


class AnyReceipt(Protocol):
    """A receipt or a ticket, as far as waiting for its effects goes."""

    @property
    def id(self) -> str: ...
    @property
    def duplicate(self) -> bool: ...
    @property
    def receivers(self) -> int: ...
    @property
    def level(self) -> Literal["durable", "replicated", "buffered", "staged"]: ...


class Options(TypedDict, total=False):
    """Say what every verb takes.

    `headers`: for the handler's `ctx.headers`. `idempotency_key`: 1 to 255 printable ASCII characters; what has the
    same one takes effect once, for 7 days, and is safe to repeat. `priority`: what is taken first.
    """

    headers: Mapping[str, str]
    idempotency_key: str
    priority: Priority


class CallOptions(Options, total=False):
    """Say what a call takes. `timeout` in seconds; `after`: wait, within it, until the effects of these are there.

    `attempts`: how often it may be tried in all, where that is safe, 3 by default. `hedge`: whether a second instance
    may be asked beside a late one; True only for `effect="read"`.
    """

    timeout: Seconds
    attempts: int
    hedge: bool
    after: AnyReceipt | Sequence[AnyReceipt]


class SendOptions(Options, total=False):
    """Say what send and publish take.

    `delay`: seconds or an aware datetime. `ttl`: seconds after which it isn't begun any more. `ordering_key`: what has
    the same one is handled one after the other, in the order of the commits.
    """

    delay: When
    ttl: Seconds
    ordering_key: str


class Committable(Protocol):
    """Be a session or connection that commits: SQLAlchemy's AsyncSession, psycopg's AsyncConnection."""

    def commit(self) -> Awaitable[None]: ...


class Commits(Protocol):
    """Be a session or connection that commits and waits for it: SQLAlchemy's Session, Django's and psycopg's."""

    def commit(self) -> None: ...


class Asyncpg(Protocol):
    """Be a connection of asyncpg, which has transactions but no commit of its own."""

    def is_in_transaction(self) -> bool: ...


class Handles(Protocol[Request, Reply]):
    """Take a handler: the request first, then anything by type; async or not; it may return a Problem.

    The function comes back unchanged, so that it can be called in tests as what it is.
    """

    @overload
    def __call__(
        self, handler: Callable[Concatenate[Request, P], Coroutine[Any, Any, Reply | No]], /
    ) -> Callable[Concatenate[Request, P], Coroutine[Any, Any, Reply | No]]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[Request, P], Reply | No], /
    ) -> Callable[Concatenate[Request, P], Reply | No]: ...


def seconds(value: Seconds, what: str) -> float:
    """Give a length of time in seconds; `what` names the option in the UsageError for anything else."""
    given = cast(object, value)
    if isinstance(given, timedelta):
        given = given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise UsageError(f"{what} takes seconds or a timedelta, not {type(value).__name__}.")
    if not math.isfinite(given) or given < 0:
        raise UsageError(f"{what} must be a finite number of seconds that isn't negative, not {value!r}.")
    return float(given)
