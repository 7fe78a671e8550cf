"""Stores that take time wrongly: delays and expiry."""

from collections.abc import Callable

from msgspec import structs

from ringpost.core.message import Message, State
from ringpost.store.memory import claim, put
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Tended
from twins.twin import instead_of

NewRow = Callable[[Turn, Message], Row]


@instead_of(put._new_row)
def delays_nothing(new_row: NewRow, turn: Turn, message: Message) -> Row:
    """Takes every delay for none."""
    return new_row(turn, structs.replace(message, delay_s=0.0, due_ms=None))


@instead_of(put._new_row)
def no_expiry(new_row: NewRow, turn: Turn, message: Message) -> Row:
    """Ignores how long a message may wait."""
    return new_row(turn, structs.replace(message, ttl_s=None))


@instead_of(claim._take)
def expires_only_in_upkeep(
    take: Callable[[Turn, str, int, int], list[Row]], turn: Turn, queue: str, wanted: int, suspects: int
) -> list[Row]:
    """Hands out what has expired, if it is asked before upkeep."""
    return take(structs.replace(turn, now_ms=0), queue, wanted, suspects)


class ExpiresWhatRuns(MemoryStore):
    """Takes a message that has expired from under its handler."""

    async def tend(self, limit: int = 1000) -> Tended:
        with self._turns as turn:
            for row in turn.rows.held():
                if row.overdue(turn.now_ms):
                    row.drop_hold()
                    turn.rows.set_state(row, State.READY)
        return await super().tend(limit)
