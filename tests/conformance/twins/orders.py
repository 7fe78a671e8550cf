"""Stores that obey wrongly: cancel, replay, what is noted of both, and the progress of what runs."""

from collections.abc import Callable, Sequence

from msgspec import structs

from ringpost.core.message import Delivery, State
from ringpost.store.memory import change
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Changed, Order, Replay
from twins.twin import instead_of

Replaying = Callable[[Turn, Row, Replay], Changed]


@instead_of(change._cancel)
def cancels_what_runs(cancel: Callable[[Turn, Row], Changed], turn: Turn, row: Row) -> Changed:
    """Ends a running message while its handler still works."""
    if row.state is State.RUNNING:
        turn.rows.set_state(row, State.READY)
    return cancel(turn, row)


@instead_of(change._replay)
def replays_any_generation(replay: Replaying, turn: Turn, row: Row, order: Replay) -> Changed:
    """Opens another generation each time it is asked."""
    return replay(turn, row, structs.replace(order, generation=row.generation))


@instead_of(change._replay)
def replays_without_generation(replay: Replaying, turn: Turn, row: Row, order: Replay) -> Changed:
    """Replays within the same generation."""
    done = replay(turn, row, order)
    if done.result == "done":
        row.generation -= 1
    return done


@instead_of(change.obey)
def notes_what_is_refused(obey: Callable[[Turn, Order], Changed], turn: Turn, order: Order) -> Changed:
    """Says of a replay that came too late that it was done."""
    done = obey(turn, order)
    if isinstance(order, Replay) and done.result != "done":
        turn.audit(order.id, order.who, "replay", "")
    return done


@instead_of(Turn.audit)
def forgets_who_did_it(audit: Callable[..., None], turn: Turn, id: bytes, who: str, what: str, detail: str) -> None:
    """Notes what was done, not by whom."""
    audit(turn, id, "", what, detail)


class ReportsForLosers(MemoryStore):
    """Takes progress from whoever brings it."""

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        orders = [
            structs.replace(one, delivery=self._current(one.delivery)) if hasattr(one, "delivery") else one
            for one in orders
        ]
        return await super().change(orders)

    def _current(self, delivery: Delivery) -> Delivery:
        row = self.place.rows.get(delivery.ref)
        return delivery if row is None else row.delivery()
