"""Reading: rows as records, and queues as operators see them. Short reads outside of any transaction."""

from collections.abc import Iterable, Sequence
from typing import Any

from ringpost.core import lease
from ringpost.core.message import Answer, Cause, Kind, Priority, Progress, Record, State
from ringpost.store.port import AUDITED_MAX, Audited, Depth, Filter
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.end import failures_of
from ringpost.store.sqlite.rows import BASE, NO_ANSWER, blobs, decode_numbers, seqs
from ringpost.store.sqlite.turn import Turn

COLUMNS = (
    "m.seq, m.id, q.name, m.kind, m.state, m.priority, m.cause, m.attempts, m.losses, m.generation, m.fence,"
    " m.created_ms, m.due_ms, m.started_ms, m.settled_ms, m.expires_ms, m.cancel_ms, m.keep_s, m.status"
)
BODIES = ", p.headers, p.body"
PAYLOAD = " JOIN ringpost_payload p ON p.seq = m.seq"
_BY_ID = (
    "SELECT {columns} FROM ringpost_message m JOIN ringpost_queue q ON q.no = m.queue{payload}"
    " WHERE m.id IN (SELECT value FROM carray(?1))"
)
_OUTCOME = "SELECT content_type, retry_after_s, processed, body FROM ringpost_outcome WHERE seq = ?"
_PROGRESS = "SELECT share, note, at_ms FROM ringpost_progress WHERE seq = ?"
_AUDIT = (  # no index: it is asked for one message at a time, by people
    "SELECT at_ms, coalesce(who, ''), what, coalesce(detail, '') FROM (SELECT rowid AS place, * FROM ringpost_audit"
    " WHERE id = ? ORDER BY rowid DESC LIMIT ?) ORDER BY place"
)
_QUEUES = "SELECT no, name, ready, waiting, scheduled, dead, puts, ends FROM ringpost_queue ORDER BY name"
_RUNNING = "SELECT queue, count(*) FROM ringpost_message WHERE state = 5 AND kind = 2 GROUP BY queue"
_OLDEST = (
    "SELECT min(created_ms) FROM (SELECT created_ms, min(seq) FROM ringpost_message"
    " WHERE queue = ?1 AND state = 4 AND priority = 2 UNION ALL SELECT created_ms, min(seq) FROM ringpost_message"
    " WHERE queue = ?1 AND state = 4 AND priority = 3 UNION ALL SELECT created_ms, min(seq) FROM ringpost_message"
    " WHERE queue = ?1 AND state = 4 AND priority = 4)"
)
_ANYTHING_READY = (
    "SELECT json_group_array(value) FROM carray(?1)"
    " WHERE EXISTS (SELECT 1 FROM ringpost_message WHERE queue = value AND state = 4 AND losses < ?2)"
)
_ENDED = "SELECT id FROM ringpost_message WHERE id IN (SELECT value FROM carray(?1)) AND state >= 10"
_OVERDUE = (
    "SELECT json_group_array(seq) FROM ringpost_message WHERE id IN (SELECT value FROM carray(?1))"
    " AND expires_ms <= ?2 AND state IN (2, 3, 4)"
)


def read(turn: Turn, ids: Sequence[bytes], bodies: bool) -> list[Record | None]:
    """Give the records of ids, None for one that isn't there."""
    if not ids:
        return []
    sql = _BY_ID.format(columns=COLUMNS + (BODIES if bodies else ""), payload=PAYLOAD if bodies else "")
    records = {row[1]: record_of(turn, row, bodies) for row in turn.db.execute(sql, (blobs(ids),)).fetchall()}
    return [records.get(id) for id in ids]


def overdue(turn: Turn, ids: Sequence[bytes]) -> list[int]:
    """Give the rows that have expired and don't say so yet."""
    if not ids:
        return []
    return decode_numbers(first(turn.db, _OVERDUE, (blobs(ids), turn.now_ms)))


