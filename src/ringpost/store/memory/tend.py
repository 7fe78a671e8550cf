"""Upkeep: leases, and one bounded step of what is lost, due, overdue, or kept long enough."""

from collections.abc import Callable

from ringpost.core import lease
from ringpost.core.life import Happening
from ringpost.core.message import Cause, State
from ringpost.store.memory import end
from ringpost.store.memory.claim import next_due_s
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Renewed, Tended


def renew(turn: Turn, holder: int, lease_s: float) -> Renewed:
    """Lengthen the leases of a holder's rows, and tell which of them somebody asked to cancel."""
    rows = [row for row in turn.rows.held() if row.holder == holder]
    for row in rows:
        row.lease_ms = turn.now_ms + round(lease_s * 1000)
    return Renewed([row.ref for row in rows if row.cancel_asked], len(rows))


def tend(turn: Turn, limit: int) -> Tended:
    """Do one step of at most `limit` rows."""
    done = Tended()
    lapsed = [row for row in turn.rows.held() if row.lease_ms < turn.now_ms][:limit]
    for row in lapsed:
        _lose(turn, row)
    done.lost = len(lapsed)
    done.due = _up_to(limit - done.lost, lambda: _make_due(turn))
    done.expired = _up_to(limit - done.lost - done.due, lambda: _expire(turn))
    done.purged = _up_to(limit - done.lost - done.due - done.expired, lambda: _purge(turn))
    _up_to(limit, lambda: turn.place.log.purge(turn.now_ms))
    done.more = done.lost + done.due + done.expired + done.purged >= limit
    done.next_due_s = next_due_s(turn)
    return done


def _up_to(limit: int, step: Callable[[], bool]) -> int:
    """Repeat a step until it finds nothing more to do; gives how often it did something, at most `limit`."""
    return next((done for done in range(max(limit, 0)) if not step()), max(limit, 0))


def _lose(turn: Turn, row: Row) -> None:
    """Take a row from a worker that is lost."""
    row.losses += 1
    match lease.after_loss(row.losses, cancel_asked=row.cancel_asked, kind=row.kind):
        case None:
            end.remove(turn, row)
        case State.CANCELLED:
            end.end(turn, row, Happening.LEASE_END, State.CANCELLED, Cause.CANCELLED)
        case State.DEAD:
            end.end(turn, row, Happening.LEASE_END, State.DEAD, Cause.WORKER_LOST)
        case back:
            row.drop_hold()
            turn.rows.watch_expiry(row)
            turn.step(row, row.state, Happening.LEASE_END, back)


def _make_due(turn: Turn) -> bool:
    row = turn.rows.pop_due(turn.now_ms)
    if row is None:
        return False
    ahead = row.in_line or turn.rows.join_line(row)
    turn.step(row, row.state, Happening.DUE, State.READY if ahead else State.WAITING)
    return True


def _expire(turn: Turn) -> bool:
    row = turn.rows.pop_expired(turn.now_ms)
    if row is not None:
        end.end(turn, row, Happening.EXPIRE, State.EXPIRED, Cause.EXPIRED)
    return row is not None


def _purge(turn: Turn) -> bool:
    row = turn.rows.pop_purgeable(turn.now_ms)
    if row is None and turn.rows.ended_bytes > turn.settings.keep_bytes:
        row = turn.rows.oldest_ended()
    if row is not None:
        end.remove(turn, row)
    return row is not None
