"""Until when to wait: a deadline is an instant of the monotonic clock, and what is nested can only be shorter."""

import asyncio
import time
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from ringpost.contract.errors import DeadlineExceeded, UsageError
from ringpost.contract.vocabulary import Seconds, T, seconds
from ringpost.core.deadline import child, chosen_s
from ringpost.settings import Settings

_block: ContextVar[float | None] = ContextVar("ringpost_deadline", default=None)


@contextmanager
def deadline(timeout: Seconds, /) -> Generator[None, None, None]:
    """Bound all calls inside the block together: `with deadline(2):`. Seconds or a timedelta; blocks nest.

    A call that begins when the time is over raises DeadlineExceeded at once, with `processed="no"`.
    """
    length_s = seconds(timeout, "deadline")
    until_s = _now_s() + length_s
    outer_s = _block.get()
    token = _block.set(until_s if outer_s is None else min(until_s, outer_s))
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
    asked_s = None if timeout is None else seconds(timeout, "timeout")
    if asked_s is not None and asked_s > longest_s:
        raise UsageError(
            f"A call waits at most {longest_s:g} s, not {asked_s:g}. What takes longer is sent: "
            "`ticket = await client.send(…)`, then `await ticket.result(timeout=…)`."
        )
    own_s = chosen_s(asked_s, operation_s, settings.call_timeout_s, longest_s)
    until_s = child(now_s, own_s, parent_s)
    block_s = _block.get()
    if block_s is not None and block_s < until_s:
        until_s = block_s
    if until_s <= now_s:
        raise DeadlineExceeded("The deadline has passed before the call began.", processed="no")
    return until_s


async def first(*calls: Awaitable[T], need: int = 1) -> list[T]:
    """Give the first `need` results in the order in which they came, and cancel the rest.

    Failures count against it: once `need` can't be reached any more, the first failure is raised. A cancelled call may
    have taken effect: use it for what is safe to repeat.
    """
    if not 1 <= need <= len(calls):
        for call in calls:
            if asyncio.iscoroutine(call):
                call.close()
        raise UsageError(f"need must be 1 to {len(calls)}, the number of calls, not {need}.")
    tasks = [asyncio.ensure_future(call) for call in calls]
    waiting: set[asyncio.Future[T]] = set(tasks)
    results: list[T] = []
    failure: BaseException | None = None
    failures = 0
    try:
        while len(results) < need and failures <= len(calls) - need:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task not in done:
                    continue
                error = asyncio.CancelledError() if task.cancelled() else task.exception()
                if error is None:
                    results.append(task.result())
                else:
                    failures += 1
                    failure = failure or error
    finally:
        for one in waiting:
            one.cancel()
        if waiting:
            await asyncio.wait(waiting)
            for one in waiting:
                if not one.cancelled():
                    one.exception()  # it was looked at: nothing to warn of
    if len(results) < need:
        assert failure is not None
        raise failure
    return results[:need]


def _now_s() -> float:
    """The loop's clock where there is one, which in tests may be a virtual one; threads have the same but for that."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
