"""Purging: ended rows go when they have been kept long enough, without an index on any time.

Marks tell which sequence number each minute began with. A cursor for each length of keeping follows the marks at that
distance and deletes by ranges; one more goes round over all that is old, for those that ended late.
"""

from msgspec import Struct

from ringpost.store.sqlite import end, log
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import decode_numbers, decode_pairs, seqs
from ringpost.store.sqlite.turn import Turn

DEAD_KEEP_S = 30 * 86_400
_LOG_EVERY_MS = 10_000
_REST_MS_MAX = 600_000  # between two rounds; short ones rest a millisecond a row

_MARK = "INSERT OR IGNORE INTO ringpost_mark(minute, seq) VALUES (?, ?)"
_BEFORE = "SELECT seq FROM ringpost_mark WHERE minute <= ? ORDER BY minute DESC LIMIT 1"
_FORGET_MARKS = "DELETE FROM ringpost_mark WHERE minute < ?"
_CURSORS = "SELECT name, lag_s, seq FROM ringpost_cursor"
_SET_CURSOR = "INSERT OR REPLACE INTO ringpost_cursor(name, lag_s, seq) VALUES (?, ?, ?)"
_END_OF_STRETCH = (
    "SELECT json_group_array(json_array(c, last)) FROM (SELECT count(*) AS c, max(seq) AS last FROM (SELECT seq FROM"
    " ringpost_message WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3) HAVING count(*) > 0)"
)
_DONE = (
    "SELECT json_group_array(seq) FROM ringpost_message WHERE seq > ?1 AND seq <= ?2 AND state >= 10"
    " AND settled_ms + 1000 * iif(state = 14, max(keep_s, ?3), keep_s) < ?4"
)
_OLDEST = (
    "SELECT json_group_array(json_array(seq, size)) FROM (SELECT m.seq AS seq, length(headers) + length(body) AS size"
    " FROM ringpost_message m JOIN ringpost_payload p ON p.seq = m.seq WHERE m.seq > ?1"
    " AND state BETWEEN 10 AND 13 AND dedup IS NULL ORDER BY m.seq LIMIT ?2)"
)
_SIZES = (
    "SELECT json_group_array(json_array(queue, size)) FROM (SELECT queue, sum(length(headers) + length(body)) AS size"
    " FROM ringpost_message m JOIN ringpost_payload p ON p.seq = m.seq"
    " WHERE m.seq IN (SELECT value FROM carray(?1)) AND kind = 2 GROUP BY queue)"
)
_DEAD_ONES = "SELECT id, queue FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1)) AND state = 14"
_KEPT_BYTES = "SELECT ifnull(sum(kept), 0) FROM ringpost_queue"
_AUDIT = "INSERT INTO ringpost_audit(at_ms, who, what, id) VALUES (?, 'tend', 'purge', ?)"


class Upkeep(Struct):
    """Where this process's rounds have got to; nothing is lost when it starts again."""

    round_at: int = 0
    round_rows: int = 0
    rest_until_ms: int = 0
    thin_at: int = 0
    line_at: bytes = b""
    log_at_ms: int = 0  # when to look for events that are kept no longer


