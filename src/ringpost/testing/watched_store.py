"""The harness's store: in memory, with a record of what was sent, and faults that make workers lose messages."""

from collections.abc import Callable, Sequence

from ringpost.core.life import Happening
from ringpost.core.message import Kind, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.memory.rows import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Put, Tended
from ringpost.testing.faults import Faults

_DEAD_HOLDER = 0  # holds what a worker had when it died; nobody renews it


class WatchedStore(MemoryStore):
    """Keep messages in memory, under faults. Everybody who holds a message is alive, unless a fault has killed him."""

    def __init__(self, settings: Settings, clock: Callable[[], int], faults: Faults) -> None:
        super().__init__(settings, clock)
        self._faults = faults
        self.sent: list[Message] = []
        self.published: list[Message] = []

    async def tend(self, limit: int = 1000) -> Tended:
        """Do upkeep. Time may have leapt over renewals, so whoever lives renews first."""
        lease_s = self._settings.lease_s
        for holder in {row.holder for row in self._rows.held()} - {_DEAD_HOLDER}:
            self.renew(holder, lease_s)
        return await super().tend(limit)

    def next_event_ms(self) -> int | None:
        """Give when upkeep has something to do next."""
        lapses = [row.lease_ms + 1 for row in self._rows.held() if row.holder == _DEAD_HOLDER]
        instants = [self._rows.next_due_ms(), self._rows.next_expiry_ms(), *lapses]
        return min((instant for instant in instants if instant is not None), default=None)

    def idle(self, queues: frozenset[str]) -> bool:
        """Say whether nothing is ready in the queues, and nothing runs but what a dead worker holds."""
        for row in self._rows:
            if row.state is State.READY and row.queue in queues and not self._faults.down(row.queue):
                return False
            if row.state is State.RUNNING and row.holder != _DEAD_HOLDER:
                return False
        return True

    def wake(self, queues: Sequence[str]) -> None:
        """Let workers look at the queues again. In the loop's thread only."""
        for queue in queues:
            self._alarm.ring_queue(queue)

    def dead(self) -> list[Row]:
        """Give the rows that are dead, in the order in which they were put."""
        return [row for row in self._rows if row.state is State.DEAD]

    def _put(self, message: Message, now_ms: int, *, limited: bool) -> Put:
        put = super()._put(message, now_ms, limited=limited)
        if not put.refused and not put.duplicate and message.kind is Kind.MESSAGE:
            (self.published if message.event else self.sent).append(message)
        return put

    def _paused(self, queue: str, now_ms: int) -> bool:
        return self._faults.down(queue) or super()._paused(queue, now_ms)

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        row = self._rows.get(settlement.delivery.ref)
        held = row is not None and row.state is State.RUNNING and row.fence == settlement.delivery.fence
        if row is None or not held or row.kind is Kind.CALL:
            return super()._settle(settlement, now_ms)
        if self._faults.crashes(row.queue):
            row.holder = _DEAD_HOLDER
            return False
        if self._faults.repeats(row.queue, row.id):
            row.losses += 1
            self._drop_hold(row)
            self._rows.watch_expiry(row)
            self._move(row, row.state, Happening.LEASE_END, State.READY)
            return False
        return super()._settle(settlement, now_ms)
