"""The watchdog: the commonest bug of queues is no loss but a silent stall, so a worker looks whether it still works.

It judges by the claim's own predicate: something is ready, in a queue that is not paused, slots are free, and nothing
has been claimed for 30 s. Then the worker starts afresh; after the third time the process gives up, as a new one helps.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from ringpost.core import notes
from ringpost.store.port import Store

_LOG = logging.getLogger("ringpost.watchdog")
STALL_S = 30.0
_RESCUES_MAX = 3


class Watchdog:
    """Look every few seconds whether what could be claimed is claimed: `run()` is one task of a worker."""

    def __init__(
        self,
        store: Store,
        claimable: Callable[[], Mapping[str, float]],
        rescue: Callable[[], Awaitable[None]],
        give_up: Callable[[str], None],
        *,
        clock_s: Callable[[], float],
        stall_s: float = STALL_S,
    ) -> None:
        """`claimable` gives the queues that could be claimed from now, each with the instant of its last claim that
        gave something; `rescue` starts the worker afresh; `give_up` ends the process, with the reason."""
        self._store = store
        self._claimable = claimable
        self._rescue = rescue
        self._give_up = give_up
        self._clock_s = clock_s
        self._stall_s = stall_s
        self._since_s: dict[str, float] = {}  # queue → since when something is ready there and not taken
        self._failing_since_s: float | None = None
        self._rescues = 0
        self.stalled = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._stall_s / 3)
            await self.look()

    async def look(self) -> None:
        """Look once, and act if something has been left lying for too long."""
        reason = await self._stall()
        self.stalled = bool(reason)
        if not reason:
            if not self._since_s and self._failing_since_s is None:
                self._rescues = 0
            return
        if self._rescues >= _RESCUES_MAX:
            self._give_up(reason)
            return
        self._rescues += 1
        self._since_s.clear()
        self._failing_since_s = None
        _LOG.error("%s; starting afresh (%d of %d)", reason, self._rescues, _RESCUES_MAX)
        try:
            await self._rescue()
        except Exception:  # noqa: BLE001 (a border: the next look counts it)
            _LOG.exception("the worker could not start afresh")

    async def _stall(self) -> str:
        """Say what has stalled for too long, or nothing."""
        now_s = self._clock_s()
        try:
            async with asyncio.timeout(self._stall_s):
                left = await self._left_lying()
        except Exception as error:  # noqa: BLE001 (a border: a store that can't be asked is the stall itself)
            self._failing_since_s = now_s if self._failing_since_s is None else self._failing_since_s
            over = now_s - self._failing_since_s >= self._stall_s
            return f"the store has not answered for {now_s - self._failing_since_s:.0f} s ({error!r})" if over else ""
        self._failing_since_s = None
        self._since_s = {queue: max(self._since_s.get(queue, now_s), left[queue]) for queue in left}
        for queue, since_s in self._since_s.items():
            if now_s - since_s >= self._stall_s:
                return (
                    f"{queue} has had ready messages and free slots for {now_s - since_s:.0f} s, and none was claimed"
                )
        return ""

    async def _left_lying(self) -> dict[str, float]:
        """Give the queues where something is ready that could be claimed, each with the instant of its last claim."""
        claimable = self._claimable()
        if not claimable:
            return {}
        ready = {depth.queue for depth in await self._store.depths() if depth.ready}
        waiting = ready & claimable.keys()
        if not waiting:
            return {}
        paused = {note.name for note in await self._store.notes(notes.pause(""))}
        return {queue: claimable[queue] for queue in waiting if notes.pause(queue) not in paused}
