"""One timer for all that wait: every 10 ms what is over is told so. A timer per call would cost a tenth of the call."""

import asyncio
from typing import Protocol

SWEEP_S = 0.01
NEVER_S = float("inf")


class Bounded(Protocol):
    """Something that may wait until an instant of the loop's clock; NEVER_S while it doesn't."""

    deadline_s: float

    def expire(self) -> None:
        """Take note that the time is over. `deadline_s` is NEVER_S by then."""
        ...


class Sweep:
    """Watches what may wait. Its timer runs only while something does: whoever sets a deadline calls `arm`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Bounded, None] = {}  # in the order in which they came: what is told first is no chance
        self.timer: asyncio.TimerHandle | None = None

    def watch(self, one: Bounded) -> None:
        """Look at it from now on."""
        self._watched[one] = None

    def forget(self, one: Bounded) -> None:
        """Look at it no more."""
        self._watched.pop(one, None)

    def arm(self) -> None:
        """Make sure that the timer runs."""
        if self.timer is None:
            self.timer = self._loop.call_later(SWEEP_S, self._tick)

    def close(self) -> None:
        """Watch no longer."""
        self._watched.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _tick(self) -> None:
        self.timer = None
        now_s = self._loop.time()
        waiting = [one for one in self._watched if one.deadline_s != NEVER_S]
        for one in waiting:
            if one.deadline_s <= now_s:
                one.deadline_s = NEVER_S
                one.expire()
        if waiting:
            self.arm()
