"""Where `def` handlers run: a pool of threads, as many as their slots. A thread can't be cancelled, only given up."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ringpost.service.slots import Slots
from ringpost.service.standing import thread_of


class Threads:
    """The threads of one process. `close()` doesn't wait for handlers that were given up."""

    def __init__(self, count: int, half_lost: Callable[[str], None] | None = None) -> None:
        """`half_lost` is called with an operation's name when half of its slots or more are lost."""
        self._half_lost = half_lost
        self.running = 0  # functions that somebody waits for
        self._pool = Daemons(max(count, 1))

    async def run(self, slots: Slots, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        """Run a function in a thread, with the context variables of this task.

        A cancellation gives it up: its slot counts as lost until the thread has ended, so that a handler that never
        ends costs one slot and not, message after message, all threads.
        """
        context = contextvars.copy_context()
        running = self._pool.submit(partial(context.run, _here, function, *arguments, **keywords))
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
        self._pool.close()

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


class Daemons:
    """As many threads as there is work for at once, `count` at most. Unlike those of a ThreadPoolExecutor no process
    waits for them at its exit: a function that never ends would keep it for ever."""

    def __init__(self, count: int) -> None:
        self._left = count  # that may still be started
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._closed = False

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function in a thread as soon as one is free. Call it from one thread. Raises RuntimeError after the
        end."""
        if self._closed:
            raise RuntimeError("these threads take no more work: the process is ending")
        future: Future[Any] = Future()
        self._work.put((future, function))
        if not self._idle.acquire(blocking=False) and self._left:
            self._left -= 1
            threading.Thread(target=self._run, name="ringpost-handler", daemon=True).start()
        return future

    def close(self) -> None:
        """Let threads end with what they are at, and cancel what hasn't begun."""
        self._closed = True
        try:
            while (item := self._work.get_nowait()) is not None:
                item[0].cancel()
        except Empty:  # a thread may have been quicker
            pass
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            _done(*item)
            del item  # or it stays until the next one comes
            self._idle.release()
        self._work.put(None)  # for the others


def _done(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 (a border: it is raised where somebody waits for it)
        future.set_exception(error)
        del future  # or it and the error would hold each other
    else:
        future.set_result(result)


def _here(function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    thread_of.set(threading.get_ident())
    return function(*arguments, **keywords)
