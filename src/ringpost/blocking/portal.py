"""From a thread into an event loop: run a coroutine there, wait for it here."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

from ringpost.contract.errors import UsageError

T = TypeVar("T")


class Portal(Protocol):
    """A way into an event loop that runs in another thread."""

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what `make` gives as a task over there, in a copy of this thread's context, and give what came of it."""
        ...


class LoopPortal:
    """Into a loop that runs anyway: that of a handler's worker, or of a test."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _refuse_in_loop()
        return _carried(self._loop, make)


class InPlace:
    """Into nowhere: run what never waits for an event loop, in the thread that asks."""

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _refuse_in_loop()
        coroutine = make()
        try:
            coroutine.send(None)
        except StopIteration as done:
            found: T = done.value
            return found
        coroutine.close()
        raise AssertionError("it waits for an event loop")


class ThreadPortal:
    """Into a loop of our own, in a thread that starts at first use; a process that was forked gets one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        os.register_at_fork(after_in_child=self._forget)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        _refuse_in_loop()
        loop = self._loop
        if loop is None:
            loop = self._started()
        return _carried(loop, make)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = _new_loop()
                running = threading.Event()
                loop.call_soon(running.set)
                threading.Thread(target=loop.run_forever, name="ringpost-blocking", daemon=True).start()
                running.wait()
                self._loop = loop
            return self._loop

    def _forget(self) -> None:
        # The thread wasn't forked with us, and somebody may have held the lock.
        self._lock = threading.Lock()
        self._loop = None


def _carried(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    done: Future[T] = Future()
    context = copy_context()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        try:
            # In the context too: some verbs do their work when they are called, and refuse there.
            task = loop.create_task(context.run(make), context=context)
        except BaseException as error:  # noqa: BLE001 (the border between two threads)
            done.set_exception(error)
            return
        tasks.append(task)
        task.add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            done.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    loop.call_soon_threadsafe(start)
    try:
        return done.result()
    except KeyboardInterrupt:
        if not done.done():
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
        raise


def _refuse_in_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        "ringpost.blocking was used inside an event loop, which would stand still meanwhile: take ringpost.Client and "
        "await it, or run this in a thread (asyncio.to_thread)."
    )


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