def find(turn: Turn, filter: Filter) -> list[Record]:
    """Give a page of rows, by ascending ref."""
    where, bindings = ["m.seq > ?"], [filter.after]
    if filter.queue is not None:
        queue = turn.queues.named(filter.queue)
        if queue is None:
            return []
        where.append("m.queue = ?")
        bindings.append(queue.no)
    if filter.states:  # the literals let the partial indexes serve
        where.append(f"m.state IN ({', '.join(str(int(state)) for state in filter.states)})")
    if filter.kind is not None:
        where.append("m.kind = ?")
        bindings.append(filter.kind)
    columns, payload = (COLUMNS + BODIES, PAYLOAD) if filter.bodies else (COLUMNS, "")
    rows = turn.db.execute(
        f"SELECT {columns} FROM ringpost_message m JOIN ringpost_queue q ON q.no = m.queue{payload}"
        f" WHERE {' AND '.join(where)} ORDER BY m.seq LIMIT ?",
        (*bindings, filter.limit),
    ).fetchall()
    return [record_of(turn, row, filter.bodies) for row in rows]


def audit(turn: Turn, id: bytes) -> list[Audited]:
    """Give what was done with a message, the oldest first."""
    return [Audited(*row) for row in turn.db.execute(_AUDIT, (id, AUDITED_MAX)).fetchall()]


def depths(turn: Turn) -> list[Depth]:
    """Give every queue that ever had a message, by name, from counters; only what runs is counted."""
    running = dict(turn.db.execute(_RUNNING).fetchall())
    return [
        Depth(
            queue=name,
            ready=ready,
            running=running.get(no, 0),
            scheduled=scheduled,
            waiting=waiting,
            dead=dead,
            oldest_ms=first(turn.db, _OLDEST, (no,)) if ready else None,
            puts=puts,
            ends=ends,
        )
        for no, name, ready, waiting, scheduled, dead, puts, ends in turn.db.execute(_QUEUES).fetchall()
        if puts
    ]


def ready_of(turn: Turn, queues: Iterable[str]) -> frozenset[str]:
    """Give those of the queues that have something to claim now. Suspects don't count: who has had his fill of them
    would be woken for ever."""
    known = {
        queue.no: queue.name
        for name in queues
        if (queue := turn.queues.named(name)) is not None and not turn.look().paused(name, turn.uptime_ms)
    }
    if not known:
        return frozenset()
    found = decode_numbers(first(turn.db, _ANYTHING_READY, (seqs(known), lease.LOSSES_SUSPECT + BASE)))
    return frozenset(known[no] for no in found)


def ended_of(turn: Turn, ids: Iterable[bytes]) -> frozenset[bytes]:
    """Give those of the ids that have come to their end."""
    wanted = tuple(ids)
    return frozenset(row[0] for row in turn.db.execute(_ENDED, (blobs(wanted),)).fetchall()) if wanted else frozenset()


def record_of(turn: Turn, row: tuple[Any, ...], bodies: bool) -> Record:
    """Make a record of a row that has `COLUMNS`, and `BODIES` behind them."""
    (seq, id, queue, kind, state, priority, cause, attempts, losses, generation, fence) = row[:11]
    (created_ms, due_ms, started_ms, settled_ms, expires_ms, cancel_ms, keep_s, status) = row[11:19]
    return Record(
        ref=seq,
        id=id,
        queue=queue,
        kind=Kind(kind),
        state=State(state),
        priority=Priority(priority),
        cause=Cause(cause),
        attempts=attempts - BASE,
        losses=losses - BASE,
        generation=generation - 1,
        fence=fence,
        created_ms=created_ms,
        due_ms=due_ms,
        started_ms=started_ms if started_ms > 0 else None,
        settled_ms=settled_ms if settled_ms > 0 else None,
        expires_ms=expires_ms,
        cancel_asked=cancel_ms > 0,
        keep_s=keep_s,
        headers=row[19] if bodies else b"{}",
        body=row[20] if bodies else b"",
        answer=_answer(turn, seq, status),
        progress=_progress(turn, seq) if state == State.RUNNING else None,
        failures=failures_of(turn, seq) if attempts > BASE or losses > BASE or cause != Cause.NONE else [],
    )


def _answer(turn: Turn, seq: int, status: int) -> Answer | None:
    if status == NO_ANSWER:
        return None
    found = turn.db.execute(_OUTCOME, (seq,)).fetchall()
    if not found:
        return Answer(status)
    content_type, retry_after_s, processed, body = found[0]
    return Answer(status, body, content_type, retry_after_s, bool(processed))


def _progress(turn: Turn, seq: int) -> Progress | None:
    found = turn.db.execute(_PROGRESS, (seq,)).fetchall()
    return Progress(share=found[0][0], note=found[0][1], at_ms=found[0][2]) if found else None