def mark(turn: Turn, keeps: set[int]) -> None:
    """Note where this minute began; with lengths of keeping not met before, a cursor for each."""
    turn.db.execute(_MARK, (turn.now_ms // 60_000, turn.base()))
    known = {name for name, _, _ in turn.db.execute(_CURSORS).fetchall()}
    for keep_s in keeps:
        if str(keep_s) not in known:
            turn.db.execute(_SET_CURSOR, (str(keep_s), keep_s, _until(turn, 0)))


def purge(turn: Turn, upkeep: Upkeep, limit: int, keep_bytes: int) -> tuple[int, bool]:
    """Remove rows whose time is over, looking at no more than `limit`; gives how many, and whether there is more."""
    if limit <= 0:
        return 0, True
    purged, more = 0, False
    if turn.now_ms >= upkeep.log_at_ms:
        more = log.purge(turn, limit) >= limit
        upkeep.log_at_ms = 0 if more else turn.now_ms + _LOG_EVERY_MS
    for name, lag_s, seq in turn.db.execute(_CURSORS).fetchall():
        looked, gone, left = _advance(turn, name, lag_s, seq, limit)
        limit -= looked
        purged += gone
        more = more or left
    if limit > 0:
        looked, gone = _go_round(turn, upkeep, limit)
        limit -= looked
        purged += gone
    excess = int(first(turn.db, _KEPT_BYTES)) - keep_bytes
    if limit > 0 and excess > 0:
        gone = _thin(turn, upkeep, limit, excess)
        purged += gone
        more = more or gone >= limit
    return purged, more


def _advance(turn: Turn, name: str, lag_s: int, seq: int, limit: int) -> tuple[int, int, bool]:
    """Move one cursor on; gives how many rows were looked at and purged, and whether the mark is further still."""
    until = _until(turn, lag_s)
    if until <= seq or limit <= 0:
        return 0, 0, until > seq
    looked, last = _stretch(turn, seq, until, limit)
    gone = _purge_range(turn, seq, last)
    turn.db.execute(_SET_CURSOR, (name, lag_s, last))
    return looked, gone, last < until


def _go_round(turn: Turn, upkeep: Upkeep, limit: int) -> tuple[int, int]:
    """Look at all rows again and again, a stretch each time: some end long after their neighbours."""
    if turn.now_ms < upkeep.rest_until_ms:
        return 0, 0
    looked, last = _stretch(turn, upkeep.round_at, turn.base(), limit)
    gone = _purge_range(turn, upkeep.round_at, last)
    upkeep.round_at = last
    upkeep.round_rows += looked
    if looked < limit:
        upkeep.rest_until_ms = turn.now_ms + min(upkeep.round_rows, _REST_MS_MAX)
        upkeep.round_at = upkeep.round_rows = 0
    return looked, gone


def _until(turn: Turn, lag_s: int) -> int:
    """Give the sequence number that all messages younger than a lag are above."""
    minute = (turn.now_ms - lag_s * 1000) // 60_000
    found = turn.db.execute(_BEFORE, (minute,)).fetchall()
    return found[0][0] if found else 0


def _stretch(turn: Turn, seq: int, until: int, limit: int) -> tuple[int, int]:
    found = decode_pairs(first(turn.db, _END_OF_STRETCH, (seq, until, limit)))
    if not found:
        return 0, until
    count, last = found[0]
    return count, last if count == limit else until


def _purge_range(turn: Turn, after: int, until: int) -> int:
    rows = decode_numbers(first(turn.db, _DONE, (after, until, DEAD_KEEP_S, turn.now_ms)))
    _delete(turn, rows)
    return len(rows)


def _thin(turn: Turn, upkeep: Upkeep, limit: int, excess: int) -> int:
    """Remove the oldest ended rows without a key, because the ended take more room than they may."""
    oldest = decode_pairs(first(turn.db, _OLDEST, (upkeep.thin_at, limit)))
    rows: list[int] = []
    for seq, size in oldest:
        if excess <= 0:
            break
        rows.append(seq)
        excess -= size
    _delete(turn, rows)
    upkeep.thin_at = rows[-1] if len(rows) == limit else 0
    return len(rows)


def _delete(turn: Turn, rows: list[int]) -> None:
    if not rows:
        return
    for queue, size in decode_pairs(first(turn.db, _SIZES, (seqs(rows),))):
        turn.tally(queue).kept -= size
    dead = turn.db.execute(_DEAD_ONES, (seqs(rows),)).fetchall()
    if dead:
        end.leave_lines(turn, rows)
    end.delete(turn, rows)
    for id, queue in dead:
        turn.db.execute(_AUDIT, (turn.now_ms, id))
        turn.tally(queue).dead -= 1
