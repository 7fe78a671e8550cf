"""Stores that log events wrongly, or give a subscription that is behind too much, too little or the wrong thing."""

from collections.abc import Callable, Sequence

from msgspec import structs

from ringpost.core.message import Message
from ringpost.core.notes import Subscription
from ringpost.core.subscription import caught_up
from ringpost.store.memory import catch_up, notes, put
from ringpost.store.memory.log import Kept, Log
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import CaughtUp, Put
from twins.twin import instead_of

Append = Callable[[Log, Message, frozenset[str], int], int]
CatchUp = Callable[[Turn, str, str, int], CaughtUp]
Give = Callable[[Turn, Kept, str], bool]

# --- what is kept


@instead_of(Log.append)
def logs_nothing(*given: object) -> int:
    """Has forgotten what was told."""
    return 0


class LogsEverything(MemoryStore):
    """Keeps events that nobody asked to be kept."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        return await super().put([structs.replace(one, log_s=one.log_s or 60) for one in messages])


@instead_of(Log.append)
def logs_for_ever(append: Append, log: Log, event: Message, receivers: frozenset[str], now_ms: int) -> int:
    """Keeps events longer than was asked for."""
    return append(log, structs.replace(event, log_s=1_000_000), receivers, now_ms)


@instead_of(put._fan_out)
def logs_what_it_refuses(
    fan_out: Callable[[Turn, Message, bool], Put], turn: Turn, event: Message, limited: bool
) -> Put:
    """Keeps an event for which there was no room."""
    done = fan_out(turn, event, limited)
    if done.refused == "full":
        turn.place.log.append(event, frozenset(), turn.now_ms)
    return done


@instead_of(put._told)
def knows_repeats_by_their_deliveries(*given: object) -> None:
    """Tells an event again once its deliveries are gone."""


# --- what is given


@instead_of(catch_up._give)
def gives_all_of_the_log(give: Give, turn: Turn, kept: Kept, queue: str) -> bool:
    """Gives a subscription again what it got with the publish."""
    return give(turn, structs.replace(kept, receivers=frozenset()), queue)


@instead_of(catch_up._give)
def gives_with_new_ids(give: Give, turn: Turn, kept: Kept, queue: str) -> bool:
    """Gives what is in the log under ids that nobody knows."""
    entry = structs.replace(kept.entry, id=kept.entry.id[:-1] + b"?")
    return give(turn, structs.replace(kept, entry=entry), queue)


@instead_of(catch_up._give)
def gives_what_has_expired(give: Give, turn: Turn, kept: Kept, queue: str) -> bool:
    """Forgets when an event was to expire."""
    return give(turn, structs.replace(kept, entry=structs.replace(kept.entry, expires_ms=None)), queue)


@instead_of(catch_up._give)
def gives_before_its_time(give: Give, turn: Turn, kept: Kept, queue: str) -> bool:
    """Forgets when an event was to be due."""
    return give(turn, structs.replace(kept, entry=structs.replace(kept.entry, due_ms=None)), queue)


@instead_of(catch_up.catch_up)
def gives_more_than_asked(step: CatchUp, turn: Turn, event: str, queue: str, limit: int) -> CaughtUp:
    """Gives all of the log in one step."""
    return step(turn, event, queue, 1_000)


@instead_of(catch_up.catch_up)
def fills_queues_from_the_log(step: CatchUp, turn: Turn, event: str, queue: str, limit: int) -> CaughtUp:
    """Fills the queue of who catches up, so that nobody can publish."""
    turn.settings = structs.replace(turn.settings, depth_max=1_000_000)
    return step(turn, event, queue, limit)


@instead_of(catch_up.catch_up)
def gives_to_the_suspended(step: CatchUp, turn: Turn, event: str, queue: str, limit: int) -> CaughtUp:
    """Lets the log flow where nobody takes it."""
    before = notes.subscription(turn, event, queue)
    if before is not None:
        notes.rewrite(turn, event, queue, structs.replace(before, suspended=False))
    return step(turn, event, queue, limit)


# --- when it ends


@instead_of(notes.subscriptions)
def tells_those_behind_at_once(
    subscriptions: Callable[[Turn, str], dict[str, Subscription]], turn: Turn, event: str
) -> dict[str, Subscription]:
    """Lets a subscription that catches up have the new as well as the old."""
    return {queue: structs.replace(one, behind=False) for queue, one in subscriptions(turn, event).items()}


@instead_of(catch_up.catch_up)
def live_too_soon(step: CatchUp, turn: Turn, event: str, queue: str, limit: int) -> CaughtUp:
    """Takes a subscription for live after one step."""
    done = step(turn, event, queue, limit)
    after = notes.subscription(turn, event, queue)
    if done.given and after is not None:
        notes.rewrite(turn, event, queue, caught_up(after, 0))
    return structs.replace(done, behind=False)


@instead_of(catch_up.catch_up)
def never_live(step: CatchUp, turn: Turn, event: str, queue: str, limit: int) -> CaughtUp:
    """Leaves a subscription behind for ever."""
    done = step(turn, event, queue, limit)
    after = notes.subscription(turn, event, queue)
    if done.given and not done.behind and after is not None:
        notes.rewrite(turn, event, queue, structs.replace(after, behind=True, read_at=1_000_000))
    return done
