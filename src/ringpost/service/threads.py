"""Where `def` handlers run: a pool of threads, as many as their slots. A thread can't be cancelled, only given up."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ringpost.service.slots import Slots
from ringpost.service.standing import thread_of


class Threads:
    """The threads of one process. `close()` doesn't wait for handlers that were given up."""

    def __init__(self, count: int, half_lost: Callable[[str], None] | None = None) -> None:
        """`half_lost` is called with an operation's name when half of its slots or more are lost."""
        self._half_lost = half_lost
        self.running = 0  # functions that somebody waits for
        self._pool = ThreadPoolExecutor(max(count, 1), thread_name_prefix="ringpost-handler")

    async def run(self, slots: Slots, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        """Run a function in a thread, with the context variables of this task.

        A cancellation gives it up: its slot counts as lost until the thread has ended, so that a handler that never
        ends costs one slot and not, message after message, all threads.
        """
        context = contextvars.copy_context()
        running = self._pool.submit(context.run, _here, function, *arguments, **keywords)
        self.running += 1
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancel() and not running.done():
                self._give_up(slots, running)
            raise
        finally:
            self.running -= 1

    def close(self) -> None:
        """Take no more work. Threads that still run are left to themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _give_up(self, slots: Slots, running: Future[Any]) -> None:
        loop = asyncio.get_running_loop()
        slots.lose()
        if self._half_lost is not None and slots.lost * 2 >= slots.total:
            self._half_lost(slots.name)

        def ended(_: Future[Any]) -> None:
            try:
                loop.call_soon_threadsafe(slots.recover)
            except RuntimeError:  # the loop was closed meanwhile: nobody counts any more
                pass

        running.add_done_callback(ended)


def _here(function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    thread_of.set(threading.get_ident())
    return function(*arguments, **keywords)
