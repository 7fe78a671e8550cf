"""Until when to wait: a deadline is an instant of the monotonic clock, and what is nested can only be shorter."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct

from ringpost.contract.errors import DeadlineExceeded, UsageError
from ringpost.contract.vocabulary import Seconds, seconds
from ringpost.core.deadline import child, chosen_s
from ringpost.core.handling import handling
from ringpost.settings import Settings


class Block(Struct, frozen=True):
    """A block of `with deadline(…)`: until when, and in which handling (None: outside of handlers) it was begun. It
    bounds what is called there, not in handlers and workers whose tasks happen to come from inside."""

    until_s: float
    handling: object | None


_block: ContextVar[Block | None] = ContextVar("ringpost_deadline", default=None)


@contextmanager
def deadline(timeout: Seconds, /) -> Generator[None, None, None]:
    """Bound all calls inside the block together, and waiting for tickets: `with deadline(2):`. Seconds or a timedelta;
    blocks nest.

    A call that begins when the time is over raises DeadlineExceeded at once, with `processed="no"`.
    """
    length_s = seconds(timeout, "deadline")
    token = _block.set(Block(within_block(_now_s() + length_s), handling.get()))
    try:
        yield
    finally:
        _block.reset(token)


def call_deadline_s(
    now_s: float, timeout: Seconds | None, operation_s: float | None, parent_s: float | None, settings: Settings
) -> float:
    """Give the instant until which a call may take: the option, else the operation's, else the default; never later
    than the block around it, or than the call that is being handled less the way back."""
    longest_s = settings.call_timeout_max_s
    asked_s = None if timeout is None else _asked_s(timeout, longest_s)
    own_s = chosen_s(asked_s, operation_s, settings.call_timeout_s, longest_s)
    until_s = child(now_s, own_s, parent_s)
    if _block.get() is not None:
        until_s = within_block(until_s)
    if until_s <= now_s:
        raise DeadlineExceeded("The deadline has passed before the call began.", processed="no")
    return until_s


def _asked_s(timeout: Seconds, longest_s: float) -> float:
    asked_s = seconds(timeout, "timeout")
    if asked_s > longest_s:
        raise UsageError(
            f"A call waits at most {longest_s:g} s, not {asked_s:g}. What takes longer is sent: "
            "`ticket = await client.send(…)`, then `await ticket.result(timeout=…)`."
        )
    return asked_s


def within_block(until_s: float) -> float:
    """Give an instant of the loop's clock, or the end of the block around, whichever comes first."""
    block = _block.get()
    if block is None or block.until_s >= until_s or block.handling is not handling.get():
        return until_s
    return block.until_s


def _now_s() -> float:
    """The loop's clock where there is one, which in tests may be a virtual one; threads have the same but for that."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def waited_s(wait: Seconds) -> float:
    """Give how long `call_or_send` waits for the reply. Raises UsageError for a wait of nothing: that is to send."""
    wait_s = seconds(wait, "wait")
    if not wait_s:
        raise UsageError("wait=0 waits for no reply: send it, `ticket = await client.send(…)`.")
    return wait_s
