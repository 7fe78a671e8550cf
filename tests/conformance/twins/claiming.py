"""Stores that claim wrongly: too much, twice, or what is paused."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from ringpost.core.message import Settlement, State
from ringpost.store.memory import claim, notes
from ringpost.store.memory.place import Place
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Claimed
from twins.twin import instead_of

Take = Callable[[Turn, str, int, int], list[Row]]


@instead_of(claim._take)
def gives_more_than_wanted(take: Take, turn: Turn, queue: str, wanted: int, suspects: int) -> list[Row]:
    """Hands out one more."""
    return take(turn, queue, wanted + 1, suspects)


@instead_of(claim._take)
def many_suspects(take: Take, turn: Turn, queue: str, wanted: int, suspects: int) -> list[Row]:
    """Hands out suspects with the rest."""
    return take(turn, queue, wanted, 1000)


@instead_of(Place.next_fence)
def one_fence(next_fence: Callable[[Place], int], place: Place) -> int:
    """Gives every claim the same fence."""
    return place.fence + 1


@instead_of(notes.paused)
def never_paused(paused: Callable[[Turn, str], bool], turn: Turn, queue: str) -> bool:
    """Claims from paused queues."""
    return False


class ClaimsTwice(MemoryStore):
    """Looks and takes in two steps, so that two workers get the same message."""

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        rows = self.place.rows
        seen = [row for row in rows if row.state is State.READY and row.queue in want]
        await asyncio.sleep(0)
        for row in seen:
            if row.state is State.RUNNING:
                rows.set_state(row, State.READY)
        return await super().claim(want, holder, lease_s, settlements, suspects=suspects)
