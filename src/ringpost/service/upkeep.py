"""Upkeep: any process that is attached to a store tends it for all services, in bounded steps, without memory.

What is due becomes ready, what is overdue expires, what a lost worker held is taken back, what is old is purged.
Several processes may do so at once: every step is a compare-and-set of the store.
"""

import asyncio
import logging
from collections.abc import Callable

from ringpost.client.world import REAL, World
from ringpost.core.lease import sweep_after_s
from ringpost.store.logged import log_error
from ringpost.store.port import Store

_LOG = logging.getLogger("ringpost.upkeep")
_PERIOD_S_MAX = 1.0
_RETRY_S = 1.0


class Upkeep:
    """Tend a store: `run()` is one task of a process. `found` is called when there may be something new to claim."""

    def __init__(self, store: Store, lease_s: float, found: Callable[[], None], world: World = REAL) -> None:
        self._store = store
        self._world = world
        # Others' leases are swept only by who could write without a break for a third of a lease: write twice in it.
        self._period_s = min(sweep_after_s(lease_s) / 2, _PERIOD_S_MAX)
        self._found = found
        self._alarm: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def due_in(self, delay_s: float) -> None:
        """Tend in so many seconds at the latest, as something falls due then."""
        if self._timer is None or self._alarm is None:
            return  # a step is being done; it learns by itself what is due next
        loop = self._alarm.get_loop()
        at_s = loop.time() + delay_s
        if at_s < self._timer.when():
            self._timer.cancel()
            self._timer = loop.call_at(at_s, _ring, self._alarm)

    async def run(self) -> None:
        """Tend until cancelled."""
        while True:
            try:
                pause_s = await self.step()
            except Exception as error:  # noqa: BLE001 (a border: whatever a store raises, it is tended again)
                log_error(_LOG, logging.WARNING, error, "the store could not be tended")
                pause_s = _RETRY_S
            await self._sleep(pause_s)

    async def step(self) -> float:
        """Do one bounded step; gives the seconds until the next one."""
        tended = await self._store.tend()
        if tended.due or tended.lost or tended.woken:
            self._found()
        if tended.more:
            return 0.0
        pause_s = self._period_s * (0.75 + self._world.chance() / 4)
        return pause_s if tended.next_due_s is None else min(pause_s, tended.next_due_s)

    async def _sleep(self, pause_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        self._timer = loop.call_later(pause_s, _ring, self._alarm)
        try:
            await self._alarm
        finally:
            self._timer.cancel()
            self._timer = self._alarm = None


def _ring(alarm: "asyncio.Future[None]") -> None:
    if not alarm.done():
        alarm.set_result(None)
