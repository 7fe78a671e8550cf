"""One turn at the database: what a transaction knows while it runs, and what it leaves behind once committed."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from zlib import crc32

import msgspec

from ringpost.core import notes
from ringpost.core.message import Message
from ringpost.store.postgres.db import Db

# Only what isn't there is inserted: ON CONFLICT waits for whoever is just counting the messages of a queue.
_MAKE_QUEUE = (
    "WITH made AS (INSERT INTO ringpost.queue (name) SELECT name FROM unnest($1::text[]) name"
    " WHERE NOT EXISTS (SELECT 1 FROM ringpost.queue q WHERE q.name = name.name)"
    " ON CONFLICT DO NOTHING RETURNING no, name)"
    " SELECT no, name FROM made UNION SELECT no, name FROM ringpost.queue WHERE name = ANY($1)"
)
_LOCK = "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key"
_NOTES = "SELECT name, value FROM ringpost.note WHERE name = ANY($1)"
_EVENTS = (
    "SELECT name, value FROM ringpost.note n WHERE (lease_ms IS NULL OR lease_ms > ringpost.now_ms())"
    " AND EXISTS (SELECT 1 FROM unnest($1::text[]) p WHERE starts_with(n.name, p)) ORDER BY name"
)


Missed = dict[tuple[str, str], tuple[int, int]]
"""By event and queue, what a suspended subscription did not get: how many, and the first one's place in the log."""


class Queue(msgspec.Struct, gc=False):
    """A queue's number in the database, and where its checksums start."""

    no: int
    name: str
    seed: int


class Queues:
    """The queues of the store, by name and by number. A number never changes; one that was rolled back is forgotten."""

    def __init__(self) -> None:
        self.by_name: dict[str, Queue] = {}
        self.by_no: dict[int, Queue] = {}

    async def make(self, db: Db, names: Iterable[str]) -> None:
        """Know the queues of these names; makes those that are new."""
        missing = sorted({name for name in names if name not in self.by_name})
        while missing:
            for no, name in await db.fetch(_MAKE_QUEUE, missing):
                self._keep(no, name)
            # One that another process made at this moment is seen by the next statement.
            missing = [name for name in missing if name not in self.by_name]

    async def numbered(self, db: Db, no: int) -> Queue:
        queue = self.by_no.get(no)
        if queue is None:
            for found, name in await db.fetch("SELECT no, name FROM ringpost.queue"):
                self._keep(found, name)
            queue = self.by_no[no]
        return queue

    def copy(self) -> "Queues":
        """Give what is known now, for a transaction that may make more and be rolled back."""
        copied = Queues()
        copied.by_name.update(self.by_name)
        copied.by_no.update(self.by_no)
        return copied

    def forget(self) -> None:
        self.by_name.clear()
        self.by_no.clear()

    def _keep(self, no: int, name: str) -> None:
        self.by_name[name] = self.by_no[no] = Queue(no, name, crc32(name.encode()))


class Turn:
    """What one transaction works on. Made anew for each try, so that a roll-back leaves nothing behind.

    `again`: an earlier try may have been committed without its answer having come.
    """

    def __init__(self, db: Db, queues: Queues, *, again: bool = False) -> None:
        self.db = db
        self.queues = queues
        self.again = again
        self.letters: list[Message] = []  # what tells others of the ends that the store itself made
        self.rang: set[str] = set()  # queues with something new to claim
        self.touched: set[bytes] = set()  # ids that changed
        self.missed: Missed = {}
        # Row and fence of what the try before has settled, with all that belongs to it.
        self.settled_before: set[tuple[int, int]] = set()
        self._queue_notes: dict[str, notes.Queue] = {}
        self._locked: set[int] = set()

    async def lock(self, lines: Iterable[bytes]) -> None:
        """Keep everybody else out of these lines until the commit. Who waits for several waits in one order; so lines
        are locked before any row, and those that come later are few."""
        keys = {int.from_bytes(line[:8], "big", signed=True) for line in lines} - self._locked
        if keys:
            await self.db.fetch(_LOCK, sorted(keys))
            self._locked |= keys

    def miss(self, event: str, queue: str, at: int) -> None:
        """Remember that a suspended subscription did not get an event; `at`: its place in the log, 0: it has none."""
        count, first_at = self.missed.get((event, queue), (0, 0))
        self.missed[event, queue] = (count + 1, first_at or at)

    def mark(self) -> tuple[list[Message], set[str], set[bytes], Missed]:
        """Give what is to be remembered if a part of the turn is undone."""
        return list(self.letters), set(self.rang), set(self.touched), dict(self.missed)

    def reset(self, kept: tuple[list[Message], set[str], set[bytes], Missed]) -> None:
        """Forget what was undone."""
        self.letters, self.rang, self.touched, self.missed = kept
        self.queues.forget()

    async def put_letters(self, put: Callable[["Turn", list[Message], None], Awaitable[object]]) -> None:
        """Put what tells others of ends; those may end others in their turn."""
        while self.letters:
            letters, self.letters = self.letters, []
            await self.queues.make(self.db, [letter.queue for letter in letters])
            await put(self, letters, None)

    async def ring(self, numbers: Iterable[int]) -> None:
        for no in set(numbers):
            self.rang.add((await self.queues.numbered(self.db, no)).name)

    async def queue_notes(self, names: Iterable[str]) -> Mapping[str, notes.Queue]:
        """Give what is noted of queues: who hears of their dead, and whether a dead head halts its line."""
        missing = [name for name in set(names) if name not in self._queue_notes]
        if missing:
            rows = await self.db.fetch(_NOTES, [notes.queue(name) for name in missing])
            found: dict[str, bytes] = {row[0]: row[1] for row in rows}
            for name in missing:
                value = found.get(notes.queue(name))
                self._queue_notes[name] = notes.Queue() if value is None else notes.decode_queue(value)
        return self._queue_notes

    async def subscriptions(self, events: Iterable[str]) -> dict[str, dict[str, notes.Subscription]]:
        """Give who subscribes to events: for each by queue."""
        prefixes = {notes.subscription(event, ""): event for event in events}
        found: dict[str, dict[str, notes.Subscription]] = {event: {} for event in prefixes.values()}
        for name, value in await self.db.fetch(_EVENTS, list(prefixes)):
            for prefix, event in prefixes.items():
                if name.startswith(prefix):
                    found[event][name.removeprefix(prefix)] = notes.decode_subscription(value)
        return found


def columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Turn rows into the arrays that `unnest` makes rows of."""
    return [list(column) for column in zip(*rows, strict=True)]
