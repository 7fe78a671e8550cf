"""Catching up: what a subscription that is behind gets out of the log, a step at a time."""

from ringpost.core.message import Message
from ringpost.core.subscription import caught_up, read_on, room
from ringpost.store.log import delivery_of
from ringpost.store.port import CaughtUp
from ringpost.store.sqlite import claim, log, notes, put
from ringpost.store.sqlite.turn import Turn

_WAITING = "SELECT ready + waiting + scheduled FROM ringpost_queue WHERE name = ?"
_AUDIT = "INSERT INTO ringpost_audit(at_ms, who, what, id) VALUES (?, 'catch_up', 'checksum', ?)"


def catch_up(turn: Turn, event: str, queue: str, limit: int, depth_max: int) -> CaughtUp:
    """Give the next of the log; where that is its end, the subscription is live from the next commit on."""
    before = notes.subscription(turn, event, queue)
    if before is None or not before.behind:
        return CaughtUp()
    count = min(limit, room(_waiting(turn, queue), depth_max))
    if before.suspended or count <= 0:
        return CaughtUp(behind=True)
    found = log.stretch(turn, event, queue, before.read_at, count)
    made = [delivery_of(entry, queue, turn.now_ms) for entry in found.entries]
    given = _put(turn, [one for one in made if one is not None])
    for id in found.damaged:
        turn.db.execute(_AUDIT, (turn.now_ms, id))
    after = caught_up(before, given) if found.ends else read_on(before, found.read_at, given)
    notes.rewrite(turn, event, queue, after, announced=found.ends)
    return CaughtUp(given, behind=not found.ends, more=not found.ends, damaged=len(found.damaged))


def _put(turn: Turn, deliveries: list[Message]) -> int:
    if not deliveries:
        return 0
    return sum(not answer.duplicate for answer in put.put_all(turn, deliveries, None, claim.deliver))


def _waiting(turn: Turn, queue: str) -> int:
    found = turn.db.execute(_WAITING, (queue,)).fetchall()
    return int(found[0][0]) if found else 0
