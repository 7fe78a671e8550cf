"""Lines: where a row waits for its turn, and who goes on once the head has left."""

from ringpost.core.life import Happening
from ringpost.core.message import State
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn


def settle_in(turn: Turn, row: Row, happening: Happening) -> None:
    """Put a row where it waits: until it is due, behind its line, or ready."""
    before = None if happening is Happening.PUT else row.state
    if row.due_ms > turn.now_ms:
        turn.step(row, before, happening, State.SCHEDULED)
    else:
        ahead = turn.rows.join_line(row)
        turn.step(row, before, happening, State.READY if ahead else State.WAITING)


def pass_on(turn: Turn, row: Row) -> None:
    """Take a row out of its line, and wake the next."""
    following = turn.rows.leave_line(row)
    if following is not None:
        turn.step(following, following.state, Happening.TURN, State.READY)
