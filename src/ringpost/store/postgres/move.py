"""Moving: rows as they are into another store, those of another store in here, and out of here without an end."""

from collections.abc import Sequence
from zlib import crc32

import msgspec

from ringpost.core import notes
from ringpost.core.arrival import Stands, arrives
from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.message import Answer, Record, State
from ringpost.store.port import Exported, Note, Passage, Put, untouched
from ringpost.store.postgres import end, line, read, settle
from ringpost.store.postgres.db import Db, Row
from ringpost.store.postgres.turn import Turn, columns

_HEADS = "EXISTS (SELECT 1 FROM ringpost.line n WHERE n.line = m.line AND n.place = 2 AND n.seq = m.seq)"
_BEHIND_WHO_RUNS = (
    "m.state IN (2, 3, 4) AND m.line IS NOT NULL AND EXISTS (SELECT 1 FROM ringpost.line n"
    " JOIN ringpost.message h ON h.seq = n.seq WHERE n.line = m.line AND n.place = 2 AND h.state = 5)"
)
_EXPORT = (
    read.RECORD.format(bodies=f", l.headers, l.body, m.line, l.dedup, l.digest, l.caller, {_HEADS}, l.crc")
    + " WHERE m.seq > $1 AND m.state IN ({states}) AND m.state <> 5"
    + f" AND NOT ({_BEHIND_WHO_RUNS}) ORDER BY m.seq LIMIT $2"
)
# Arrays of one row each. Where two come with one key, the second one finds it taken.
_INSERT = f"""
WITH given AS MATERIALIZED (
  SELECT * FROM unnest($1::bytea[], $2::int[], $3::smallint[], $4::smallint[], $5::smallint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::int[], $10::bytea[], $11::bytea[], $12::bytea[], $13::text[], $14::bigint[],
    $15::bytea[], $16::bytea[], $17::int[], $18::int[], $19::int[], $20::smallint[], $21::smallint[], $22::bigint[],
    $23::bigint[], $24::bool[], $25::smallint[]) WITH ORDINALITY
  AS g(id, queue, kind, state, priority, due_ms, created_ms, expires_ms, keep_s, line, dedup, digest, caller, crc,
    headers, body, attempts, losses, generation, cause, status, started_ms, settled_ms, cancel_asked, stands, place)
),
kept AS (
  INSERT INTO ringpost.letter (id, dedup, digest, caller, crc, headers, body)
  SELECT id, dedup, digest, caller, crc, headers, body FROM given ORDER BY place
  ON CONFLICT DO NOTHING RETURNING seq, id
),
put AS (
  INSERT INTO ringpost.message (seq, queue, kind, state, priority, due_ms, created_ms, expires_ms, keep_s, keyed, line,
    size, attempts, losses, generation, cause, status, started_ms, settled_ms, cancel_ms, purge_ms)
  SELECT k.seq, g.queue, g.kind, g.state, g.priority, g.due_ms, g.created_ms, g.expires_ms, g.keep_s,
    g.dedup IS NOT NULL, g.line, octet_length(g.headers) + octet_length(g.body), g.attempts, g.losses, g.generation,
    g.cause, g.status, g.started_ms, g.settled_ms, CASE WHEN g.cancel_asked THEN ringpost.now_ms() END,
    CASE WHEN g.state = 14 THEN g.settled_ms + 1000::bigint * greatest(g.keep_s, {KEEP_DEAD_S})
      WHEN g.state >= 10 THEN g.settled_ms + 1000::bigint * g.keep_s END
  FROM kept k JOIN given g ON g.id = k.id
  RETURNING seq, queue, kind, state, size
),
lined AS (
  INSERT INTO ringpost.line (line, place, seq)
  SELECT g.line, g.stands, k.seq FROM kept k JOIN given g ON g.id = k.id WHERE g.stands > 0
),
tallied AS (
  INSERT INTO ringpost.tally SELECT queue, count(*), count(*) FILTER (WHERE state >= 10),
    count(*) FILTER (WHERE state < 10), coalesce(sum(size) FILTER (WHERE state < 10), 0),
    coalesce(sum(size) FILTER (WHERE state >= 10), 0) FROM put WHERE kind = 2 GROUP BY queue
)
SELECT k.id, k.seq, p.queue, p.state FROM kept k JOIN put p ON p.seq = k.seq
"""
_OUTCOMES = (
    "INSERT INTO ringpost.outcome (seq, content_type, retry_after_s, processed, body)"
    " SELECT * FROM unnest($1::bigint[], $2::text[], $3::float8[], $4::bool[], $5::bytea[])"
)
_FAILURES = (
    "INSERT INTO ringpost.failure (seq, slot, detail) SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bytea[])"
)
_KNOWN = (
    "SELECT l.id, l.dedup, l.crc, m.state FROM ringpost.letter l JOIN ringpost.message m ON m.seq = l.seq"
    " WHERE l.id = ANY($1::bytea[]) OR l.dedup = ANY($2::bytea[])"
)
_NOW = (
    "SELECT seq, state, fence, generation FROM ringpost.message WHERE seq = ANY($1::bigint[]) ORDER BY seq FOR UPDATE"
)
_NOTE = "SELECT value FROM ringpost.note WHERE name = $1"
_AUDIT = (
    "INSERT INTO ringpost.audit (at_ms, who, what, id, detail)"
    " SELECT ringpost.now_ms(), $1, 'move', id, $3 FROM unnest($2::bytea[]) id"
)
_PLACES: dict[Stands, int] = {"": 0, "first": 2, "behind": 3}
_JSON = "application/json"
_encode = msgspec.json.Encoder().encode


