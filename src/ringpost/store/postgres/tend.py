"""Upkeep: one bounded step of what is due, overdue, lost, asleep, or kept long enough. Any process does it for all.

Each part looks for rows, then changes those that still are as it found them; two processes at once only share the work.
"""

from collections.abc import Sequence

from msgspec import Struct

from ringpost.core import lease
from ringpost.core.message import Cause, Kind, State
from ringpost.store.port import Renewed, Tended
from ringpost.store.postgres import end, line, log
from ringpost.store.postgres.db import Db, Row
from ringpost.store.postgres.turn import Turn

_LINES_A_STEP = 200
_LOG_EVERY_MS = 10_000
RENEW = (
    "WITH own AS (UPDATE ringpost.message SET lease_ms = ringpost.now_ms() + $3"
    " WHERE state = 5 AND holder = $1 AND fence <= $2 RETURNING seq, cancel_ms)"
    " SELECT count(*), array_agg(seq) FILTER (WHERE cancel_ms IS NOT NULL),"
    " set_config('synchronous_commit', 'off', true) FROM own"
)
_DUE = (
    "SELECT seq, line, line IS NULL OR started_ms IS NOT NULL FROM ringpost.message"
    " WHERE state = 2 AND due_ms <= ringpost.now_ms() ORDER BY due_ms LIMIT $1"
)
_MAKE_DUE = (
    "UPDATE ringpost.message SET state = $2 WHERE seq = ANY(ARRAY(SELECT seq FROM ringpost.message"
    " WHERE seq = ANY($1::bigint[]) AND state = 2 AND due_ms <= ringpost.now_ms() ORDER BY seq FOR UPDATE SKIP LOCKED))"
    " AND state = 2 RETURNING seq, queue"
)
_OVERDUE = (
    "SELECT seq FROM ringpost.message WHERE expires_ms IS NOT NULL AND state IN (2, 3, 4)"
    " AND expires_ms <= ringpost.now_ms() ORDER BY expires_ms LIMIT $1"
)
_LAPSED = (
    "SELECT seq, kind, losses, cancel_ms IS NOT NULL FROM ringpost.message WHERE state = 5"
    " AND lease_ms < ringpost.now_ms() LIMIT $1"
)
# Rows that nobody has locked: who was late may be about to commit, and may have been stopped while it did.
_FREE = (
    f"SELECT m.seq FROM ringpost.message m WHERE m.seq = ANY($1::bigint[]) AND {end.LAPSED}"
    " ORDER BY m.seq FOR UPDATE SKIP LOCKED"
)
_LOSE = (
    "UPDATE ringpost.message m SET state = 4, losses = losses + 1, holder = 0 FROM ringpost.letter l"
    f" WHERE m.seq = ANY(ARRAY({_FREE})) AND l.seq = m.seq AND {end.LAPSED} RETURNING m.queue, l.id"
)
_PURGEABLE = (
    "SELECT seq FROM ringpost.message WHERE state >= 10 AND purge_ms < ringpost.now_ms()"
    " ORDER BY purge_ms, seq LIMIT $1"
)
_FOLD = (
    "WITH counted AS (DELETE FROM ringpost.tally WHERE ctid = ANY(ARRAY(SELECT ctid FROM ringpost.tally"
    " LIMIT 10000 FOR UPDATE SKIP LOCKED)) RETURNING *),"
    " sums AS (SELECT queue, sum(puts) AS puts, sum(ends) AS ends, sum(live) AS live, sum(bytes) AS bytes,"
    " sum(kept) AS kept FROM counted GROUP BY queue),"
    " mine AS (SELECT q.no FROM ringpost.queue q JOIN sums s ON s.queue = q.no ORDER BY q.no FOR UPDATE OF q)"
    " UPDATE ringpost.queue q SET puts = q.puts + s.puts, ends = q.ends + s.ends, live = q.live + s.live,"
    " bytes = q.bytes + s.bytes, kept = q.kept + s.kept FROM sums s, mine WHERE q.no = s.queue AND q.no = mine.no"
)
_NEXT_DUE = "SELECT min(due_ms) FROM ringpost.message WHERE state = 2"
_LOOK = (
    f"SELECT ringpost.now_ms(), ({_NEXT_DUE}),"
    " (SELECT min(expires_ms) FROM ringpost.message WHERE expires_ms IS NOT NULL AND state IN (2, 3, 4)),"
    " (SELECT min(lease_ms) FROM ringpost.message WHERE state = 5),"
    " (SELECT min(purge_ms) FROM ringpost.message WHERE state >= 10),"
    " (SELECT seq FROM ringpost.message WHERE state = 3 ORDER BY queue, seq LIMIT 1) IS NOT NULL,"
    " ((SELECT coalesce(sum(kept), 0) FROM ringpost.queue) + (SELECT coalesce(sum(kept), 0) FROM ringpost.tally))"
    "::bigint, EXISTS (SELECT 1 FROM ringpost.tally)"
)
_OLDEST = (
    "SELECT seq, size FROM ringpost.message WHERE state >= 10 AND state <> 14 AND NOT keyed"
    " ORDER BY purge_ms, seq LIMIT $1"
)
_DEAD_AUDIT = (
    "INSERT INTO ringpost.audit (at_ms, who, what, id) SELECT ringpost.now_ms(), 'tend', 'purge', id"
    " FROM unnest($1::bytea[]) id"
)


