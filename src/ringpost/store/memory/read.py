"""Reading: rows as records, and queues as operators see them."""

from collections.abc import Iterable, Sequence
from itertools import islice

from ringpost.core.life import Happening
from ringpost.core.message import Cause, Kind, Record, State
from ringpost.store.memory import end
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn
from ringpost.store.port import AUDITED_MAX, Audited, Depth, Filter


def read(turn: Turn, ids: Sequence[bytes], bodies: bool) -> list[Record | None]:
    """Give the records of ids, None for one that isn't there."""
    return [_read(turn, turn.rows.with_id(id), bodies) for id in ids]


def _read(turn: Turn, row: Row | None, bodies: bool) -> Record | None:
    """Show a row; what is overdue expires first, so that nobody waits for what nobody will do."""
    if row is None:
        return None
    if row.state < State.RUNNING and row.overdue(turn.now_ms):
        end.end(turn, row, Happening.EXPIRE, State.EXPIRED, Cause.EXPIRED)
    return row.record(bodies)


def find(turn: Turn, filter: Filter) -> list[Record]:
    """Give a page of rows, by ascending ref."""
    rows = (row for row in turn.rows if row.fits(filter))
    return [row.record(filter.bodies) for row in islice(rows, filter.limit)]


def audit(turn: Turn, id: bytes) -> list[Audited]:
    """Give what was done with a message, the oldest first."""
    return [audited for about, audited in turn.place.audits if about == id][-AUDITED_MAX:]


def ended(turn: Turn, ids: Iterable[bytes]) -> frozenset[bytes]:
    """Say which of the ids have ended."""
    return frozenset(id for id in ids if (row := turn.rows.with_id(id)) is not None and row.state.terminal)


def depths(turn: Turn) -> list[Depth]:
    """Give the queues that ever had a message, by name."""
    found = {
        queue: Depth(queue, 0, 0, 0, 0, 0, None, counts.puts, counts.ends)
        for queue, counts in turn.rows.counts.items()
        if counts.puts
    }
    for row in turn.rows:
        if row.kind is Kind.MESSAGE:
            _count(found[row.queue], row)
    return [found[queue] for queue in sorted(found)]


def _count(depth: Depth, row: Row) -> None:
    match row.state:
        case State.READY:
            depth.ready += 1
            depth.oldest_ms = row.created_ms if depth.oldest_ms is None else min(depth.oldest_ms, row.created_ms)
        case State.RUNNING:
            depth.running += 1
        case State.SCHEDULED:
            depth.scheduled += 1
        case State.WAITING:
            depth.waiting += 1
        case State.DEAD:
            depth.dead += 1
        case _:
            pass
