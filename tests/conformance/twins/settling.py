"""Stores that settle wrongly: past the fence, in parts, or with something left out."""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import structs

from ringpost.core.message import Message, Settlement, State
from ringpost.store.memory import put, settle
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from twins.twin import instead_of

Settle = Callable[[Turn, Settlement], bool]


@instead_of(settle.settle)
def checks_no_fence(settle_one: Settle, turn: Turn, settlement: Settlement) -> bool:
    """Takes a settlement from whoever brings it."""
    row = turn.rows.get(settlement.delivery.ref)
    if row is not None and row.state is State.RUNNING:
        settlement = structs.replace(settlement, delivery=row.delivery())
    return settle_one(turn, settlement)


@instead_of(settle.settle)
def stages_without_settling(settle_one: Settle, turn: Turn, settlement: Settlement) -> bool:
    """Puts what was staged before it looks at the fence."""
    for message in settlement.staged:
        put.put(turn, message, limited=False)
    return settle_one(turn, structs.replace(settlement, staged=()))


class StagesLater(MemoryStore):
    """Settles in one commit and puts what was staged in another, which may not come."""

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        done = await super().settle([structs.replace(one, staged=()) for one in settlements])
        staged = [message for one in settlements for message in one.staged]
        if staged:
            asyncio.get_running_loop().call_later(0.01, self._put_all, staged)
        return done

    def _put_all(self, messages: Sequence[Message]) -> None:
        with self._turns as turn:
            for message in messages:
                put.put(turn, message, limited=False)


@instead_of(settle.settle)
def stages_only_on_success(settle_one: Settle, turn: Turn, settlement: Settlement) -> bool:
    """Forgets what a failed handler staged on purpose."""
    if settlement.to is not State.SUCCEEDED:
        settlement = structs.replace(settlement, staged=())
    return settle_one(turn, settlement)


@instead_of(settle._give_back)
def charges_releases(
    give_back: Callable[[Turn, Row, Settlement], None], turn: Turn, row: Row, settlement: Settlement
) -> None:
    """Counts an attempt where a worker gave back what it hadn't done."""
    row.attempts += settlement.to is State.READY
    give_back(turn, row, settlement)


@instead_of(settle.settle)
def keeps_one_failure(settle_one: Settle, turn: Turn, settlement: Settlement) -> bool:
    """Keeps the last failure only."""
    done = settle_one(turn, settlement)
    row = turn.rows.get(settlement.delivery.ref)
    if row is not None:
        row.failures = row.failures[-1:]
    return done


@instead_of(settle.settle)
def loses_answers(settle_one: Settle, turn: Turn, settlement: Settlement) -> bool:
    """Keeps what became of a message, but not what was answered."""
    return settle_one(turn, structs.replace(settlement, answer=None))
