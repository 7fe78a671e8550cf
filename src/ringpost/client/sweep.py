"""One timer for all that wait; it rings for the earliest of them. A timer per call would cost a tenth of the call."""

import asyncio
from collections.abc import Callable
from typing import Protocol

SWEEP_S = 0.01
NEVER_S = float("inf")


class Earliest:
    """One timer for many instants of the loop's clock: it rings within 10 ms after the earliest that it was asked for,
    and never twice within 10 ms. Who still waits then asks again.

    `covered_s`: what isn't before this instant needs no asking. Callers on a hot path look there first.
    """

    __slots__ = ("_loop", "_ring", "_timer", "covered_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self.covered_s = NEVER_S

    def by(self, instant_s: float) -> None:
        """Ring within 10 ms after this instant, if not before."""
        if instant_s >= self.covered_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        at_s = max(instant_s, self._loop.time() + SWEEP_S)
        self._timer = self._loop.call_at(at_s, self.rings)
        self.covered_s = at_s - SWEEP_S

    def cancel(self) -> None:
        """Ring no more, unless asked again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.covered_s = NEVER_S

    def rings(self) -> None:
        self._timer = None
        self.covered_s = NEVER_S
        self._ring()


class Bounded(Protocol):
    """Something that may wait until an instant of the loop's clock; NEVER_S while it doesn't."""

    deadline_s: float

    def expire(self) -> None:
        """Take note that the time is over. `deadline_s` is NEVER_S by then."""
        ...


class Sweep:
    """Watches what may wait. Its timer runs only while something does: whoever sets a deadline asks `due` for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Bounded, None] = {}  # in the order in which they came: what is told first is no chance
        self.due = Earliest(loop, self._tell)

    def watch(self, one: Bounded) -> None:
        """Look at it from now on."""
        self._watched[one] = None

    def forget(self, one: Bounded) -> None:
        """Look at it no more."""
        self._watched.pop(one, None)

    def close(self) -> None:
        """Watch no longer."""
        self._watched.clear()
        self.due.cancel()

    def _tell(self) -> None:
        """Tell those whose time is over, and wait for the next."""
        now_s = self._loop.time()
        for one in [one for one in self._watched if one.deadline_s <= now_s]:
            if one.deadline_s <= now_s:  # else what was told before has ended it
                one.deadline_s = NEVER_S
                one.expire()
        self.due.by(min((one.deadline_s for one in self._watched), default=NEVER_S))
