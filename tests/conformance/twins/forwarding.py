"""Stores that forward wrongly: what is handed over, while it is away, and when its outcome comes."""

from collections.abc import Callable
from unittest import mock

from msgspec import structs

from ringpost.core.message import Settlement, State
from ringpost.store.memory import change, line, settle, tend
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Changed, Conclude
from twins.twin import instead_of

Concluding = Callable[[Turn, Row, Conclude], Changed]
HandOver = Callable[[Turn, Row, Settlement], None]


@instead_of(change._conclude)
def concludes_anything(conclude: Concluding, turn: Turn, row: Row, order: Conclude) -> Changed:
    """Takes the outcome of a message that isn't away."""
    if row.state is State.RUNNING:
        turn.rows.set_state(row, State.FORWARDED)
    return conclude(turn, row, order)


@instead_of(change._conclude)
def concludes_any_generation(conclude: Concluding, turn: Turn, row: Row, order: Conclude) -> Changed:
    """Takes the outcome of an earlier generation for this one's."""
    return conclude(turn, row, structs.replace(order, generation=row.generation))


@instead_of(change._conclude)
def concludes_in_silence(conclude: Concluding, turn: Turn, row: Row, order: Conclude) -> Changed:
    """Tells nobody of the outcome that came from elsewhere."""
    kept, row.headers = row.headers, b"{}"
    done = conclude(turn, row, order)
    row.headers = kept
    return done


@instead_of(settle._hand_over)
def forgets_the_receipt(hand_over: HandOver, turn: Turn, row: Row, settlement: Settlement) -> None:
    """Hands over without keeping what the other store said."""
    hand_over(turn, row, structs.replace(settlement, answer=None))


@instead_of(settle._hand_over)
def hands_over_in_line(hand_over: HandOver, turn: Turn, row: Row, settlement: Settlement) -> None:
    """Keeps the line waiting until the outcome is there."""
    with mock.patch.object(line, "pass_on", lambda turn, row: None):
        hand_over(turn, row, settlement)


@instead_of(settle._hand_over)
def loses_what_is_away(hand_over: HandOver, turn: Turn, row: Row, settlement: Settlement) -> None:
    """Keeps a message that is away under its lease."""
    lease_ms = row.lease_ms
    hand_over(turn, row, settlement)
    row.lease_ms, turn.rows._held[row.ref] = lease_ms, row


@loses_what_is_away.instead_of(tend._lose)
def loses_it_then(lose: Callable[[Turn, Row], None], turn: Turn, row: Row) -> None:
    turn.rows.set_state(row, State.READY)


@instead_of(change._cancel)
def cancels_nothing_away(cancel: Callable[[Turn, Row], Changed], turn: Turn, row: Row) -> Changed:
    """Forgets to tell the forwarder."""
    done = cancel(turn, row)
    if row.state is State.FORWARDED:
        row.cancel_asked = False
    return done
