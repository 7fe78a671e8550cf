"""Notes in the file: a small register with versions and leases."""

from ringpost.core import notes as notes_of
from ringpost.core.notes import Subscription
from ringpost.core.subscription import missed
from ringpost.store.port import Note
from ringpost.store.sqlite.register import concerns
from ringpost.store.sqlite.turn import Turn

_ONE = "SELECT version, lease_ms FROM ringpost_note WHERE name = ?"
_PUT = "INSERT OR REPLACE INTO ringpost_note(name, version, lease_ms, value) VALUES (?, ?, ?, ?)"
_DROP = "DELETE FROM ringpost_note WHERE name = ?"
_ALL = (
    "SELECT name, value, version, lease_ms FROM ringpost_note"
    " WHERE name >= ?1 AND substr(name, 1, length(?1)) = ?1 AND (lease_ms IS NULL OR lease_ms > ?2) ORDER BY name"
)
_VALUE = "SELECT value FROM ringpost_note WHERE name = ?"
_REWRITE = "UPDATE ringpost_note SET value = ?, version = version + 1 WHERE name = ?"
_CHANGED = "UPDATE ringpost_meta SET value = value + 1 WHERE key = 'notes'"


def put(turn: Turn, note: Note, expect: int | None) -> bool:
    """Write a note; with `expect` only if its version is that. A note whose lease has ended counts as version 0."""
    found = turn.db.execute(_ONE, (note.name,)).fetchall()
    last, lease_ms = found[0] if found else (0, None)
    alive = bool(found) and (lease_ms is None or lease_ms > turn.uptime_ms)
    if expect is not None and expect != (last if alive else 0):
        return False
    until_ms = None if note.lease_s is None else turn.uptime_ms + round(note.lease_s * 1000)
    turn.db.execute(_PUT, (note.name, last + 1, until_ms, note.value))
    _announce(turn, note.name)
    return True


def drop(turn: Turn, name: str) -> bool:
    """Remove a note; True if it was there and its lease had not ended."""
    found = turn.db.execute(_ONE, (name,)).fetchall()
    if not found:
        return False
    turn.db.execute(_DROP, (name,))
    _announce(turn, name)
    lease_ms = found[0][1]
    return lease_ms is None or lease_ms > turn.uptime_ms


def notes(turn: Turn, prefix: str) -> list[Note]:
    """Give the notes whose names begin so and whose leases have not ended; `lease_s` is what remains."""
    return [
        Note(name, value, version, None if lease_ms is None else (lease_ms - turn.uptime_ms) / 1000)
        for name, value, version, lease_ms in turn.db.execute(_ALL, (prefix, turn.uptime_ms)).fetchall()
    ]


def count_gaps(turn: Turn) -> None:
    """Write down what suspended subscriptions missed in this turn."""
    for (event, queue), (count, at) in turn.missed.items():
        before = subscription(turn, event, queue)
        if before is not None:
            rewrite(turn, event, queue, missed(before, count, at, turn.now_ms))


def subscription(turn: Turn, event: str, queue: str) -> Subscription | None:
    """Read a subscription, if it is there."""
    found = turn.db.execute(_VALUE, (notes_of.subscription(event, queue),)).fetchall()
    return notes_of.decode_subscription(found[0][0]) if found else None


def rewrite(turn: Turn, event: str, queue: str, after: Subscription, *, announced: bool = False) -> None:
    """Write down what became of a subscription. `announced`: who publishes has to know."""
    name = notes_of.subscription(event, queue)
    turn.db.execute(_REWRITE, (notes_of.encode(after), name))
    if announced:
        _announce(turn, name)


def _announce(turn: Turn, name: str) -> None:
    if concerns(name):
        turn.db.execute(_CHANGED)
        turn.announce()
