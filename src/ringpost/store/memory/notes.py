"""Notes in memory: a small register with versions and leases, and what the store itself reads of it."""

from collections.abc import Mapping

from ringpost.core import notes as notes_of
from ringpost.core.notes import Queue, Subscription
from ringpost.core.subscription import missed
from ringpost.store.memory.place import KeptNote
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Note


def put(turn: Turn, note: Note, expect: int | None) -> bool:
    """Write a note; with `expect` only if its version is that. A note whose lease has ended counts as version 0."""
    kept = turn.place.notes.get(note.name)
    version = kept.version if kept is not None and kept.alive(turn.now_ms) else 0
    if expect is not None and expect != version:
        return False
    until_ms = None if note.lease_s is None else turn.now_ms + round(note.lease_s * 1000)
    last = 0 if kept is None else kept.version
    turn.place.notes[note.name] = KeptNote(note.value, last + 1, until_ms)
    return True


def drop(turn: Turn, name: str) -> bool:
    """Remove a note; True if it was there and its lease had not ended. A queue that was paused has work again."""
    kept = turn.place.notes.pop(name, None)
    paused = name.removeprefix(notes_of.pause(""))
    if paused != name:
        turn.alarm.ring_queue(paused)
    return kept is not None and kept.alive(turn.now_ms)


def notes(turn: Turn, prefix: str) -> list[Note]:
    """Give the notes whose names begin so and whose leases have not ended; `lease_s` is what remains."""
    return [
        Note(name, kept.value, kept.version, kept.left_s(turn.now_ms))
        for name, kept in sorted(turn.place.notes.items())
        if name.startswith(prefix) and kept.alive(turn.now_ms)
    ]


def paused(turn: Turn, queue: str) -> bool:
    """Say whether nobody is to claim from a queue."""
    kept = turn.place.notes.get(notes_of.pause(queue))
    return kept is not None and kept.alive(turn.now_ms)


def queue(turn: Turn, name: str) -> Queue:
    """Read what was said of a queue."""
    kept = turn.place.notes.get(notes_of.queue(name))
    return Queue() if kept is None else notes_of.decode_queue(kept.value)


# --- subscriptions


def subscriptions(turn: Turn, event: str) -> dict[str, Subscription]:
    """Give the subscriptions to an event, by queue."""
    prefix = notes_of.subscription(event, "")
    return {
        name.removeprefix(prefix): notes_of.decode_subscription(kept.value)
        for name, kept in sorted(turn.place.notes.items())
        if name.startswith(prefix) and kept.alive(turn.now_ms)
    }


def subscription(turn: Turn, event: str, queue: str) -> Subscription | None:
    """Read a subscription, if it is there."""
    kept = turn.place.notes.get(notes_of.subscription(event, queue))
    return None if kept is None else notes_of.decode_subscription(kept.value)


def rewrite(turn: Turn, event: str, queue: str, after: Subscription) -> None:
    """Write down what became of a subscription."""
    kept = turn.place.notes[notes_of.subscription(event, queue)]
    kept.value, kept.version = notes_of.encode(after), kept.version + 1


def count_gaps(turn: Turn, event: str, subscriptions: Mapping[str, Subscription], at: int) -> None:
    """Write down what suspended subscriptions missed; `at`: the place of it in the log, 0: it has none."""
    for queue, one in subscriptions.items():
        if one.misses:
            rewrite(turn, event, queue, missed(one, 1, at, turn.now_ms))
