"""Stores that break lines: several go at once, the next never goes, or it goes though it is to wait."""

from collections.abc import Callable, Sequence

from msgspec import structs

from ringpost.core.life import Happening
from ringpost.core.message import Message, Settlement, State
from ringpost.core.notes import Queue
from ringpost.store.memory import line, notes, settle
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Put
from twins.twin import instead_of


class TwoHeads(MemoryStore):
    """Lets the second of a line go with the first."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        done = await super().put(messages)
        with self._turns as turn:
            for row in turn.rows:
                if row.state is State.WAITING and turn.rows._heads.get(row.line or b"") == row.ref - 1:
                    turn.rows.set_state(row, State.READY)
        return done


@instead_of(line.pass_on)
def line_sleeps(pass_on: Callable[[Turn, Row], None], turn: Turn, row: Row) -> None:
    """Forgets to wake the next of a line."""
    turn.rows.leave_line(row)


@instead_of(notes.queue)
def never_halts(queue: Callable[[Turn, str], Queue], turn: Turn, name: str) -> Queue:
    """Lets a line go on behind its dead head, whatever was said."""
    return structs.replace(queue(turn, name), halt=False)


@instead_of(settle._give_back)
def retry_leaves_the_line(
    give_back: Callable[[Turn, Row, Settlement], None], turn: Turn, row: Row, settlement: Settlement
) -> None:
    """Lets the next of a line go while the head waits for its retry."""
    give_back(turn, row, settlement)
    if settlement.to is State.SCHEDULED:
        line.pass_on(turn, row)


@instead_of(line.settle_in)
def delayed_hold_the_line(
    settle_in: Callable[[Turn, Row, Happening], None], turn: Turn, row: Row, happening: Happening
) -> None:
    """Gives a delayed message its place in the line before it is due."""
    if row.due_ms > turn.now_ms:
        turn.rows.join_line(row)
    settle_in(turn, row, happening)
