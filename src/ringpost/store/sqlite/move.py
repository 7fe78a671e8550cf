"""Moving: rows as they are into another store, those of another store in here, and out of here without an end."""

from collections.abc import Sequence
from typing import Any

from ringpost.core import notes as notes_of
from ringpost.core.arrival import Stands, arrives
from ringpost.core.message import Answer, Kind, State
from ringpost.store.port import Exported, Note, Passage, Put, untouched
from ringpost.store.sqlite import end, line, notes
from ringpost.store.sqlite.read import BODIES, COLUMNS, PAYLOAD, record_of
from ringpost.store.sqlite.rows import (
    BASE,
    HEADS,
    NO_ANSWER,
    WAITS,
    Known,
    crc_of,
    holder_code,
    known_by_dedup,
    known_by_id,
    seqs,
)
from ringpost.store.sqlite.settle import FAILURES_KEPT, keep_answer, keep_failure
from ringpost.store.sqlite.turn import Queue, Turn

_HEADS = f"EXISTS (SELECT 1 FROM ringpost_line l WHERE l.line = m.line AND l.place = {HEADS} AND l.seq = m.seq)"
_BEHIND_WHO_RUNS = (
    "m.state IN (2, 3, 4) AND m.line IS NOT NULL AND EXISTS (SELECT 1 FROM ringpost_line l"
    f" JOIN ringpost_message h ON h.seq = l.seq WHERE l.line = m.line AND l.place = {HEADS} AND h.state = 5)"
)
_EXPORT = (
    f"SELECT {COLUMNS}{BODIES}, m.line, m.dedup, m.digest, m.caller, {_HEADS}, m.crc FROM ringpost_message m"
    f" JOIN ringpost_queue q ON q.no = m.queue{PAYLOAD} WHERE m.seq > ? AND m.state IN ({{states}})"
    f" AND m.state <> 5 AND NOT ({_BEHIND_WHO_RUNS}) ORDER BY m.seq LIMIT ?"
)
_INSERT = (
    "INSERT INTO ringpost_message(id, queue, kind, state, priority, due_ms, fence, holder, lease_ms, attempts, losses,"
    " generation, keep_s, created_ms, started_ms, settled_ms, cancel_ms, cause, status, expires_ms, line, dedup,"
    f" digest, caller, crc) VALUES ({', '.join(['?'] * 25)})"
)
_PAYLOAD = "INSERT INTO ringpost_payload(seq, headers, body) VALUES (?, ?, ?)"
_STAND = "INSERT INTO ringpost_line(line, place, seq) VALUES (?, ?, ?)"
_NOW = "SELECT seq, state, fence, generation FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1))"
_NOTE = "SELECT value FROM ringpost_note WHERE name = ?"
_AUDIT = "INSERT INTO ringpost_audit(at_ms, who, what, id, detail) VALUES (?, ?, 'move', ?, ?)"
_PLACES: dict[Stands, int] = {"first": HEADS, "behind": WAITS}
_NO_DIGEST = bytes(16)
_JSON = "application/json"


