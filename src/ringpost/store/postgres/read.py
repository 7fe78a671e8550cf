"""Reading: rows as records, queues as operators see them, and the register of notes."""

from collections.abc import Iterable, Sequence

import msgspec

from ringpost.core import lease
from ringpost.core import notes as notes_of
from ringpost.core.message import Answer, Cause, Failure, Kind, Priority, Progress, Record, State
from ringpost.core.subscription import missed
from ringpost.store.port import AUDITED_MAX, Audited, Depth, Filter, Note
from ringpost.store.postgres.db import Db, Row
from ringpost.store.postgres.turn import Turn

RECORD = (
    "SELECT m.seq, l.id, q.name, m.kind, m.state, m.priority, m.cause, m.attempts, m.losses, m.generation, m.fence,"
    " m.created_ms, m.due_ms, m.started_ms, m.settled_ms, m.expires_ms, m.cancel_ms, m.keep_s, m.status,"
    " o.content_type, o.retry_after_s, o.processed, o.body, p.share, p.note, p.at_ms,"
    f" CASE WHEN m.attempts > 0 OR m.losses > 0 OR m.cause <> {Cause.NONE}"
    " THEN ARRAY(SELECT f.detail FROM ringpost.failure f WHERE f.seq = m.seq) END{bodies}"
    " FROM ringpost.message m JOIN ringpost.letter l ON l.seq = m.seq JOIN ringpost.queue q ON q.no = m.queue"
    " LEFT JOIN ringpost.outcome o ON o.seq = m.seq AND m.status IS NOT NULL"
    " LEFT JOIN ringpost.progress p ON p.seq = m.seq AND m.state = 5"
)
_LIGHT, _WHOLE = RECORD.format(bodies=""), RECORD.format(bodies=", l.headers, l.body")
_BY_ID = " WHERE l.id = ANY($1::bytea[])"
_OVERDUE = (
    "SELECT m.seq FROM ringpost.message m JOIN ringpost.letter l ON l.seq = m.seq WHERE l.id = ANY($1::bytea[])"
    " AND m.expires_ms <= ringpost.now_ms() AND m.state IN (2, 3, 4)"
)
_TOTALS = (
    "SELECT q.no, q.name, (q.puts + coalesce(t.puts, 0))::bigint, (q.ends + coalesce(t.ends, 0))::bigint"
    " FROM ringpost.queue q LEFT JOIN (SELECT queue, sum(puts) AS puts, sum(ends) AS ends FROM ringpost.tally"
    " GROUP BY queue) t ON t.queue = q.no"
)
_AUDIT = (  # no index: it is asked for one message at a time, by people; what is of one instant is in its place
    "SELECT at_ms, coalesce(who, ''), what, coalesce(detail, '') FROM ringpost.audit WHERE id = $1"
    " ORDER BY at_ms DESC, ctid DESC LIMIT $2"
)
_STATES = " UNION ALL ".join(  # each by the index of its state
    f"SELECT queue, {state}, count(*) FROM ringpost.message WHERE state = {state} AND kind = 2 GROUP BY queue"
    for state in (2, 3, 4, 5, 14)
)
_OLDEST = (
    "SELECT q.no, (SELECT min(o.created_ms) FROM unnest(ARRAY[2, 3, 4]) p CROSS JOIN LATERAL (SELECT m.created_ms FROM"
    " ringpost.message m WHERE m.queue = q.no AND m.state = 4 AND m.priority = p ORDER BY m.seq LIMIT 1) o)"
    " FROM ringpost.queue q WHERE q.no = ANY($1::int[])"
)
DEPTHS = (
    "SELECT q.no, (q.live + coalesce(t.live, 0))::bigint, (q.bytes + coalesce(t.bytes, 0))::bigint"
    " FROM ringpost.queue q LEFT JOIN"
    " (SELECT queue, sum(live) AS live, sum(bytes) AS bytes FROM ringpost.tally WHERE queue = ANY($1::int[])"
    " GROUP BY queue) t ON t.queue = q.no WHERE q.no = ANY($1::int[])"
)
_READY = (  # in their order: EXISTS would read the table where others have much
    "SELECT q.name FROM ringpost.queue q WHERE q.name = ANY($1::text[])"
    " AND (SELECT m.seq FROM ringpost.message m WHERE m.queue = q.no AND m.state = 4 AND m.losses < $2"
    " ORDER BY m.priority, m.seq LIMIT 1) IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM ringpost.note n WHERE n.name = 'pause/' || q.name"
    " AND (n.lease_ms IS NULL OR n.lease_ms > ringpost.now_ms()))"
)
_ENDED = (
    "SELECT l.id FROM ringpost.letter l JOIN ringpost.message m ON m.seq = l.seq WHERE l.id = ANY($1::bytea[])"
    " AND m.state >= 10"
)
_ALIVE = "(lease_ms IS NULL OR lease_ms > ringpost.now_ms())"
_NOTES = (
    "SELECT name, value, version, (lease_ms - ringpost.now_ms()) / 1000.0::float8 FROM ringpost.note"
    f" WHERE starts_with(name, $1) AND {_ALIVE} ORDER BY name"
)
_NOTE = f"SELECT version, {_ALIVE}, value FROM ringpost.note WHERE name = $1 FOR UPDATE"
_NOTE_PUT = (
    "INSERT INTO ringpost.note (name, version, lease_ms, value) VALUES ($1, $2, ringpost.now_ms() + $3, $4)"
    " ON CONFLICT (name) DO UPDATE SET version = excluded.version, lease_ms = excluded.lease_ms, value = excluded.value"
)
_NOTE_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 77))"
_NOTE_DROP = f"DELETE FROM ringpost.note WHERE name = $1 RETURNING {_ALIVE}"
_GAP = "UPDATE ringpost.note SET value = $2, version = version + 1 WHERE name = $1"
_decode_failure = msgspec.json.Decoder(Failure).decode