async def export(db: Db, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
    """Give a page of rows with all that hangs on them."""
    sql = _EXPORT.format(states=", ".join(str(int(state)) for state in states))
    return [_exported(row) for row in await db.fetch(sql, after, limit)]


def _exported(row: Row) -> Exported:
    record = read.record_of(row, bodies=True)
    key, dedup, digest, caller, heads, crc = row[29:]
    return Exported(record, key, dedup, digest, caller, heads, crc == _crc_of(record))


async def take_in(turn: Turn, rows: Sequence[Exported], passage: Passage) -> list[Put]:
    """Keep rows of another store, and note which came."""
    await turn.queues.make(turn.db, [row.record.queue for row in rows])
    lines = {row.line for row in rows if row.line is not None}
    await turn.lock(lines)
    found = await turn.db.fetch(_NOTE, notes.arrived(passage.source))
    before = notes.decode_arrived(found[0][0] if found else b"").of(passage.move)
    known = await _known(turn, rows)
    answers = {row.record.id: put for row in rows if (put := _answer(row, known, before)) is not None}
    fresh = [row for row in rows if row.record.id not in answers]
    if fresh:
        kept = await _insert(turn, fresh, await line.taken(turn, lines) if lines else set(), passage)
        answers |= {id: Put(id) for id in kept}
    puts = [answers.get(row.record.id) or Put(row.record.id, refused="key_reused") for row in rows]
    came = notes.came(passage.move, [put.id for put in puts if not put.refused], before)
    await read.note_put(turn, Note(notes.arrived(passage.source), notes.encode(came)), None)
    return puts


async def _known(turn: Turn, rows: Sequence[Exported]) -> dict[bytes, Row]:
    """Give what is here of these ids and keys, by both."""
    ids, keys = [row.record.id for row in rows], [row.dedup for row in rows if row.dedup is not None]
    found = await turn.db.fetch(_KNOWN, ids, keys)
    return {row[1]: row for row in found if row[1] is not None} | {row[0]: row for row in found}


def _answer(row: Exported, known: dict[bytes, Row], before: frozenset[str]) -> Put | None:
    """Answer for a row that can't be inserted; None: it can."""
    record = row.record
    there = known.get(record.id)
    if there is not None:
        same = there[2] == _crc_of(record)
        return Put(record.id, duplicate=True, state=State(there[3]), refused="" if same else "mismatch")
    if record.id.hex() in before:
        return Put(record.id, duplicate=True)
    if not row.sound:
        return Put(record.id, refused="mismatch")
    taken = None if row.dedup is None else known.get(row.dedup)
    return None if taken is None else Put(taken[0], duplicate=True, state=State(taken[3]), refused="key_reused")


async def _insert(turn: Turn, rows: Sequence[Exported], occupied: set[bytes], passage: Passage) -> dict[bytes, int]:
    """Insert rows in their order, with what hangs on them; gives where they are, by id."""
    given = [_values(turn, row, occupied) for row in rows]
    seqs: dict[bytes, int] = {}
    dead: list[bytes] = []
    for id, seq, queue, state in await turn.db.fetch(_INSERT, *columns(given)):
        seqs[id] = seq
        if state == State.READY:
            await turn.ring([queue])
        elif state == State.DEAD:
            dead.append(id)
    records = [row.record for row in rows if row.record.id in seqs]
    outcomes = [_outcome(seqs[one.id], one.answer) for one in records if one.answer is not None]
    if outcomes:
        await turn.db.fetch(_OUTCOMES, *columns(outcomes))
    failures = [failure for one in records for failure in _failures(seqs[one.id], one)]
    if failures:
        await turn.db.fetch(_FAILURES, *columns(failures))
    if dead:
        await turn.db.fetch(_AUDIT, passage.who, dead, f"from store {passage.source}")
    return seqs


def _values(turn: Turn, row: Exported, occupied: set[bytes]) -> tuple[object, ...]:
    record = row.record
    state: State
    stands: Stands
    state, stands = record.state, ""
    if row.line is not None:
        state, stands = arrives(record.state, heads=row.heads, free=row.line not in occupied)
        if stands:
            occupied.add(row.line)
    return (
        record.id,
        turn.queues.by_name[record.queue].no,
        record.kind,
        state,
        record.priority,
        record.due_ms,
        record.created_ms,
        record.expires_ms,
        record.keep_s,
        row.line,
        row.dedup,
        None if row.dedup is None else row.digest,
        row.caller,
        _crc_of(record),
        record.headers,
        record.body,
        record.attempts,
        record.losses,
        record.generation,
        record.cause,
        None if record.answer is None else record.answer.status,
        record.started_ms,
        record.settled_ms,
        record.cancel_asked,
        _PLACES[stands],
    )


def _outcome(seq: int, answer: Answer) -> tuple[object, ...]:
    return seq, answer.content_type, answer.retry_after_s, answer.processed, answer.body


def _failures(seq: int, record: Record) -> list[tuple[object, ...]]:
    """Give the failures of a row where the next ones will be kept, the oldest first."""
    return [
        (seq, (record.attempts - age) % settle.FAILURES_KEPT, _encode(failure))
        for age, failure in enumerate(reversed(record.failures))
    ]


async def take_out(turn: Turn, rows: Sequence[Exported], passage: Passage) -> list[bool]:
    """Remove those of the rows that are as they were exported."""
    refs = [row.record.ref for row in rows]
    await turn.lock(await line.lines_of(turn, refs))
    now = {row[0]: (State(row[1]), row[2], row[3]) for row in await turn.db.fetch(_NOW, refs)}
    answers = [(there := now.get(row.record.ref)) is None or untouched(row.record, *there) for row in rows]
    gone = [row.record for row, done in zip(rows, answers, strict=True) if done and row.record.ref in now]
    await end.remove(turn, [record.ref for record in gone], "m.state <> 5")
    dead = [record.id for record in gone if record.state is State.DEAD]
    if dead:
        await turn.db.fetch(_AUDIT, passage.who, dead, f"to store {passage.target}")
    return answers


def _crc_of(record: Record) -> int:
    """Give the checksum as `put` does."""
    return crc32(record.body, crc32(record.headers, crc32(record.id, crc32(record.queue.encode()))))
