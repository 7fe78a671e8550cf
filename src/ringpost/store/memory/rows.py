"""The rows of the memory store and their indexes: what is ready, due, expiring, held, in line, and to be purged.

Heaps are cleaned lazily: an entry counts only while its row still is what the entry says. Nothing is decided here.
"""

from collections import defaultdict
from collections.abc import Iterator
from heapq import heappop, heappush

from msgspec import Struct

from ringpost.core.message import Kind, Priority, State
from ringpost.store.memory.row import Row


class Counts(Struct):
    """What a queue holds now (live rows and their bytes) and what passed through it ever."""

    live: int = 0
    live_bytes: int = 0
    puts: int = 0
    ends: int = 0


class Rows:
    """Every row by ref, id and dedup key, with an index for each question that the store asks."""

    def __init__(self) -> None:
        self._last_ref = 0
        self._by_ref: dict[int, Row] = {}
        self._by_id: dict[bytes, Row] = {}
        self._by_dedup: dict[bytes, Row] = {}
        self._ready: defaultdict[tuple[str, bool], list[tuple[Priority, int]]] = defaultdict(list)
        self._due: list[tuple[int, int]] = []
        self._expiring: list[tuple[int, int]] = []
        self._purging: list[tuple[int, int]] = []
        self._held: dict[int, Row] = {}
        self._heads: dict[bytes, int] = {}
        self._behind: defaultdict[bytes, list[int]] = defaultdict(list)
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        self.ended_bytes = 0

    def next_ref(self) -> int:
        self._last_ref += 1
        return self._last_ref

    def get(self, ref: int) -> Row | None:
        return self._by_ref.get(ref)

    def with_id(self, id: bytes) -> Row | None:
        return self._by_id.get(id)

    def with_dedup(self, dedup: bytes | None) -> Row | None:
        return None if dedup is None else self._by_dedup.get(dedup)

    def __iter__(self) -> Iterator[Row]:
        """Every row by rising ref: refs are given in order, and a dict keeps the order of insertion."""
        return iter(self._by_ref.values())

    def add(self, row: Row) -> None:
        self._by_ref[row.ref] = row
        self._by_id[row.id] = row
        if row.dedup is not None:
            self._by_dedup[row.dedup] = row
        if row.expires_ms is not None:
            heappush(self._expiring, (row.expires_ms, row.ref))
        if row.kind is Kind.MESSAGE:
            self._count_live(row, 1)
            self.counts[row.queue].puts += 1

    def remove(self, row: Row) -> None:
        del self._by_ref[row.ref]
        del self._by_id[row.id]
        if row.dedup is not None:
            del self._by_dedup[row.dedup]
        self._held.pop(row.ref, None)
        if row.state.terminal:
            self.ended_bytes -= row.bytes
        elif row.kind is Kind.MESSAGE:
            self._count_live(row, -1)

    def set_state(self, row: Row, state: State) -> None:
        """Move a row to a state and into that state's index."""
        if row.state.terminal and not state.terminal:
            self.ended_bytes -= row.bytes
            self._count_live(row, 1)
        row.state = state
        if state is State.RUNNING:
            self._held[row.ref] = row
        else:
            self._held.pop(row.ref, None)
        if state is State.READY:
            heappush(self._ready[row.queue, row.suspect], (row.priority, row.ref))
        elif state is State.SCHEDULED:
            heappush(self._due, (row.due_ms, row.ref))

    def set_ended(self, row: Row, state: State, purge_ms: int) -> None:
        self.set_state(row, state)
        self.ended_bytes += row.bytes
        row.purge_ms = purge_ms
        heappush(self._purging, (purge_ms, row.ref))
        if row.kind is Kind.MESSAGE:
            self._count_live(row, -1)
            self.counts[row.queue].ends += 1

    def _count_live(self, row: Row, step: int) -> None:
        counts = self.counts[row.queue]
        counts.live += step
        counts.live_bytes += step * row.bytes

    # --- what is next

    def pop_ready(self, queue: str, suspects: bool) -> Row | None:
        """Take the first ready row by (priority, ref); suspects only where they are allowed."""
        plain = self._first_ready((queue, False))
        doubtful = self._first_ready((queue, True)) if suspects else None
        if plain is None and doubtful is None:
            return None
        key = (queue, plain is None or (doubtful is not None and doubtful < plain))
        return self._by_ref[heappop(self._ready[key])[1]]

    def _first_ready(self, key: tuple[str, bool]) -> tuple[Priority, int] | None:
        heap = self._ready.get(key)
        while heap:
            row = self._by_ref.get(heap[0][1])
            if row is not None and row.state is State.READY and row.suspect is key[1]:
                return heap[0]
            heappop(heap)
        return None

    def pop_due(self, now_ms: int) -> Row | None:
        first = self.next_due_ms()
        if first is None or first > now_ms:
            return None
        return self._by_ref[heappop(self._due)[1]]

    def next_due_ms(self) -> int | None:
        while self._due:
            due_ms, ref = self._due[0]
            row = self._by_ref.get(ref)
            if row is not None and row.state is State.SCHEDULED and row.due_ms == due_ms:
                return due_ms
            heappop(self._due)
        return None

    def pop_expired(self, now_ms: int) -> Row | None:
        """Take a row that waits beyond its expiry. A running one is left alone, and looked at again when it returns."""
        while self._expiring and self._expiring[0][0] <= now_ms:
            row = self._by_ref.get(heappop(self._expiring)[1])
            if row is not None and row.state < State.RUNNING and row.overdue(now_ms):
                return row
        return None

    def next_expiry_ms(self) -> int | None:
        """Give when the next of those that wait expires."""
        while self._expiring:
            expires_ms, ref = self._expiring[0]
            row = self._by_ref.get(ref)
            if row is not None and row.state < State.RUNNING:
                return expires_ms
            heappop(self._expiring)
        return None

    def watch_expiry(self, row: Row) -> None:
        """Put a row that came back from running into the index of expiry again."""
        if row.expires_ms is not None:
            heappush(self._expiring, (row.expires_ms, row.ref))

    def pop_purgeable(self, now_ms: int) -> Row | None:
        while self._purging and self._purging[0][0] <= now_ms:
            purge_ms, ref = heappop(self._purging)
            row = self._by_ref.get(ref)
            if row is not None and row.state.terminal and row.purge_ms == purge_ms:
                return row
        return None

    def oldest_ended(self) -> Row | None:
        """Give what goes first where ended rows take too much room: the un-keyed before the keyed, dead ones never."""
        ended = [row for row in self._by_ref.values() if row.state.terminal and row.state is not State.DEAD]
        return min(ended, key=lambda row: (row.dedup is not None, row.settled_ms or 0, row.ref), default=None)

    def held(self) -> list[Row]:
        return list(self._held.values())

    # --- lines: one head, the others wait behind it

    def join_line(self, row: Row) -> bool:
        """Give a row its place in its line; True if it is the head."""
        if row.line is None:
            return True
        row.in_line = True
        if self._heads.setdefault(row.line, row.ref) == row.ref:
            return True
        heappush(self._behind[row.line], row.ref)
        return False

    def is_head(self, row: Row) -> bool:
        return row.line is not None and self._heads.get(row.line) == row.ref

    def head_of(self, line: bytes | None) -> Row | None:
        """Give who stands first in a line."""
        return None if line is None else self._by_ref.get(self._heads.get(line, 0))

    def leave_line(self, row: Row) -> Row | None:
        """Take a row out of its line; gives the row that is the head now, if the head has changed."""
        if row.line is None or not row.in_line:
            return None
        row.in_line = False
        if self._heads.get(row.line) != row.ref:
            return None
        del self._heads[row.line]
        heap = self._behind.get(row.line)
        while heap:
            waiting = self._by_ref.get(heappop(heap))
            if waiting is not None and waiting.state is State.WAITING:
                self._heads[row.line] = waiting.ref
                return waiting
        self._behind.pop(row.line, None)
        return None
