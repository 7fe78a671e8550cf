"""Stores that keep what has ended wrongly: for ever, or not long enough."""

from collections.abc import Callable
from typing import Any

from ringpost.core.message import State
from ringpost.store.memory import end, tend
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn
from twins.twin import instead_of

End = Callable[..., None]


@instead_of(tend._purge)
def purges_nothing(purge: Callable[[Turn], bool], turn: Turn) -> bool:
    """Keeps everything."""
    return False


@instead_of(end.end)
def purges_the_dead(end_row: End, turn: Turn, row: Row, happening: Any, to: State, *given: Any, **more: Any) -> None:
    """Takes dead messages for any others."""
    end_row(turn, row, happening, to, *given, **more)
    if to is State.DEAD:
        turn.rows.set_ended(row, to, turn.now_ms + row.keep_s * 1000)


@instead_of(end.end)
def purges_early(end_row: End, turn: Turn, row: Row, *given: Any, **more: Any) -> None:
    """Removes what has ended at once."""
    end_row(turn, row, *given, **more)
    end.remove(turn, row)
