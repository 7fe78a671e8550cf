"""Catching up: what a subscription that is behind gets out of the log, a step at a time."""

from ringpost.core.subscription import caught_up, read_on, room
from ringpost.store.log import delivery_of
from ringpost.store.memory import notes, put
from ringpost.store.memory.log import Kept
from ringpost.store.memory.turn import Turn
from ringpost.store.port import CaughtUp


def catch_up(turn: Turn, event: str, queue: str, limit: int) -> CaughtUp:
    """Give the next of the log; where that is its end, the subscription is live from the next turn on."""
    before = notes.subscription(turn, event, queue)
    if before is None or not before.behind:
        return CaughtUp()
    count = min(limit, room(turn.rows.counts[queue].live, turn.settings.depth_max))
    if before.suspended or count <= 0:
        return CaughtUp(behind=True)
    log = turn.place.log
    found = log.step(event, before.read_at, count)
    given = sum(_give(turn, kept, queue) for kept in found)
    read_at = found[-1].entry.pos if found else before.read_at
    behind = not log.ends_at(event, read_at)
    after = read_on(before, read_at, given) if behind else caught_up(before, given)
    notes.rewrite(turn, event, queue, after)
    return CaughtUp(given, behind, more=behind)


def _give(turn: Turn, kept: Kept, queue: str) -> bool:
    """Give a subscription what it did not get with the publish."""
    delivery = None if queue in kept.receivers else delivery_of(kept.entry, queue, turn.now_ms)
    return delivery is not None and not put.put(turn, delivery, limited=False).duplicate
