"""Where a row that comes from another store takes its place: as it was, but behind who stands in its line already."""

from typing import Literal

from ringpost.core.message import State

Stands = Literal["", "first", "behind"]  # in its line


def arrives(state: State, *, heads: bool, free: bool) -> tuple[State, Stands]:
    """Give the state of a row that has an ordering key, and where it stands. `heads`: it was the first of its line.
    `free`: nobody stands in that line here.

    One that is tried again and isn't the first any more waits for its turn instead of its time: those that came behind
    it would pass. A dead one halts only a line that is free.
    """
    if state in (State.READY, State.WAITING):
        return (State.READY, "first") if free else (State.WAITING, "behind")
    if state is State.SCHEDULED and heads:
        return (state, "first") if free else (State.WAITING, "behind")
    if state is State.DEAD and heads and free:
        return state, "first"
    return state, ""
