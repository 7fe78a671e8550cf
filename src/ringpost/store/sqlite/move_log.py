"""Moving the log of an event: its entries as they are into another store, those of another store in here."""

from collections.abc import Sequence
from typing import Any

from ringpost.core import notes as notes_of
from ringpost.store.log import Entry, Logged
from ringpost.store.port import CATCH_UP_BYTES_MAX, Note, Passage
from ringpost.store.sqlite import notes
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import blobs, crc_of, crc_seed, seqs
from ringpost.store.sqlite.turn import Turn

# Bounded by bytes as well, but for the first.
_EXPORT = f"""
SELECT pos, id, keep_s, due_ms, expires_ms, line, caller, headers, body, until_ms, receivers, crc FROM (
  SELECT *, sum(length(headers) + length(body)) OVER (ORDER BY pos) - length(headers) - length(body) AS before
  FROM (SELECT * FROM ringpost_log WHERE event = ? AND pos > ? ORDER BY pos LIMIT ?)
) WHERE before < {CATCH_UP_BYTES_MAX} ORDER BY pos
"""
_INSERT = (
    "INSERT OR IGNORE INTO ringpost_log(event, at_ms, until_ms, keep_s, due_ms, expires_ms, caller, receivers, crc, id,"
    f" line, headers, body) VALUES ({', '.join(['?'] * 13)})"
)
_LAST = "SELECT id FROM ringpost_log WHERE event = ? ORDER BY pos DESC LIMIT 1"
_PLACES = "SELECT id, pos FROM ringpost_log WHERE id IN (SELECT value FROM carray(?1))"
_NOTE = "SELECT value FROM ringpost_note WHERE name = ?"
_REMOVE = "DELETE FROM ringpost_log WHERE pos IN (SELECT value FROM carray(?1))"


def export(turn: Turn, event: str, after: int, limit: int) -> list[Logged]:
    """Give a page of a log."""
    return [_logged(turn, event, row) for row in turn.db.execute(_EXPORT, (event, after, limit)).fetchall()]


def _logged(turn: Turn, event: str, row: tuple[Any, ...]) -> Logged:
    entry, (until_ms, receivers, crc) = Entry(*row[:9]), row[9:]
    numbers = [int(no) for no in receivers.split(",") if no]
    names = tuple(sorted(turn.queues.numbered(no).name for no in numbers))
    return Logged(entry, until_ms, names, sound=crc == crc_of(crc_seed(event), entry.id, entry.headers, entry.body))


def take_in(turn: Turn, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
    """Keep entries behind those that came before, and note the last."""
    name = notes_of.told(passage.source, event)
    found = turn.db.execute(_NOTE, (name,)).fetchall()
    came = notes_of.decode_told(found[0][0] if found else b"")
    last = turn.db.execute(_LAST, (event,)).fetchall()
    if last and last[0][0].hex() != came.last:
        return []
    turn.db.executemany(_INSERT, [_row(turn, event, logged) for logged in entries])
    last_id: bytes = first(turn.db, _LAST, (event,))
    notes.put(turn, Note(name, notes_of.encode(notes_of.Told(last_id.hex()))), None)
    ids = [logged.entry.id for logged in entries]
    places: dict[bytes, int] = dict(turn.db.execute(_PLACES, (blobs(ids),)).fetchall())
    return [places[id] for id in ids]


def _row(turn: Turn, event: str, logged: Logged) -> tuple[object, ...]:
    entry = logged.entry
    numbers = ",".join(str(turn.queues.make(queue).no) for queue in logged.receivers)
    return (
        event,
        turn.now_ms,
        logged.until_ms,
        entry.keep_s,
        entry.due_ms,
        entry.expires_ms,
        entry.caller,
        f",{numbers},",
        crc_of(crc_seed(event), entry.id, entry.headers, entry.body),
        entry.id,
        entry.line,
        entry.headers,
        entry.body,
    )


def take_out(turn: Turn, entries: Sequence[Logged]) -> None:
    """Remove entries."""
    if entries:
        turn.db.execute(_REMOVE, (seqs([logged.entry.pos for logged in entries]),))
