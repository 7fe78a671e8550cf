"""Ends: a row is over or gone, the next of its line goes on, and those who are to know are told in the same turn."""

from ringpost.core import farewell, life
from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.life import Happening
from ringpost.core.message import Answer, Cause, State
from ringpost.store.memory import line, notes, put
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn


def end(
    turn: Turn,
    row: Row,
    happening: Happening,
    to: State,
    cause: Cause,
    answer: Answer | None = None,
    *,
    told: bool = False,
) -> None:
    """Bring a row to its end and wake the next of its line. `told`: whoever ends it tells the others himself."""
    assert to in life.allowed(row.state, happening, row.kind), f"{row.state} -{happening}-> {to}"
    row.drop_hold()
    row.cause, row.answer, row.progress, row.settled_ms = cause, answer, None, turn.now_ms
    turn.rows.set_ended(row, to, turn.now_ms + 1000 * keep_s(row, to))
    turn.alarm.ring_id(row.id)
    if to is not State.DEAD or not notes.queue(turn, row.queue).halt:
        line.pass_on(turn, row)
    if not told:
        for letter in farewell.letters(row.ended(notes.queue(turn, row.queue).on_failure), turn.now_ms):
            put.put(turn, letter, limited=False)


def remove(turn: Turn, row: Row) -> None:
    """Remove a row with all that hangs on it; nobody is told of an end."""
    line.pass_on(turn, row)
    turn.rows.remove(row)
    turn.alarm.ring_id(row.id)


def keep_s(row: Row, ended: State) -> int:
    """Say how long a row is kept after its end."""
    return KEEP_DEAD_S if ended is State.DEAD else row.keep_s