async def read(db: Db, ids: Sequence[bytes], bodies: bool) -> list[Record | None]:
    """Give the records of ids, None for one that isn't there."""
    found = await db.fetch((_WHOLE if bodies else _LIGHT) + _BY_ID, list(ids))
    records = {row[1]: record_of(row, bodies) for row in found}
    return [records.get(id) for id in ids]


async def overdue(db: Db, ids: Sequence[bytes]) -> list[int]:
    """Give the rows that have expired and don't say so yet."""
    return [row[0] for row in await db.fetch(_OVERDUE, list(ids))]


async def find(db: Db, filter: Filter) -> list[Record]:
    """Give a page of rows, by ascending ref."""
    where, values = ["m.seq > $1"], list[object]((filter.after,))
    if filter.queue is not None:
        values.append(filter.queue)
        where.append(f"m.queue = (SELECT no FROM ringpost.queue WHERE name = ${len(values)})")
    if filter.states:  # literals let the partial indexes serve
        where.append(f"m.state IN ({', '.join(str(int(state)) for state in filter.states)})")
    if filter.kind is not None:
        where.append(f"m.kind = {int(filter.kind)}")
    values.append(filter.limit)
    sql = f"{_WHOLE if filter.bodies else _LIGHT} WHERE {' AND '.join(where)} ORDER BY m.seq LIMIT ${len(values)}"
    return [record_of(row, filter.bodies) for row in await db.fetch(sql, *values)]


async def audit(db: Db, id: bytes) -> list[Audited]:
    """Give what was done with a message, the oldest first."""
    return [Audited(*row) for row in reversed(await db.fetch(_AUDIT, id, AUDITED_MAX))]


async def depths(db: Db) -> list[Depth]:
    """Give every queue that ever had a message, by name: what came and went from counters, what is there counted."""
    totals = [row for row in await db.fetch(_TOTALS) if row[2]]
    counts = {(row[0], row[1]): row[2] for row in await db.fetch(_STATES)}
    ready = [row[0] for row in totals if (row[0], State.READY) in counts]
    oldest: dict[int, int] = {row[0]: row[1] for row in await db.fetch(_OLDEST, ready)} if ready else {}
    found = [
        Depth(
            queue=name,
            ready=counts.get((no, State.READY), 0),
            running=counts.get((no, State.RUNNING), 0),
            scheduled=counts.get((no, State.SCHEDULED), 0),
            waiting=counts.get((no, State.WAITING), 0),
            dead=counts.get((no, State.DEAD), 0),
            oldest_ms=oldest.get(no),
            puts=puts,
            ends=ends,
        )
        for no, name, puts, ends in totals
    ]
    return sorted(found, key=lambda depth: depth.queue)


