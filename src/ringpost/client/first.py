"""Who comes first: some of several calls are enough, and the rest is ended."""

import asyncio
from collections.abc import Awaitable

from ringpost.contract.errors import UsageError
from ringpost.contract.vocabulary import T


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
