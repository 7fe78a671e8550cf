"""Stores that put wrongly: lose, double, mix up, refuse or take too much."""

from collections.abc import Callable, Sequence

from msgspec import structs

from ringpost.core.message import Message, Priority
from ringpost.store.memory import end, put
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Put
from twins.twin import instead_of

NewRow = Callable[[Turn, Message], Row]
Known = Callable[[Turn, Message], Put | None]
Full = Callable[[Turn, Message], bool]


class LosesWhatItAcknowledged(MemoryStore):
    """Answers before the commit, which then fails now and then."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        kept = [message for number, message in enumerate(messages) if number % 7 != 6]
        done = iter(await super().put(kept))
        return [Put(message.id) if number % 7 == 6 else next(done) for number, message in enumerate(messages)]


class LastInFirstOut(MemoryStore):
    """Hands out the newest of a batch first."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        return (await super().put(messages[::-1]))[::-1]


@instead_of(put._known)
def accepts_duplicates(known: Known, turn: Turn, message: Message) -> Put | None:
    """Knows a message only while it is live."""
    row = turn.rows.with_id(message.id)
    if row is not None and row.state.terminal:
        end.remove(turn, row)
    return known(turn, message)


@instead_of(put._known)
def accepts_other_content(known: Known, turn: Turn, message: Message) -> Put | None:
    """Takes any message of a known id for the same."""
    there = known(turn, message)
    return None if there is None else structs.replace(there, refused="")


@instead_of(put._new_row)
def ignores_keys(new_row: NewRow, turn: Turn, message: Message) -> Row:
    """Forgets idempotency keys."""
    return new_row(turn, structs.replace(message, dedup=None))


@instead_of(put._new_row)
def no_priority(new_row: NewRow, turn: Turn, message: Message) -> Row:
    """Hands out the oldest first, however urgent another is."""
    return new_row(turn, structs.replace(message, priority=Priority.NORMAL))


@instead_of(put.put)
def limits_what_is_staged(put_one: Callable[..., Put], turn: Turn, message: Message, *, limited: bool) -> Put:
    """Refuses staged messages where a queue is full."""
    return put_one(turn, message, limited=True)


@instead_of(put._full)
def full_for_ever(full: Full, turn: Turn, message: Message) -> bool:
    """Counts what came, not what is there."""
    return turn.rows.counts[message.queue].puts >= turn.settings.depth_max


@instead_of(put._full)
def never_full(full: Full, turn: Turn, message: Message) -> bool:
    """Takes whatever comes."""
    return False
