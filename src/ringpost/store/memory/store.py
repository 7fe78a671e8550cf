"""The store in memory: the whole port, with nothing on a disk. Tests and the harness run on it.

It is the port's plainest reading: one lock, one row object a delivery, and the table of `core/life.py` at every step.
Here is the port's side: each method opens a turn (`turn.py`) and asks a room, named as those of the other stores.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from ringpost.contract.errors import UsageError
from ringpost.core.message import Message, Record, Settlement, State
from ringpost.settings import Settings
from ringpost.store.log import Logged
from ringpost.store.memory import catch_up, change, claim, move, move_log, notes, put, read, settle, tend
from ringpost.store.memory.alarm import Alarm
from ringpost.store.memory.place import Place
from ringpost.store.memory.turn import Turns, Watcher
from ringpost.store.port import (
    Audited,
    CaughtUp,
    Changed,
    Claimed,
    Depth,
    Exported,
    Facts,
    Filter,
    Note,
    Order,
    Passage,
    Put,
    Renewed,
    SqlTransaction,
    Tended,
    Woken,
)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryStore:
    """Keep messages in this process only: level `buffered`, gone when the process ends.

    `clock` gives Unix milliseconds. Whoever opens it has asked for it by name (`memory:`), so it opens whatever
    durability the settings ask for; its receipts say `buffered`. One event loop may use it; `renew` any thread.
    `watcher` is for tests: it hears of what is put, and may come between the store and its workers.
    """

    def __init__(
        self, settings: Settings | None = None, clock: Callable[[], int] = wall_ms, watcher: Watcher | None = None
    ) -> None:
        self.place = Place()
        self._alarm = Alarm()
        self._turns = Turns(self.place, self._alarm, settings or Settings(), clock, watcher)
        self.facts = Facts(
            store_id=secrets.token_hex(8),
            level="buffered",
            capabilities=frozenset({"lines", "priority", "find", "delay", "move"}),
            url="memory:",
        )

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts:
        """Give the facts. There is nothing to create or to lose; repeating it is harmless."""
        return self.facts

    async def close(self) -> None:
        """Wake every waiter and refuse whatever comes after; the rows are gone. Repeating it is harmless."""
        self._turns.close()
        self._alarm.ring_all()

    # --- the port

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        """Keep messages. Repeating it with the same ids changes nothing."""
        with self._turns as turn:
            return put.put_all(turn, messages)

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        """Settle, then claim."""
        with self._turns as turn:
            settled = settle.settle_all(turn, settlements)
            deliveries = claim.claim(turn, want, holder, lease_s, suspects)
            return Claimed(deliveries, settled, claim.next_due_s(turn))

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Settle, one bool each: False where the fence was lost."""
        with self._turns as turn:
            return settle.settle_all(turn, settlements)

    def begin(self, where: Callable[[], str], *, alone: bool = False) -> SqlTransaction:
        """Raise UsageError: there are no tables."""
        raise UsageError("the memory store runs no SQL: use a store with tables, as sqlite:///ringpost.db")

    def renew(self, holder: int, lease_s: float) -> Renewed:
        """Lengthen a holder's leases."""
        with self._turns as turn:
            return tend.renew(turn, holder, lease_s)

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        """Carry out orders, each by itself."""
        with self._turns as turn:
            return [change.obey(turn, order) for order in orders]

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        """Read rows by id. What has expired meanwhile is marked so first."""
        with self._turns as turn:
            return read.read(turn, ids, bodies)

    async def find(self, filter: Filter, /) -> list[Record]:
        """Give a page of rows, by ascending `ref`."""
        with self._turns as turn:
            return read.find(turn, filter)

    async def audit(self, id: bytes) -> list[Audited]:
        """Give what was done with a message, the oldest first."""
        with self._turns as turn:
            return read.audit(turn, id)

    async def depths(self) -> list[Depth]:
        """Give the queues that ever had a message, by name."""
        with self._turns as turn:
            return read.depths(turn)

    async def tend(self, limit: int = 1000) -> Tended:
        """Do one bounded step of upkeep."""
        with self._turns as turn:
            return tend.tend(turn, limit)

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        """Give a subscription that is behind one step of what the log has for it."""
        with self._turns as turn:
            return catch_up.catch_up(turn, event, queue, limit)

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        """Write a note."""
        with self._turns as turn:
            return notes.put(turn, note, expect)

    async def note_drop(self, name: str) -> bool:
        """Remove a note; True if it was there."""
        with self._turns as turn:
            return notes.drop(turn, name)

    async def notes(self, prefix: str = "") -> list[Note]:
        """Give the notes whose names begin so."""
        with self._turns as turn:
            return notes.notes(turn, prefix)

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait for work in the queues or a change of the ids. Returns at once if a queue has work that its last claim
        left behind, or an id has ended already: nothing is missed between a claim or a read and this."""
        with self._turns as turn:
            ended = read.ended(turn, ids)
        return Woken(ids=ended) if ended else await self._alarm.wait(queues, ids, timeout_s)

    # --- moving

    async def export(self, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
        """Give a page of rows with all that hangs on them, by ascending `ref`."""
        with self._turns as turn:
            return move.export(turn, states, after, limit)

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        """Keep rows of another store as they were there."""
        with self._turns as turn:
            return move.take_in(turn, rows, passage)

    async def take_out(self, rows: Sequence[Exported], passage: Passage) -> list[bool]:
        """Remove rows that nobody has touched since they were exported, without telling anybody of an end."""
        with self._turns as turn:
            return move.take_out(turn, rows, passage)

    async def export_log(self, event: str, after: int, limit: int) -> list[Logged]:
        """Give a page of an event's log."""
        with self._turns as turn:
            return move_log.export(turn, event, after, limit)

    async def take_in_log(self, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
        """Keep entries as they were in another store's log."""
        with self._turns as turn:
            return move_log.take_in(turn, event, entries, passage)

    async def take_out_log(self, event: str, entries: Sequence[Logged]) -> None:
        """Remove entries."""
        with self._turns as turn:
            move_log.take_out(turn, entries)

    async def has_log(self, event: str) -> bool:
        """Say whether the log of an event has anything."""
        with self._turns as turn:
            return not turn.place.log.ends_at(event, 0)
