"""An event loop whose time is virtual: it moves only while somebody waits for it, and then at once.

As long as anything is ready to run, time stands still. Once all is quiet, it leaps to the next instant at which
something is to happen: a timer, or a *landmark* that somebody else knows of (a message falls due). It does so only
while a verb is awaited (`awaiting`) or `advance` asks for it, and only once threads that work for the loop are done and
the event loops that use it (*guests*) have nothing more to say. So what happens, and in which order, doesn't depend on
how fast the machine is. Timers of upkeep that repeat for ever are run when time passes, but time doesn't stop at each.
"""

import asyncio
import contextvars
import itertools
import selectors
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from heapq import heappop, heappush
from types import CodeType
from typing import Any, TypeVar, TypeVarTuple

from ringpost.contract.errors import UsageError

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_RESOLUTION_S = 1e-6  # of virtual instants: float seconds stay exact to this for decades
_HOPS = 12  # how often a guest goes round before it counts as quiet: its tasks may wake each other
_GUEST_S = 1.0  # real seconds: a guest that doesn't answer for so long is stopped or stuck
_HANDLER_THREAD = "ringpost-handler"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Run in a thread of its own; `run` brings work from other loops and threads."""

    def __init__(
        self,
        *,
        passing: frozenset[object] = frozenset(),
        passing_tasks: frozenset[CodeType] = frozenset(),
    ) -> None:
        """`passing`: functions whose timers time doesn't stop at; `passing_tasks`: likewise what these coroutines
        sleep."""
        self._now_s = 0.0
        self._passing = passing
        self._passing_tasks = passing_tasks
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._awaiting = 0
        self._until_s: float | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._quiet: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._overdue: tuple[float, float] | None = None
        self._jobs = 0
        self._parked = 0
        self._from_thread = False
        self._guests: Counter[asyncio.AbstractEventLoop] = Counter()
        self._guests_lock = threading.Lock()
        self.landmark_s: Callable[[], float | None] = lambda: None
        self.reached: Callable[[], object] = lambda: None
        self.threads: Callable[[], int] = lambda: 0
        super().__init__(_Selector(self))
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Give the virtual instant, seconds since the loop was made."""
        return self._now_s

    # --- what is asked of time

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, with everything that happens in it."""
        if self._until_s is not None:
            raise UsageError("advance is under way already: await one before the next.")
        self._until_s = self._now_s + seconds
        self._arrived = self.create_future()
        try:
            await self._arrived
        finally:
            self._until_s = self._arrived = None

    async def quiet(self, when: Callable[[], bool]) -> None:
        """Wait until nothing is ready to run and `when` holds; time moves as far as that needs."""
        waiting: asyncio.Future[None] = self.create_future()
        entry = (when, waiting)
        self._quiet.append(entry)
        try:
            with self.awaited():
                await waiting
        finally:
            self._quiet.remove(entry)

    @contextmanager
    def awaited(self) -> Generator[None]:
        """Let time move while the block lasts. In the loop's thread only."""
        self._awaiting += 1
        try:
            yield
        finally:
            self._awaiting -= 1

    # --- from other loops and threads

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]], context: contextvars.Context) -> "Future[_T]":
        """Run what `make` gives as a task here, while time may move. Cancelling the future cancels the task."""
        done: Future[_T] = Future()

        async def work() -> _T:
            with self.awaited():
                return await make()

        def start() -> None:
            if not done.cancelled():
                task = self.create_task(work(), context=context)
                task.add_done_callback(lambda task: _hand_over(task, done))
                done.add_done_callback(lambda done: self._cancel(task) if done.cancelled() else None)

        self.call_soon_threadsafe(start)
        return done

    def _cancel(self, task: "asyncio.Task[Any]") -> None:
        if not self.is_closed():
            self.call_soon_threadsafe(task.cancel)

    @contextmanager
    def guest(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Hear a loop before time moves, as long as the block lasts."""
        with self._guests_lock:
            self._guests[loop] += 1
        try:
            yield
        finally:
            with self._guests_lock:
                self._guests[loop] -= 1
                if not self._guests[loop]:
                    del self._guests[loop]

    # --- timers and threads

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer; unless it is of those that time passes by, time will stop there."""
        timer = super().call_at(when, callback, *args, context=context)
        if not self._passes_by(callback):
            heappush(self._timers, (when, next(self._order), timer))
        return timer

    def _passes_by(self, callback: Callable[..., object]) -> bool:
        if getattr(callback, "__func__", callback) in self._passing:
            return True
        task = asyncio.current_task(self)
        code = None if task is None else getattr(task.get_coro(), "cr_code", None)
        return code in self._passing_tasks

    def run_in_executor(self, executor: Any, func: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":  # type: ignore[override]
        """Run a function in a thread; time waits for it."""
        future: asyncio.Future[_T] = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: "asyncio.Future[Any]") -> None:
        self._jobs -= 1

    def call_soon_threadsafe(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Take a callback from another thread. If a `def` handler waits for the task it makes, time may move on."""
        if not threading.current_thread().name.startswith(_HANDLER_THREAD):
            return super().call_soon_threadsafe(callback, *args, context=context)

        def from_thread() -> None:
            self._from_thread = True
            try:
                callback(*args)
            finally:
                self._from_thread = False

        return super().call_soon_threadsafe(from_thread, context=context)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        """Make a task. One that a thread asked for is what this thread waits for until it is done."""
        task = super().create_task(coro, **options)
        if self._from_thread:
            self._parked += 1
            task.add_done_callback(self._unpark)
        return task

    def _unpark(self, _: "asyncio.Task[Any]") -> None:
        self._parked -= 1

    # --- how time moves

    def may_move(self) -> bool:
        """Say whether somebody waits for time to pass, and no thread for the real one."""
        wanted = self._awaiting > 0 or self._until_s is not None
        return wanted and self._jobs + self.threads() <= self._parked

    def hear_guests(self) -> None:
        """Let every guest do what it has to do now."""
        with self._guests_lock:
            guests = list(self._guests)
        for guest in guests:
            heard = threading.Event()
            try:
                guest.call_soon_threadsafe(_hop, guest, _HOPS, heard)
            except RuntimeError:  # it is closed: nobody is there to be heard
                continue
            heard.wait(_GUEST_S)

    def move(self) -> bool:
        """Go to the next instant at which something happens; False where nothing ever will."""
        for when, waiting in self._quiet:
            if not waiting.done() and when():
                waiting.set_result(None)
                return True
        landmark_s = self.landmark_s()
        if landmark_s is not None and landmark_s <= self._now_s:
            if self._overdue != (landmark_s, self._now_s):
                self._overdue = (landmark_s, self._now_s)
                self.reached()
                return True
            landmark_s = None  # whoever knows of it could do nothing about it
        if self._until_s is not None and self._now_s >= self._until_s:
            if self._arrived is not None and not self._arrived.done():
                self._arrived.set_result(None)
            return True
        instants = [at_s for at_s in (self._next_timer_s(), landmark_s, self._until_s) if at_s is not None]
        if instants:
            self._now_s = max(min(instants), self._now_s)
        return bool(instants)

    def _next_timer_s(self) -> float | None:
        """Give the next instant at which time stops. All that is not later has been run."""
        timers = self._timers
        while timers and (timers[0][0] <= self._now_s or timers[0][2].cancelled()):
            heappop(timers)
        return timers[0][0] if timers else None


class _Selector(selectors.DefaultSelector):
    """Look for what really comes in; where a loop would wait for a timer, move its time instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._loop.may_move():
            self._loop.hear_guests()
            events = super().select(0)
            if events or self._loop.move():
                return events
        return super().select(None)


def _hop(loop: asyncio.AbstractEventLoop, left: int, heard: threading.Event) -> None:
    if left:
        loop.call_soon(_hop, loop, left - 1, heard)
    else:
        heard.set()


def _hand_over(task: "asyncio.Task[_T]", done: "Future[_T]") -> None:
    """Give what came of a task to who waits for it in another thread."""
    if not done.set_running_or_notify_cancel():
        return
    if task.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
