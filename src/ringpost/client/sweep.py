"""One timer for all that wait: every 10 ms what is over is told so. A timer per call would cost a tenth of the call."""

import asyncio
from typing import Protocol

SWEEP_S = 0.01


class Bounded(Protocol):
    """Something that waits until an instant of the loop's clock."""

    deadline_s: float

    def expire(self) -> None:
        """Take note that the time is over. Called at most once for each time it was added."""
        ...


class Sweep:
    """Watches what waits. Its timer runs only while anything does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: set[Bounded] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.add = self._waiting.add  # the hot path; whoever adds calls `arm` too
        self.drop = self._waiting.discard

    def arm(self) -> None:
        """Make sure that the timer runs."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._tick)

    def close(self) -> None:
        """Watch no longer."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        over = [one for one in self._waiting if one.deadline_s <= now_s]
        for one in over:
            self._waiting.discard(one)
            one.expire()
        if self._waiting:
            self.arm()
