"""Stores that hold leases wrongly: of the lost, of the living, or of others."""

from collections.abc import Callable

from ringpost.store.memory import tend
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Renewed
from twins.twin import instead_of

Lose = Callable[[Turn, Row], None]


@instead_of(tend._lose)
def counts_no_losses(lose: Lose, turn: Turn, row: Row) -> None:
    """Gives back what a lost worker held, again and again."""
    row.losses = -1
    lose(turn, row)


@instead_of(tend._lose)
def never_sweeps(lose: Lose, turn: Turn, row: Row) -> None:
    """Leaves a message with a worker that is gone."""
    row.lease_ms = turn.now_ms


class SweepsWhatIsRenewed(MemoryStore):
    """Renews in name only."""

    def renew(self, holder: int, lease_s: float) -> Renewed:
        return super().renew(holder, 0)


class RenewsForAll(MemoryStore):
    """Renews whatever runs."""

    def renew(self, holder: int, lease_s: float) -> Renewed:
        for row in self.place.rows.held():
            row.holder = holder
        return super().renew(holder, lease_s)
