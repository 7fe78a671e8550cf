"""Every error that Ringpost raises, by who must act.

`UsageError`: your code is wrong. `TransportError`: nobody answered, or not in time. `Problem` (see `problem.py`): the
other side said no. `OperationFailed`: it ended without an answer. `StateError`: what you refer to is no longer so.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

Processed = Literal["no", "maybe"]


class RingpostError(Exception):
    """Catch every error of Ringpost, declared Problems included. Its children say who must act."""


class UsageError(RingpostError):
    """Say that the program is wrong. Raised before any I/O; repeating it changes nothing."""


class InvalidRequest(UsageError):
    """Say which field of a request or event doesn't fit its type; `pointer` is a JSON Pointer (RFC 6901)."""

    def __init__(self, message: str, *, pointer: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer
        self.detail = detail or message


class TransportError(RingpostError):
    """Say that no answer came.

    `processed` is `no` where the request certainly did not reach a handler: repeating it is safe. With `maybe` it may
    have taken effect: repeat only what is safe to repeat, or with an idempotency key. `operation`: the full name of
    what was called, where it came of a call: then it was tried as often as may be, and who handles something above that
    call answers its own caller so that nobody there tries again.
    """

    operation: str = ""

    def __init__(self, message: str, *, processed: Processed = "maybe") -> None:
        super().__init__(message)
        self.processed: Processed = processed


class Unavailable(TransportError):
    """Say that nobody serves the operation or the receiver can't be reached; the text names all that was tried.

    `retry_after`: seconds, where the receiver said so.
    """

    def __init__(self, message: str, *, processed: Processed = "no", retry_after: float | None = None) -> None:
        super().__init__(message, processed=processed)
        self.retry_after = retry_after


class Overloaded(TransportError):
    """Say that the receiver refused for lack of room; `retry_after` is in seconds. Safe to repeat after it."""

    def __init__(self, message: str, *, retry_after: float = 1.0, processed: Processed = "no") -> None:
        super().__init__(message, processed=processed)
        self.retry_after = retry_after


class DeadlineExceeded(TransportError, TimeoutError):
    """Say that the time is over. With `processed="maybe"` the effect may have happened: repeat only with a key."""


class NotYet(DeadlineExceeded):
    """Say that a call wasn't made as the effects it was to come after (`after=`) aren't there yet. Safe to repeat.

    `states`: id of the message or event → where it stands: `accepted`, `running`, or `unknown`.
    """

    def __init__(self, message: str, *, states: Mapping[str, str] | None = None) -> None:
        super().__init__(message, processed="no")
        self.states: Mapping[str, str] = {} if states is None else states


class OperationFailed(RingpostError):
    """Say that an operation ended without reply and without Problem.

    `cause` says how: `handler_error`, `worker_lost`, `rejected` …; why, the log and the dead letters of its service.
    Repeating it as it is ends the same way until somebody has acted there. `path`: with `loop_detected`, the operations
    through which the calls went, whoever of them made the one that was refused.
    """

    def __init__(
        self,
        message: str,
        *,
        message_id: str = "",
        cause: str = "handler_error",
        state: Literal["failed", "cancelled", "expired"] = "failed",
        path: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message_id = message_id
        self.path = tuple(path)
        self.cause = cause
        self.state: Literal["failed", "cancelled", "expired"] = state


class StateError(RingpostError):
    """Say that what is referred to is not, or no longer, in a state that allows it. Repeating changes nothing."""


class NotHere(StateError):
    """Say that a call wasn't made as nobody can tell the effects it was to come after (`after=`): the messages are in
    another store than the receiver's, and the caller can't look there itself."""


class LeaseLost(StateError):
    """Say that another worker has taken the message over; nothing of this attempt was committed."""


class TicketExpired(StateError):
    """Say that the ticket's outcome is kept no longer."""


class TransactionHeldTooLong(StateError):
    """Say that a handler kept the store's only writer waiting; everything was rolled back.

    It names where the handler stood. The message is tried again as after any failure.
    """


class StoreError(RingpostError):
    """Say that the store can't do what was asked: it refuses to open, is full or has failed, and what to do."""


class RetryLater(Exception):
    """Raise in a handler to try again later. A message is scheduled again; a call answers 503 with `Retry-After`.

    `after`: seconds, a timedelta or an aware datetime. With `counts=False` no attempt is charged, for at most 30 days.
    """

    def __init__(self, after: float | timedelta | datetime, *, counts: bool = True) -> None:
        super().__init__(after)
        self.after = after
        self.counts = counts


class Reject(Exception):
    """Raise in a handler to give a request up at once: a message is dead, a call fails with 422. It isn't repeated."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Cancelled(Exception):
    """Stop the handler: `ctx.progress` and `ctx.checkpoint` raise it once it is to end; `ctx.cancelled` says why.

    Let it pass, after cleaning up.
    """


def listed(names: Sequence[str]) -> str:
    """Join names for an error message: `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