async def ready_of(db: Db, queues: Iterable[str]) -> frozenset[str]:
    """Give those of the queues that have something to claim now. Suspects don't count: who has had his fill of them
    would be woken for ever."""
    wanted = list(queues)
    found = await db.fetch(_READY, wanted, lease.LOSSES_SUSPECT) if wanted else []
    return frozenset(row[0] for row in found)


async def ended_of(db: Db, ids: Iterable[bytes]) -> frozenset[bytes]:
    """Give those of the ids that have come to their end."""
    wanted = list(ids)
    return frozenset(row[0] for row in await db.fetch(_ENDED, wanted)) if wanted else frozenset()


def record_of(row: Row, bodies: bool) -> Record:
    """Make a record of a row of `RECORD`, read with bodies or without."""
    (seq, id, queue, kind, state, priority, cause, attempts, losses, generation, fence) = row[:11]
    (created_ms, due_ms, started_ms, settled_ms, expires_ms, cancel_ms, keep_s, status) = row[11:19]
    failures = [_decode_failure(detail) for detail in row[26] or ()]
    return Record(
        ref=seq,
        id=id,
        queue=queue,
        kind=Kind(kind),
        state=State(state),
        priority=Priority(priority),
        cause=Cause(cause),
        attempts=attempts,
        losses=losses,
        generation=generation,
        fence=fence,
        created_ms=created_ms,
        due_ms=due_ms,
        started_ms=started_ms,
        settled_ms=settled_ms,
        expires_ms=expires_ms,
        cancel_asked=cancel_ms is not None,
        keep_s=keep_s,
        headers=row[27] if bodies else b"{}",
        body=row[28] if bodies else b"",
        answer=_answer(status, row[19:23]),
        progress=Progress(share=row[23], note=row[24], at_ms=row[25]) if row[25] is not None else None,
        failures=sorted(failures, key=lambda failure: (failure.at_ms, failure.attempt)),
    )


def _answer(status: int | None, outcome: Row) -> Answer | None:
    if status is None:
        return None
    content_type, retry_after_s, processed, body = outcome
    return Answer(status) if content_type is None else Answer(status, body, content_type, retry_after_s, processed)


# --- notes


async def notes(db: Db, prefix: str) -> list[Note]:
    """Give the notes whose names begin so and whose leases have not ended; `lease_s` is what remains."""
    return [Note(*row) for row in await db.fetch(_NOTES, prefix)]


async def note_put(turn: Turn, note: Note, expect: int | None) -> bool:
    """Write a note; with `expect` only if its version is that. A note whose lease has ended counts as version 0."""
    await turn.db.fetch(_NOTE_LOCK, note.name)  # there may be no row yet to lock
    found = await turn.db.fetch(_NOTE, note.name)
    last, alive, value = found[0] if found else (0, False, None)
    if expect is not None and expect != (last if alive else 0):
        # An earlier try may have written it after all.
        return turn.again and alive and value == note.value and last == expect + 1
    lease_ms = None if note.lease_s is None else round(note.lease_s * 1000)
    await turn.db.fetch(_NOTE_PUT, note.name, last + 1, lease_ms, note.value)
    return True


async def note_drop(turn: Turn, name: str) -> bool:
    """Remove a note; True if it was there and its lease had not ended."""
    found = await turn.db.fetch(_NOTE_DROP, name)
    paused = name.removeprefix(notes_of.PAUSE)
    if paused != name:
        turn.rang.add(paused)
    return bool(found) and bool(found[0][0])


async def count_gaps(turn: Turn) -> None:
    """Write down what suspended subscriptions missed in this turn."""
    for (event, queue), (count, at) in sorted(turn.missed.items()):
        name = notes_of.subscription(event, queue)
        found = await turn.db.fetch(
            "SELECT value, ringpost.now_ms() FROM ringpost.note WHERE name = $1 FOR UPDATE", name
        )
        if found:
            after = missed(notes_of.decode_subscription(found[0][0]), count, at, found[0][1])
            await turn.db.fetch(_GAP, name, notes_of.encode(after))
