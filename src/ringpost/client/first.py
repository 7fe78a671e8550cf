"""Who comes first: some of several calls are enough, and the rest is ended."""

import asyncio
from collections.abc import Awaitable
from typing import cast

from ringpost.client.cancelling import cancelled
from ringpost.contract.errors import UsageError
from ringpost.contract.vocabulary import T


async def first(*calls: Awaitable[T], need: int = 1) -> list[T]:
    """Give the first `need` results in the order in which they came, and cancel the rest.

    Failures count against it: once `need` can't be reached any more, the first failure is raised, with a note that says
    how many failed. A cancelled call may have taken effect: use it for what is safe to repeat. Raises UsageError where
    `need` isn't from 1 to the number of calls.
    """
    if not calls:
        raise UsageError("first takes one call or more.")
    if not isinstance(cast(object, need), int) or not 1 <= need <= len(calls):
        for call in calls:
            if asyncio.iscoroutine(call):
                call.close()
        raise UsageError(f"need must be 1 to {len(calls)}, the number of calls, not {need!r}.")
    tasks: list[asyncio.Future[T]] = [asyncio.ensure_future(call) for call in calls]
    try:
        return await _first(tasks, need)
    finally:
        await cancelled(tasks)


async def _first(tasks: list["asyncio.Future[T]"], need: int) -> list[T]:
    waiting: set[asyncio.Future[T]] = set(tasks)
    results: list[T] = []
    failures: list[BaseException] = []
    while len(results) < need:
        if len(failures) > len(tasks) - need:
            failures[0].add_note(f"first(need={need}): {len(failures)} of {len(tasks)} calls failed, this one first.")
            raise failures[0]
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in tasks if task in done]:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None:
                results.append(task.result())
            else:
                failures.append(error)
    return results[:need]