def export(turn: Turn, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
    """Give a page of rows with all that hangs on them."""
    sql = _EXPORT.format(states=", ".join(str(int(state)) for state in states))
    return [_exported(turn, row) for row in turn.db.execute(sql, (after, limit)).fetchall()]


def _exported(turn: Turn, row: tuple[Any, ...]) -> Exported:
    record = record_of(turn, row, bodies=True)
    key, dedup, digest, caller, heads, crc = row[21:]
    queue = turn.queues.named(record.queue)
    assert queue is not None
    sound = crc == crc_of(queue.seed, record.id, record.headers, record.body)
    return Exported(record, key, dedup, None if digest == _NO_DIGEST else digest, caller, bool(heads), sound)


def take_in(turn: Turn, rows: Sequence[Exported], passage: Passage) -> list[Put]:
    """Keep rows of another store, and note which came."""
    if not rows:
        return []
    arriving = _Arriving(turn, rows, passage)
    answers = [arriving.put(row) for row in rows]
    arriving.note(answers)
    return answers


class _Arriving:
    """A batch on its way in."""

    def __init__(self, turn: Turn, rows: Sequence[Exported], passage: Passage) -> None:
        self._turn = turn
        self._passage = passage
        self._known = known_by_id(turn.db, [row.record.id for row in rows])
        keys = [row.dedup for row in rows if row.dedup is not None]
        self._keyed = known_by_dedup(turn.db, keys) if keys else {}
        lines = {row.line for row in rows if row.line is not None}
        self._occupied = line.taken(turn, lines) if lines else set[bytes]()
        found = turn.db.execute(_NOTE, (notes_of.arrived(passage.source),)).fetchall()
        self._before = notes_of.decode_arrived(found[0][0] if found else b"").of(passage.move)

    def put(self, row: Exported) -> Put:
        record = row.record
        queue = self._turn.queues.make(record.queue)
        known = self._known.get(record.id)
        if known is not None:
            same = crc_of(queue.seed, record.id, record.headers, record.body) == bytes.fromhex(known.crc)
            return Put(record.id, duplicate=True, state=State(known.state), refused="" if same else "mismatch")
        if record.id.hex() in self._before:
            return Put(record.id, duplicate=True)
        if not row.sound:
            return Put(record.id, refused="mismatch")
        taken = None if row.dedup is None else self._keyed.get(row.dedup)
        if taken is not None:
            return _key_taken(taken)
        self._insert(row, queue)
        return Put(record.id)

    def _insert(self, row: Exported, queue: Queue) -> None:
        turn, record = self._turn, row.record
        state: State
        stands: Stands
        state, stands = record.state, ""
        if row.line is not None:
            state, stands = arrives(record.state, heads=row.heads, free=row.line not in self._occupied)
        turn.db.execute(_INSERT, _columns(turn, row, state, queue))
        seq = turn.db.last_insert_rowid()
        turn.seq = max(turn.seq, seq)
        turn.keeps.add(record.keep_s)
        turn.db.execute(_PAYLOAD, (seq, record.headers, record.body))
        if stands:
            assert row.line is not None
            turn.db.execute(_STAND, (row.line, _PLACES[stands], seq))
            self._occupied.add(row.line)
        if record.answer is not None and _more_than_its_status(record.answer):
            keep_answer(turn.db, seq, record.answer)
        for age, failure in enumerate(reversed(record.failures)):  # where the next ones will be kept, the oldest first
            keep_failure(turn.db, seq, (record.attempts - age) % FAILURES_KEPT, failure)
        if state is State.DEAD:
            turn.db.execute(_AUDIT, (turn.now_ms, self._passage.who, record.id, f"from store {self._passage.source}"))
        if record.kind is Kind.MESSAGE:
            _count(turn, queue.no, state, len(record.headers) + len(record.body))

    def note(self, answers: Sequence[Put]) -> None:
        came = notes_of.came(self._passage.move, [put.id for put in answers if not put.refused], self._before)
        notes.put(self._turn, Note(notes_of.arrived(self._passage.source), notes_of.encode(came)), None)


def take_out(turn: Turn, rows: Sequence[Exported], passage: Passage) -> list[bool]:
    """Remove those of the rows that are as they were exported."""
    if not rows:
        return []
    found = turn.db.execute(_NOW, (seqs([row.record.ref for row in rows]),)).fetchall()
    now = {seq: (State(state), fence, generation - 1) for seq, state, fence, generation in found}
    answers = [(there := now.get(row.record.ref)) is None or untouched(row.record, *there) for row in rows]
    gone = [row.record for row, done in zip(rows, answers, strict=True) if done and row.record.ref in now]
    end.remove(turn, [record.ref for record in gone])
    for record in gone:
        if record.state is State.DEAD:
            turn.db.execute(_AUDIT, (turn.now_ms, passage.who, record.id, f"to store {passage.target}"))
    return answers


def _columns(turn: Turn, row: Exported, state: State, queue: Queue) -> tuple[Any, ...]:
    record, now_ms = row.record, turn.now_ms
    unknown_ms = -record.created_ms  # as wide as an instant
    return (
        record.id, queue.no, record.kind, state, record.priority, record.due_ms, turn.fence, holder_code(0), now_ms,
        record.attempts + BASE, record.losses + BASE, record.generation + 1, record.keep_s, record.created_ms,
        record.started_ms or unknown_ms, record.settled_ms or unknown_ms, now_ms if record.cancel_asked else unknown_ms,
        record.cause, NO_ANSWER if record.answer is None else record.answer.status, record.expires_ms, row.line,
        row.dedup, _digest(row), row.caller, crc_of(queue.seed, record.id, record.headers, record.body),
    )  # fmt: skip


def _digest(row: Exported) -> bytes | None:
    return None if row.dedup is None else row.digest or _NO_DIGEST


def _count(turn: Turn, queue: int, state: State, size: int) -> None:
    tally = turn.tally(queue)
    tally.puts += 1
    tally.count(state, 1)
    if state.terminal:
        tally.ends += 1
        tally.kept += size
    else:
        tally.bytes += size
    if state is State.READY:
        turn.rang.add(queue)


def _key_taken(known: Known) -> Put:
    return Put(bytes.fromhex(known.id), duplicate=True, state=State(known.state), refused="key_reused")


def _more_than_its_status(answer: Answer) -> bool:
    return bool(answer.body) or answer.retry_after_s is not None or answer.content_type != _JSON
