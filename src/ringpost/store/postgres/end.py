"""Ends that the store itself makes: expired, cancelled, lost, damaged. Of these, and of every death, it tells others in
the same commit."""

from collections.abc import Sequence

import msgspec

from ringpost.core import farewell
from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.message import Answer, Cause, Ended, Failure, State
from ringpost.store.postgres import line
from ringpost.store.postgres.db import Row
from ringpost.store.postgres.turn import Turn

AWAY = "m.state = 6"
WAITS = "m.state IN (2, 3, 4)"
OVERDUE = f"{WAITS} AND m.expires_ms <= ringpost.now_ms()"
LAPSED = "m.state = 5 AND m.lease_ms < ringpost.now_ms()"

# When an ended row may go: the dead wait for their operator.
PURGE_MS = f"t.ms + 1000::bigint * CASE WHEN $2::smallint = 14 THEN greatest(m.keep_s, {KEEP_DEAD_S}) ELSE m.keep_s END"
_END = (
    "WITH t AS MATERIALIZED (SELECT ringpost.now_ms() AS ms),"
    " ended AS (UPDATE ringpost.message m SET state = $2::smallint, cause = $3::smallint, settled_ms = t.ms,"
    " losses = m.losses + $4, purge_ms = {purge}, holder = 0 FROM t WHERE m.seq = ANY($1::bigint[]) AND {guard}"
    " RETURNING m.seq, m.queue, m.attempts, m.generation, m.line, m.size, m.kind),"
    " tallied AS (INSERT INTO ringpost.tally SELECT queue, 0, count(*), -count(*), -sum(size), sum(size) FROM ended"
    " WHERE kind = 2 GROUP BY queue)"
    " SELECT e.seq, l.id, e.queue, e.attempts, e.generation, l.headers, l.body, e.line FROM ended e"
    " JOIN ringpost.letter l ON l.seq = e.seq ORDER BY e.seq"
)
_GONE = (
    "WITH gone AS (DELETE FROM ringpost.message m WHERE m.seq = ANY($1::bigint[]) AND {guard}"
    " RETURNING m.seq, m.queue, m.state, m.kind, m.size, m.line),"
    " letters AS (DELETE FROM ringpost.letter l USING gone g WHERE l.seq = g.seq RETURNING l.seq, l.id),"
    " outcomes AS (DELETE FROM ringpost.outcome o USING gone g WHERE o.seq = g.seq),"
    " failures AS (DELETE FROM ringpost.failure f USING gone g WHERE f.seq = g.seq),"
    " progress AS (DELETE FROM ringpost.progress p USING gone g WHERE p.seq = g.seq),"
    " tallied AS (INSERT INTO ringpost.tally SELECT queue, 0, count(*) FILTER (WHERE state < 10),"
    " -count(*) FILTER (WHERE state < 10), -coalesce(sum(size) FILTER (WHERE state < 10), 0),"
    " -coalesce(sum(size) FILTER (WHERE state >= 10), 0) FROM gone WHERE kind = 2 GROUP BY queue)"
    " SELECT g.seq, l.id, g.state, g.line FROM gone g JOIN letters l ON l.seq = g.seq"
)
_TOLD = (
    "SELECT m.seq, l.id, m.queue, m.attempts, m.generation, l.headers, l.body, m.line FROM ringpost.message m"
    " JOIN ringpost.letter l ON l.seq = m.seq WHERE m.seq = ANY($1::bigint[]) ORDER BY m.seq"
)
_FAILURES = "SELECT seq, detail FROM ringpost.failure WHERE seq = ANY($1::bigint[])"
_decode_failure = msgspec.json.Decoder(Failure).decode


async def end(
    turn: Turn,
    rows: Sequence[int],
    to: State,
    cause: Cause,
    guard: str,
    *,
    losses: int = 0,
    answer: Answer | None = None,
) -> list[bytes]:
    """End those of the rows that still are as the guard says, wake who stands behind them, and stage what tells
    others, with the answer if another store gave one. Gives their ids."""
    if not rows:
        return []
    await turn.lock(await line.lines_of(turn, rows))
    sql = _END.format(purge=PURGE_MS, guard=guard)
    found = await turn.db.fetch(sql, rows, to, cause, losses)
    await leave_lines(turn, found, to)
    await _tell(turn, found, to, cause, answer)
    ids = [row[1] for row in found]
    turn.touched.update(ids)
    return ids


async def leave_lines(turn: Turn, found: Sequence[Row], to: State) -> None:
    """Take rows that have ended out of their lines, but for a dead one whose queue halts."""
    lined = [row for row in found if row[7] is not None]
    if lined and to is State.DEAD:
        names = {row[2]: (await turn.queues.numbered(turn.db, row[2])).name for row in lined}
        notes = await turn.queue_notes(names.values())
        lined = [row for row in lined if not notes[names[row[2]]].halt]
    await line.leave(turn, [row[0] for row in lined], [row[7] for row in lined])


async def tell_deaths(turn: Turn, rows: Sequence[int], cause: Cause) -> None:
    """Stage what tells others that rows are dead, which a worker has settled so in this turn."""
    await _tell(turn, await turn.db.fetch(_TOLD, rows), State.DEAD, cause)


async def _tell(turn: Turn, found: Sequence[Row], to: State, cause: Cause, answer: Answer | None = None) -> None:
    if not found:
        return
    names = {row[2]: (await turn.queues.numbered(turn.db, row[2])).name for row in found}
    notes = await turn.queue_notes(names.values())
    failures = await failures_of(turn, [row[0] for row in found])
    now_ms: int = (await turn.db.fetch("SELECT ringpost.now_ms()"))[0][0]
    for seq, id, queue, attempts, generation, headers, body, _ in found:
        ended = Ended(
            id=id,
            queue=names[queue],
            state=to,
            cause=cause,
            attempts=attempts,
            generation=generation,
            headers=headers,
            body=body,
            answer=answer,
            failures=failures.get(seq, []),
            failure_queue=notes[names[queue]].on_failure,
        )
        turn.letters += farewell.letters(ended, now_ms)


async def failures_of(turn: Turn, rows: Sequence[int]) -> dict[int, list[Failure]]:
    """Give the last failures of rows, the oldest first."""
    found: dict[int, list[Failure]] = {}
    for seq, detail in await turn.db.fetch(_FAILURES, rows):
        found.setdefault(seq, []).append(_decode_failure(detail))
    for failures in found.values():
        failures.sort(key=lambda failure: (failure.at_ms, failure.attempt))
    return found


async def remove(turn: Turn, rows: Sequence[int], guard: str) -> list[Row]:
    """Remove those of the rows that still are as the guard says, with all that hangs on them. Gives (seq, id, state,
    line) of each."""
    if not rows:
        return []
    await turn.lock(await line.lines_of(turn, rows))
    gone = await turn.db.fetch(_GONE.format(guard=guard), rows)
    lined = [row for row in gone if row[3] is not None]
    await line.leave(turn, [row[0] for row in lined], [row[3] for row in lined])
    turn.touched.update([row[1] for row in gone])
    return gone
