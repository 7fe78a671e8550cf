"""The machine that everything in a simulation runs on: one event loop whose time leaps, one seed for all chance.

Everything is the product's own code; what is replaced is what surrounds it: the clocks of `time`, the chance of
`random`, `secrets` and `os.urandom`, and the loop. Whatever happens, and in which order, follows from the seed.

Several processes share the loop. What runs for a process carries its name in the context; one that is killed runs
nothing any more from that instant on, not even what stands in a `finally`.
"""

import asyncio
import contextvars
import heapq
import itertools
import os
import random
import secrets
import selectors
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ringpost.client.guards import Guards
from ringpost.client.world import World

EPOCH_S = 1_750_000_000.0

_process: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("simulated process", default=None)


class Stuck(Exception):
    """Nothing will ever happen any more, and somebody waits."""


class Process:
    """One process: alive until it is killed; while it is stopped, what it has to do is kept for later."""

    def __init__(self, name: str, loop: "Loop") -> None:
        self.name = name
        self.world = World(clock_s=loop.time, guards=Guards())
        self.alive = True
        self.stopped = False
        self.kept: list[asyncio.Handle] = []
        self.buried = False  # it is over, and its tasks may come to their ends

    def __str__(self) -> str:
        return self.name

    @property
    def idle(self) -> bool:
        return self.stopped or (not self.alive and not self.buried)


def current() -> Process | None:
    """Give the process for which this runs."""
    return _process.get()


class Loop(asyncio.SelectorEventLoop):
    """Virtual time: it leaps to the next timer once nothing is ready."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.disturbed = False  # a process was killed or stopped, ever
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        super().__init__(_Leap(self))

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        """Run what is ready now: the base's, without what asks the system."""
        ready = self._ready
        if not ready:
            self.leap()
        for _ in range(len(ready)):
            if not ready:  # somebody was killed or stopped
                break
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not (self.disturbed and self._rests(handle)):
            self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def kill(self, process: Process) -> None:
        """End a process: nothing of it runs any more."""
        process.alive = False
        self.disturbed = True
        self._sift()

    def stop_process(self, process: Process) -> None:
        """Let a process stand still, as SIGSTOP does."""
        process.stopped = True
        self.disturbed = True
        self._sift()

    def go_on(self, process: Process) -> None:
        """Let it go on where it stood: it doesn't know that time has passed."""
        process.stopped = False
        kept, process.kept = process.kept, []
        if process.alive:
            self._ready.extend(kept)

    def _sift(self) -> None:
        """Take what rests out of what is ready."""
        ready = [handle for handle in self._ready if not self._rests(handle)]
        self._ready.clear()
        self._ready.extend(ready)

    def _rests(self, handle: asyncio.Handle) -> bool:
        """Say whether something is not to run now; if it is for later, it is kept."""
        process = handle._context.get(_process)
        if process is None or not process.idle:
            return False
        if process.alive:
            process.kept.append(handle)
        return True

    def leap(self) -> None:
        """Go to the next instant at which something is to happen."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck(f"at {self.now_s:.3f} s nothing will ever happen any more")
        self.now_s = max(timers[0][0], self.now_s)
        while timers and timers[0][0] <= self.now_s:
            timer = heapq.heappop(timers)[2]
            if not (self.disturbed and self._rests(timer)):
                self._ready.append(timer)


class _Leap(selectors.BaseSelector):
    """Where a loop would wait for its next timer, the time moves there."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Any:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            self._loop.leap()
        return []


def inside(process: Process, make: Callable[[], Coroutine[Any, Any, Any]]) -> "asyncio.Task[Any]":
    """Start something as a task of a process."""
    context = contextvars.copy_context()
    context.run(_process.set, process)
    task: asyncio.Task[Any] = context.run(lambda: asyncio.ensure_future(make()))
    return task


@contextmanager
def machine(seed: int) -> Generator[tuple[Loop, random.Random]]:
    """Give a loop and chance of a seed; the clocks and the chance of this program are theirs meanwhile."""
    loop, chance = Loop(), random.Random(seed)

    def wall_s() -> float:
        return EPOCH_S + loop.now_s

    before = random.getstate()
    random.seed(chance.getrandbits(64))
    own = random.Random(chance.getrandbits(64))
    with (
        mock.patch.object(time, "time", wall_s),
        mock.patch.object(time, "time_ns", lambda: int(wall_s() * 1e9)),
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(os, "urandom", own.randbytes),
        mock.patch.object(secrets, "token_hex", lambda count=32: own.randbytes(count).hex()),
        mock.patch.object(secrets, "randbits", own.getrandbits),
    ):
        asyncio.set_event_loop(loop)
        try:
            yield loop, chance
        finally:
            asyncio.set_event_loop(None)
            random.setstate(before)
            loop.close()
