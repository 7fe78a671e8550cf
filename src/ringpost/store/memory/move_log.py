"""Moving the log of an event: its entries as they are into another store, those of another store in here."""

from collections.abc import Sequence

from ringpost.core import notes as notes_of
from ringpost.store.log import Logged
from ringpost.store.memory import notes
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Note, Passage


def export(turn: Turn, event: str, after: int, limit: int) -> list[Logged]:
    """Give a page of a log."""
    page = turn.place.log.step(event, after, limit)
    return [Logged(kept.entry, kept.until_ms, tuple(sorted(kept.receivers)), sound=True) for kept in page]


def take_in(turn: Turn, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
    """Keep entries behind those that came before, and note the last."""
    log, name = turn.place.log, notes_of.told(passage.source, event)
    kept = turn.place.notes.get(name)
    came = notes_of.decode_told(b"" if kept is None else kept.value)
    last = log.last(event)
    if last is not None and last.id.hex() != came.last:
        return []
    places = [log.take_in(event, logged) for logged in entries]
    last = log.last(event)
    assert last is not None
    notes.put(turn, Note(name, notes_of.encode(notes_of.Told(last.id.hex()))), None)
    return places


def take_out(turn: Turn, entries: Sequence[Logged]) -> None:
    """Remove entries."""
    for logged in entries:
        turn.place.log.take_out(logged.entry.pos)
