"""Stores that keep reservations wrongly: too long, not long enough, or for anybody."""

from collections.abc import Callable

from ringpost.core.message import Kind, Message
from ringpost.store.memory import put, tend
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Put
from twins.twin import instead_of

Lose = Callable[[Turn, Row], None]


@instead_of(tend._lose)
def never_overtakes(lose: Lose, turn: Turn, row: Row) -> None:
    """Keeps a reservation for ever, its holder alive or not."""
    if row.dedup is None:
        lose(turn, row)


@instead_of(put._known)
def overtakes_the_living(known: Callable[[Turn, Message], Put | None], turn: Turn, message: Message) -> Put | None:
    """Gives a key to the next caller while its holder still works."""
    row = turn.rows.with_dedup(message.dedup)
    if row is not None and message.reserve is not None:
        row.lease_ms = 0
    return known(turn, message)


@instead_of(tend._lose)
def gives_reservations_to_workers(lose: Lose, turn: Turn, row: Row) -> None:
    """Puts the reservation of a holder that is lost into the queue."""
    row.kind = Kind.MESSAGE
    lose(turn, row)
