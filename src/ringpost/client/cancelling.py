"""End what was begun beside: cancel it, and wait until it has ended."""

import asyncio
from collections.abc import Collection
from typing import Any


async def cancelled(tasks: Collection["asyncio.Future[Any]"]) -> None:
    """Cancel what still runs and wait for its end; what it raises, or has raised before, is of no interest any more."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # it was looked at: nothing to warn of