class Upkeep(Struct):
    """What this process knows from step to step; nothing is lost when it starts again.

    Leases are the server's time. Only who has seen that time go on without a gap for a third of a lease may call
    others' leases lost: after an outage, or a leap of the clock, holders get the time to renew first.
    """

    line_at: bytes = b""
    log_at_ms: int = 0  # when to look for events that are kept no longer
    seen_ms: int = 0
    since_ms: int = 0

    def may_sweep(self, now_ms: int, patience_ms: float) -> bool:
        """Take note of the server's time, and say whether it was seen for long enough."""
        if not 0 <= now_ms - self.seen_ms <= patience_ms:
            self.since_ms = now_ms
        self.seen_ms = now_ms
        return now_ms - self.since_ms >= patience_ms


async def renew(db: Db, holder: int, fence: int, lease_s: float) -> Renewed:
    """Lengthen the leases of a holder's rows, up to the last fence that it knows: what an answer that never came has
    given it would be held for ever."""
    held, cancel, _ = (await db.fetch(RENEW, holder, fence, round(lease_s * 1000)))[0]
    return Renewed(sorted(cancel or []), held)


async def tend(turn: Turn, upkeep: Upkeep, limit: int, *, lease_s: float, keep_bytes: int) -> Tended:
    """Do one step of at most `limit` rows; mostly there is nothing to do, and one look says so."""
    done = Tended()
    now_ms, due_ms, expires_ms, lease_ms, purge_ms, lined, kept, counted = (await turn.db.fetch(_LOOK))[0]
    if upkeep.may_sweep(now_ms, lease.sweep_after_s(lease_s) * 1000) and lease_ms is not None and lease_ms < now_ms:
        done.lost = await _sweep(turn, limit)
    if due_ms is not None and due_ms <= now_ms:
        done.due = await _make_due(turn, limit - done.lost)
        due_ms = (await turn.db.fetch(_NEXT_DUE))[0][0]
    if expires_ms is not None and expires_ms <= now_ms:
        done.expired = await _expire(turn, limit - done.lost - done.due)
    if lined:
        done.woken, upkeep.line_at = await line.repair(turn, upkeep.line_at, _LINES_A_STEP)
    if (purge_ms is not None and purge_ms < now_ms) or kept > keep_bytes:
        done.purged = await _purge(turn, limit - done.lost - done.due - done.expired, kept - keep_bytes)
    if counted:
        await turn.db.fetch(_FOLD)
    if now_ms >= upkeep.log_at_ms:
        full = await log.purge(turn, limit) >= limit
        upkeep.log_at_ms = 0 if full else now_ms + _LOG_EVERY_MS
    done.more = done.lost + done.due + done.expired + done.purged >= limit
    done.next_due_s = None if due_ms is None else max(due_ms - now_ms, 0) / 1000
    return done


