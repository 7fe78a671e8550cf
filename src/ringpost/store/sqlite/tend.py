"""Upkeep: one bounded step of what is due, overdue, lost, asleep, or kept long enough. Any process does it for all."""

from collections.abc import Mapping, Sequence

import msgspec

from ringpost.core import lease
from ringpost.core.message import Cause, Kind, State
from ringpost.store.port import Renewed, Tended
from ringpost.store.sqlite import end, line
from ringpost.store.sqlite.claim import next_due_s
from ringpost.store.sqlite.damage import agree
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.purge import Upkeep, purge
from ringpost.store.sqlite.rows import BASE, LEASE_SHIFT, decode_numbers, holder_code, seqs
from ringpost.store.sqlite.turn import Turn

_DUE = (
    "SELECT json_group_array(json_array(seq, queue, line IS NULL OR started_ms > 0)) FROM (SELECT * FROM"
    " ringpost_message WHERE state = 2 AND due_ms <= ?1 ORDER BY due_ms LIMIT ?2)"
)
_SET_STATE = "UPDATE ringpost_message SET state = ?1 WHERE seq IN (SELECT value FROM carray(?2))"
_OVERDUE = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM ringpost_message WHERE expires_ms IS NOT NULL"
    " AND state IN (2, 3, 4) AND expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2)"
)
_LAPSED = (
    "SELECT json_group_array(json_array(seq, queue, kind, losses, cancel_ms)) FROM (SELECT * FROM ringpost_message"
    " WHERE state = 5 AND lease_ms < ?1 LIMIT ?2)"
)
_ANY_LAPSED = "SELECT EXISTS (SELECT 1 FROM ringpost_message WHERE state = 5 AND lease_ms < ?1)"
_LOSE = (
    "UPDATE ringpost_message SET state = 4, losses = losses + 1 WHERE seq IN (SELECT value FROM carray(?1))"
    " AND state = 5 AND lease_ms < ?2"
)
_RENEW = "UPDATE ringpost_message SET lease_ms = ?1 WHERE state = 5 AND holder = ?2"
_CANCELLED = "SELECT json_group_array(seq) FROM ringpost_message WHERE state = 5 AND holder = ?1 AND cancel_ms > 0"
_IDS = "SELECT id FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1))"
_decode_due = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
_decode_lapsed = msgspec.json.Decoder(list[tuple[int, int, int, int, int]]).decode


def renew(turn: Turn, holder: int, lease_s: float) -> Renewed:
    """Lengthen the leases of a holder's rows, and tell which of them somebody asked to cancel."""
    lease_ms = turn.uptime_ms + round(lease_s * 1000) + LEASE_SHIFT
    turn.db.execute(_RENEW, (lease_ms, holder_code(holder)))
    held = turn.db.changes()
    found = first(turn.db, _CANCELLED, (holder_code(holder),)) if held else "[]"
    return Renewed(decode_numbers(found), held)


def tend(
    turn: Turn, upkeep: Upkeep, limit: int, holders: Mapping[int, float], *, sweep: bool, keep_bytes: int
) -> Tended:
    """Do one step of at most `limit` rows. `holders` are this process's own that are alive, with what is left of their
    leases; they are renewed before any lease is called lost. `sweep`: this process could write without a stall for
    long enough that the others had the time to renew."""
    done = Tended()
    if sweep:
        done.lost = _sweep(turn, limit, holders)
    done.due = _make_due(turn, limit - done.lost)
    done.expired = _expire(turn, limit - done.lost - done.due)
    done.woken = _repair(turn, upkeep)
    done.purged, more = purge(turn, upkeep, limit - done.lost - done.due - done.expired, keep_bytes)
    done.more = more or done.lost + done.due + done.expired >= limit
    done.next_due_s = next_due_s(turn)
    return done


def _make_due(turn: Turn, limit: int) -> int:
    """Let what is due be claimed. One that never ran joins its line now; a retrying head still has its place."""
    if limit <= 0:
        return 0
    rows = _decode_due(first(turn.db, _DUE, (turn.now_ms, limit)))
    agree(turn, [seq for seq, _, _ in rows], State.SCHEDULED)
    ready = [(seq, queue) for seq, queue, at_once in rows if at_once]
    waiting = [(seq, queue) for seq, queue, at_once in rows if not at_once]
    for state, group in ((State.READY, ready), (State.WAITING, waiting)):
        if group:
            turn.db.execute(_SET_STATE, (state, seqs([seq for seq, _ in group])))
            for _, queue in group:
                turn.tally(queue).count(State.SCHEDULED, -1)
                turn.tally(queue).count(state, 1)
    turn.rang.update(queue for _, queue in ready)
    if waiting:
        line.join(turn, [seq for seq, _ in waiting])
    return len(rows)


def _expire(turn: Turn, limit: int) -> int:
    if limit <= 0:
        return 0
    rows = decode_numbers(first(turn.db, _OVERDUE, (turn.now_ms, limit)))
    agree(turn, rows, State.SCHEDULED, State.WAITING, State.READY)
    end.end(turn, rows, State.EXPIRED, Cause.EXPIRED)
    return len(rows)


def _sweep(turn: Turn, limit: int, holders: Mapping[int, float]) -> int:
    """Take rows from holders that have stopped renewing."""
    now_ms = turn.uptime_ms + LEASE_SHIFT
    if not first(turn.db, _ANY_LAPSED, (now_ms,)):
        return 0
    for holder, lease_s in holders.items():
        renew(turn, holder, lease_s)
    rows = _decode_lapsed(first(turn.db, _LAPSED, (now_ms, limit)))
    agree(turn, [seq for seq, _, _, _, _ in rows], State.RUNNING)
    removed = [seq for seq, _, kind, _, _ in rows if kind == Kind.CALL]
    messages = [row for row in rows if row[2] != Kind.CALL]
    fates = {
        seq: lease.after_loss(losses - BASE + 1, cancel_asked=cancel_ms > 0, kind=Kind.MESSAGE)
        for seq, _, _, losses, cancel_ms in messages
    }
    cancelled = [seq for seq, fate in fates.items() if fate is State.CANCELLED]
    dead = [seq for seq, fate in fates.items() if fate is State.DEAD]
    back = [(seq, queue) for seq, queue, _, _, _ in messages if fates[seq] is State.READY]
    end.remove(turn, removed)
    end.end(turn, cancelled, State.CANCELLED, Cause.CANCELLED, losses=1)
    end.end(turn, dead, State.DEAD, Cause.WORKER_LOST, losses=1)
    if back:
        _give_back(turn, back, now_ms)
    return len(rows)


def _give_back(turn: Turn, rows: Sequence[tuple[int, int]], now_ms: int) -> None:
    numbers = [seq for seq, _ in rows]
    turn.db.execute(_LOSE, (seqs(numbers), now_ms))
    for _, queue in rows:
        turn.tally(queue).count(State.READY, 1)
        turn.rang.add(queue)
    if turn.watched:
        turn.ring([row[0] for row in turn.db.execute(_IDS, (seqs(numbers),)).fetchall()])


def _repair(turn: Turn, upkeep: Upkeep) -> int:
    """Look at a stretch of the lines; none should be asleep, and one that is would be so for ever."""
    woken, upkeep.line_at = line.repair(turn, upkeep.line_at, 100)
    return woken
