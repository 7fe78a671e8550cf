"""The harness's store: in memory, with a record of what was sent, and faults that make workers lose messages."""

from collections.abc import Callable, Sequence

from ringpost.core.life import Happening
from ringpost.core.message import Kind, Message, State
from ringpost.settings import Settings
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Tended
from ringpost.testing.faults import Faults

_DEAD_HOLDER = 0  # holds what a worker had when it died; nobody renews it


class WatchedStore(MemoryStore):
    """Keep messages in memory, under faults. Everybody who holds a message is alive, unless a fault has killed him."""

    def __init__(self, settings: Settings, clock: Callable[[], int], faults: Faults) -> None:
        watch = _Watch(faults)
        super().__init__(settings, clock, watch)
        self._lease_s = settings.lease_s
        self._faults = faults
        self.sent = watch.sent
        self.published = watch.published

    async def tend(self, limit: int = 1000) -> Tended:
        """Do upkeep. Time may have leapt over renewals, so whoever lives renews first."""
        for holder in {row.holder for row in self.place.rows.held()} - {_DEAD_HOLDER}:
            self.renew(holder, self._lease_s)
        return await super().tend(limit)

    def next_event_ms(self) -> int | None:
        """Give when upkeep has something to do next."""
        rows = self.place.rows
        lapses = [row.lease_ms + 1 for row in rows.held() if row.holder == _DEAD_HOLDER]
        instants = [rows.next_due_ms(), rows.next_expiry_ms(), *lapses]
        return min((instant for instant in instants if instant is not None), default=None)

    def idle(self, queues: frozenset[str]) -> bool:
        """Say whether nothing is ready in the queues, and nothing runs but what a dead worker holds."""
        for row in self.place.rows:
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
        return [row for row in self.place.rows if row.state is State.DEAD]


class _Watch:
    """Remembers what came, and lets the faults happen."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.sent: list[Message] = []
        self.published: list[Message] = []

    def stored(self, message: Message) -> None:
        if message.kind is Kind.MESSAGE:
            (self.published if message.event else self.sent).append(message)

    def stops(self, queue: str) -> bool:
        return self._faults.down(queue)

    def loses(self, turn: Turn, row: Row) -> bool:
        """Let the worker die, so that its lease has to lapse, or be too late for its lease, so that all comes again."""
        if row.kind is Kind.CALL:
            return False
        if self._faults.crashes(row.queue):
            row.holder = _DEAD_HOLDER
            return True
        if self._faults.repeats(row.queue, row.id):
            row.losses += 1
            row.drop_hold()
            turn.rows.watch_expiry(row)
            turn.step(row, row.state, Happening.LEASE_END, State.READY)
            return True
        return False