async def _make_due(turn: Turn, limit: int) -> int:
    """Let what is due be claimed. One that never ran joins its line now; a retrying head still has its place."""
    if limit <= 0:
        return 0
    rows = await turn.db.fetch(_DUE, limit)
    at_once = [row[0] for row in rows if row[2]]
    waiting = {row[0]: row[1] for row in rows if not row[2]}
    done = 0
    if at_once:
        found = await turn.db.fetch(_MAKE_DUE, at_once, State.READY)
        await turn.ring([row[1] for row in found])
        done += len(found)
    if waiting:
        await turn.lock(waiting.values())
        found = await turn.db.fetch(_MAKE_DUE, list(waiting), State.WAITING)
        joined = sorted(row[0] for row in found)
        await line.join(turn, joined, [waiting[seq] for seq in joined])
        done += len(found)
    return done


async def _expire(turn: Turn, limit: int) -> int:
    if limit <= 0:
        return 0
    rows = [row[0] for row in await turn.db.fetch(_OVERDUE, limit)]
    return len(await end.end(turn, rows, State.EXPIRED, Cause.EXPIRED, end.OVERDUE))


async def _sweep(turn: Turn, limit: int) -> int:
    """Take rows from holders that have stopped renewing."""
    rows = await turn.db.fetch(_LAPSED, limit)
    if not rows:
        return 0
    fates = {row[0]: _fate(row) for row in rows}
    lapsed = end.LAPSED
    calls = [seq for seq, fate in fates.items() if fate is None]
    free = [row[0] for row in await turn.db.fetch(_FREE, calls)] if calls else []
    gone = await end.remove(turn, free, lapsed)
    lost = len(gone)
    for fate, cause in ((State.CANCELLED, Cause.CANCELLED), (State.DEAD, Cause.WORKER_LOST)):
        ended = [seq for seq, found in fates.items() if found is fate]
        lost += len(await end.end(turn, ended, fate, cause, lapsed, losses=1))
    back = await turn.db.fetch(_LOSE, [seq for seq, fate in fates.items() if fate is State.READY])
    await turn.ring([row[0] for row in back])
    turn.touched.update([row[1] for row in back])
    return lost + len(back)


def _fate(row: Row) -> State | None:
    _, kind, losses, cancel_asked = row
    return lease.after_loss(losses + 1, cancel_asked=cancel_asked, kind=Kind(kind))


async def _purge(turn: Turn, limit: int, excess: int) -> int:
    """Remove rows whose time is over; where the ended take more room than they may, the oldest without a key."""
    if limit <= 0:
        return 0
    rows = [row[0] for row in await turn.db.fetch(_PURGEABLE, limit)]
    purged = await _delete(turn, rows, "m.state >= 10 AND m.purge_ms < ringpost.now_ms()")
    if excess <= 0 or purged >= limit:
        return purged
    oldest: list[int] = []
    for seq, size in await turn.db.fetch(_OLDEST, limit - purged):
        if excess <= 0:
            break
        oldest.append(seq)
        excess -= size
    return purged + await _delete(turn, oldest, "m.state >= 10 AND m.state <> 14")


async def _delete(turn: Turn, rows: Sequence[int], guard: str) -> int:
    gone = await end.remove(turn, rows, guard)
    dead = [row[1] for row in gone if row[2] == State.DEAD]
    if dead:
        await turn.db.fetch(_DEAD_AUDIT, dead)
    return len(gone)
