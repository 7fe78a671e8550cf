"""Moving: rows as they are into another store, those of another store in here, and out of here without an end."""

from collections.abc import Sequence
from itertools import islice

from ringpost.core import life
from ringpost.core import notes as notes_of
from ringpost.core.arrival import arrives
from ringpost.core.life import Happening
from ringpost.core.message import Record, State
from ringpost.store.memory import end, notes
from ringpost.store.memory.row import Row, row_of
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Exported, Note, Passage, Put, Refused, untouched


def export(turn: Turn, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
    """Give a page of rows with all that hangs on them."""
    rows = (row for row in turn.rows if row.ref > after and row.state in states and not _held(turn, row))
    return [row.exported(turn.rows.is_head(row)) for row in islice(rows, limit)]


def _held(turn: Turn, row: Row) -> bool:
    """Say whether a row runs, or waits behind one that does."""
    head = turn.rows.head_of(row.line) if row.state in life.QUEUED else row
    return head is not None and head.state is State.RUNNING


def take_in(turn: Turn, rows: Sequence[Exported], passage: Passage) -> list[Put]:
    """Keep rows of another store, and note which came."""
    name = notes_of.arrived(passage.source)
    kept = turn.place.notes.get(name)
    before = notes_of.decode_arrived(b"" if kept is None else kept.value).of(passage.move)
    answers = [_take_in(turn, row, before, passage) for row in rows]
    came = notes_of.came(passage.move, [put.id for put in answers if not put.refused], before)
    notes.put(turn, Note(name, notes_of.encode(came)), None)
    return answers


def _take_in(turn: Turn, exported: Exported, before: frozenset[str], passage: Passage) -> Put:
    record, rows = exported.record, turn.rows
    known = rows.with_id(record.id)
    if known is not None:
        refused: Refused = "" if known.same_content(record) else "mismatch"
        return Put(record.id, duplicate=True, state=known.state, refused=refused)
    if record.id.hex() in before:
        return Put(record.id, duplicate=True)
    if not exported.sound:
        return Put(record.id, refused="mismatch")
    taken = rows.with_dedup(exported.dedup)
    if taken is not None:
        return Put(taken.id, duplicate=True, state=taken.state, refused="key_reused")
    row = row_of(exported, rows.next_ref(), turn.place.fence)
    rows.add(row)
    _arrive(turn, row, exported)
    if row.state is State.DEAD:
        turn.audit(row.id, passage.who, "move", f"from store {passage.source}")
    return Put(row.id)


def _arrive(turn: Turn, row: Row, exported: Exported) -> None:
    """Give a row the state that it had, and its place in its line."""
    state = exported.record.state
    if row.line is not None:
        free = turn.rows.head_of(row.line) is None
        state, stands = arrives(state, heads=exported.heads, free=free)
        if stands:
            turn.rows.join_line(row)
    if state.terminal:
        assert row.settled_ms is not None
        turn.rows.set_ended(row, state, row.settled_ms + 1000 * end.keep_s(row, state))
    else:
        turn.step(row, None, Happening.TAKE_IN, state)


def take_out(turn: Turn, rows: Sequence[Exported], passage: Passage) -> list[bool]:
    """Remove those of the rows that are as they were exported."""
    return [_take_out(turn, exported.record, passage) for exported in rows]


def _take_out(turn: Turn, record: Record, passage: Passage) -> bool:
    row = turn.rows.get(record.ref)
    if row is None:
        return True
    if not untouched(record, row.state, row.fence, row.generation):
        return False
    if row.state is State.DEAD:
        turn.audit(row.id, passage.who, "move", f"to store {passage.target}")
    end.remove(turn, row)
    return True
