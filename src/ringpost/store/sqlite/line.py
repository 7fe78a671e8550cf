"""Lines: of the messages with one ordering key exactly one is ready, running or in retry, the others wait behind it.

`ringpost_line` has a row for each that stands in a line. Its order (line, place, seq) makes every question one probe:
the first entry says whether the line has a head, and if not, who is next.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ringpost.core.message import State
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import HEADS, WAITS, blobs, decode_pairs, seqs
from ringpost.store.sqlite.turn import Turn

_TAKEN = (
    "SELECT json_group_array(hex(value)) FROM carray(?1) WHERE EXISTS (SELECT 1 FROM ringpost_line WHERE line = value)"
)
_JOIN_NEW = (
    "INSERT OR IGNORE INTO ringpost_line(line, place, seq) SELECT line, iif(state = 3, 3, 2), seq"
    " FROM ringpost_message WHERE seq > ?1 AND line IS NOT NULL AND state IN (3, 4, 5)"
)
_JOIN = (
    "INSERT OR IGNORE INTO ringpost_line(line, place, seq) SELECT line, 3, seq"
    " FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1))"
)
_LINES_OF = (
    "SELECT DISTINCT line FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1)) AND line IS NOT NULL"
)
_LEAVE = (
    "DELETE FROM ringpost_line WHERE (line, place, seq) IN (SELECT line, ?2, seq FROM ringpost_message"
    " WHERE seq IN (SELECT value FROM carray(?1)) AND line IS NOT NULL)"
)
_IS_HEAD = "SELECT 1 FROM ringpost_line WHERE line = ? AND place = ? AND seq = ?"
_NEXT = (
    "SELECT json_group_array(json_array(seq, queue)) FROM ringpost_message WHERE state = 3 AND seq IN (SELECT"
    " (SELECT iif(place = 3, seq, NULL) FROM ringpost_line WHERE line = c.value ORDER BY place, seq LIMIT 1)"
    " FROM carray(?1) c)"
)
_HEAD = (
    "UPDATE ringpost_line SET place = 2 WHERE (line, place, seq) IN (SELECT line, 3, seq FROM ringpost_message"
    " WHERE seq IN (SELECT value FROM carray(?1)))"
)
_READY = "UPDATE ringpost_message SET state = 4 WHERE seq IN (SELECT value FROM carray(?1))"
_ASLEEP = (
    "SELECT DISTINCT l.line FROM ringpost_line l WHERE l.place = 3 AND l.line > ?1 AND NOT EXISTS"
    " (SELECT 1 FROM ringpost_line h WHERE h.line = l.line AND h.place = 2) ORDER BY l.line LIMIT ?2"
)
_decode_hex = msgspec.json.Decoder(list[str]).decode


def taken(turn: Turn, lines: Iterable[bytes]) -> set[bytes]:
    """Say in which of the lines somebody stands."""
    return {bytes.fromhex(line) for line in _decode_hex(first(turn.db, _TAKEN, (blobs(lines),)))}


def join_new(turn: Turn, after: int) -> None:
    """Enter the rows put since a sequence number; whether each is the head, its state says."""
    turn.db.execute(_JOIN_NEW, (after,))


def join(turn: Turn, rows: Sequence[int]) -> None:
    """Enter waiting rows at the end of their lines, and wake those that come first."""
    turn.db.execute(_JOIN, (seqs(rows),))
    wake(turn, lines_of(turn, rows))


def lines_of(turn: Turn, rows: Sequence[int]) -> list[bytes]:
    return [row[0] for row in turn.db.execute(_LINES_OF, (seqs(rows),)).fetchall()]


def is_head(turn: Turn, line: bytes, row: int) -> bool:
    """Say whether a row stands first in its line, as one that is dead does where its queue halts."""
    return bool(turn.db.execute(_IS_HEAD, (line, HEADS, row)).fetchall())


def leave(turn: Turn, rows: Sequence[int], lines: Iterable[bytes]) -> None:
    """Take rows that have ended, or are about to be removed, out of their lines; the next of each becomes ready."""
    for place in (HEADS, WAITS):
        turn.db.execute(_LEAVE, (seqs(rows), place))
    wake(turn, lines)


def leave_as_heads(turn: Turn, rows: Sequence[int], lines: Iterable[bytes]) -> None:
    """The same for rows that were running: they can only have stood first."""
    turn.db.execute(_LEAVE, (seqs(rows), HEADS))
    wake(turn, lines)


def wake(turn: Turn, lines: Iterable[bytes]) -> int:
    """Make the first of each line ready if the line has no head; gives how many were woken."""
    lines = tuple(set(lines))
    if not lines:
        return 0
    heads = decode_pairs(first(turn.db, _NEXT, (blobs(lines),)))
    if not heads:
        return 0
    rows = [seq for seq, _ in heads]
    turn.db.execute(_HEAD, (seqs(rows),))
    turn.db.execute(_READY, (seqs(rows),))
    for _, queue in heads:
        tally = turn.tally(queue)
        tally.count(State.WAITING, -1)
        tally.count(State.READY, 1)
        turn.rang.add(queue)
    return len(heads)


def repair(turn: Turn, after: bytes, limit: int) -> tuple[int, bytes]:
    """Wake lines that have fallen asleep, a bounded stretch of them; gives how many, and where to go on."""
    lines = [row[0] for row in turn.db.execute(_ASLEEP, (after, limit)).fetchall()]
    return wake(turn, lines), lines[-1] if len(lines) == limit else b""
