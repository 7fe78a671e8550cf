"""One turn of the store thread: what a transaction knows while it runs, and what it leaves behind once committed."""

from collections.abc import Iterable

import msgspec

from ringpost.core.message import Message, State
from ringpost.store.sqlite.db import Db, first
from ringpost.store.sqlite.register import Register
from ringpost.store.sqlite.rows import crc_seed
from ringpost.store.sqlite.schema import last_seq


class Queue(msgspec.Struct, gc=False):
    """A queue's number in the file, and where its checksums start."""

    no: int
    name: str
    seed: int


class Queues:
    """The queues of the file, by name and by number. A number never changes; a rolled back one is forgotten."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._by_name: dict[str, Queue] = {}
        self._by_no: dict[int, Queue] = {}

    def named(self, name: str) -> Queue | None:
        return self._by_name.get(name) or self._look_up("name", name)

    def numbered(self, no: int) -> Queue:
        queue = self._by_no.get(no) or self._look_up("no", no)
        assert queue is not None, f"no queue {no}"
        return queue

    def make(self, name: str) -> Queue:
        """Give the queue of that name; makes it within the running transaction."""
        queue = self.named(name)
        if queue is not None:
            return queue
        self._db.execute(
            "INSERT INTO ringpost_queue(name, ready, waiting, scheduled, dead, bytes, puts, ends, kept)"
            " VALUES (?, 0, 0, 0, 0, 0, 0, 0, 0)",
            (name,),
        )
        return self._keep(Queue(self._db.last_insert_rowid(), name, crc_seed(name)))

    def forget(self) -> None:
        self._by_name.clear()
        self._by_no.clear()

    def _look_up(self, column: str, value: str | int) -> Queue | None:
        found = self._db.execute(f"SELECT no, name FROM ringpost_queue WHERE {column} = ?", (value,)).fetchall()
        return self._keep(Queue(found[0][0], found[0][1], crc_seed(found[0][1]))) if found else None

    def _keep(self, queue: Queue) -> Queue:
        self._by_name[queue.name] = self._by_no[queue.no] = queue
        return queue


class Tally:
    """How one queue's counters change in this turn."""

    __slots__ = ("bytes", "dead", "ends", "kept", "puts", "ready", "scheduled", "waiting")

    def __init__(self) -> None:
        self.ready = self.waiting = self.scheduled = self.dead = 0
        self.bytes = self.puts = self.ends = self.kept = 0

    def values(self) -> tuple[int, ...]:
        """Give the changes in the order of the columns."""
        return (
            self.ready,
            self.waiting,
            self.scheduled,
            self.dead,
            self.bytes,
            self.puts,
            self.ends,
            self.kept,
        )

    def end(self, rows: int, size: int) -> None:
        """Count rows that end, and their bytes."""
        self.ends += rows
        self.bytes -= size
        self.kept += size

    def count(self, state: int, by: int) -> None:
        """Count rows that enter a state, or leave it where `by` is negative."""
        if state == State.READY:
            self.ready += by
        elif state == State.WAITING:
            self.waiting += by
        elif state == State.SCHEDULED:
            self.scheduled += by
        elif state == State.DEAD:
            self.dead += by


class Turn:
    """What one transaction works on. Made anew for each try, so that a roll-back leaves nothing behind."""

    __slots__ = (
        "_base",
        "_looked",
        "_register",
        "_tallies",
        "careful",
        "db",
        "fence",
        "keeps",
        "letters",
        "missed",
        "now_ms",
        "over",
        "progressed",
        "queues",
        "rang",
        "seq",
        "touched",
        "uptime_ms",
        "watched",
    )

    def __init__(
        self,
        db: Db,
        queues: Queues,
        register: Register,
        now_ms: int,
        uptime_ms: int,
        fence: int,
        progressed: set[int],
    ) -> None:
        self.db = db
        self.queues = queues
        self._register = register
        self._looked = False
        self.now_ms = now_ms
        self.uptime_ms = uptime_ms
        self.fence = fence  # the latest known; a put writes it, so that the column has its width
        self.progressed = progressed  # rows of this process that have reported progress
        self.over: set[int] = set()  # those of them that need to be remembered no longer
        self.careful = False  # a fence was lost: look before each settlement
        self.watched = False  # somebody waits for ids
        self.rang: set[int] = set()  # numbers of queues with something new to claim
        self.touched: list[bytes] = []  # ids that changed, where somebody waits for ids
        self.missed: dict[tuple[str, str], tuple[int, int]] = {}  # what the suspended did not get: how many, the first
        self.letters: list[Message] = []  # what tells others of the ends that the store itself made
        self.keeps: set[int] = set()  # how long what was put is to be kept
        self.seq = 0  # the highest sequence number that this turn gave out
        self._base: int | None = None
        self._tallies: dict[int, Tally] = {}

    def base(self) -> int:
        """Give the highest sequence number from before this turn."""
        if self._base is None:
            self._base = last_seq(self.db)
        return self._base

    def look(self) -> Register:
        """Give the register, as the file has it in this turn."""
        if not self._looked:
            self._register.look()
            self._looked = True
        return self._register

    def announce(self) -> None:
        """Say that this turn changed a note that the register keeps."""
        self._register.forget()
        self._looked = False

    def next_fence(self) -> int:
        self.fence = int(
            first(self.db, "UPDATE ringpost_meta SET value = value + 1 WHERE key = 'fence' RETURNING value")
        )
        return self.fence

    def tally(self, queue: int) -> Tally:
        tally = self._tallies.get(queue)
        if tally is None:
            tally = self._tallies[queue] = Tally()
        return tally

    def ring(self, ids: Iterable[bytes]) -> None:
        """Remember that messages changed, for whoever waits for them."""
        if self.watched:
            self.touched += ids

    def miss(self, event: str, queue: str, at: int) -> None:
        """Remember that a suspended subscription did not get an event; `at`: its place in the log, 0: it has none."""
        count, first_at = self.missed.get((event, queue), (0, 0))
        self.missed[event, queue] = (count + 1, first_at or at)

    def write_tallies(self) -> None:
        for no, tally in self._tallies.items():
            self.db.execute(
                "UPDATE ringpost_queue SET ready = ready + ?, waiting = waiting + ?, scheduled = scheduled + ?,"
                " dead = dead + ?, bytes = bytes + ?, puts = puts + ?, ends = ends + ?, kept = kept + ? WHERE no = ?",
                (*tally.values(), no),
            )
