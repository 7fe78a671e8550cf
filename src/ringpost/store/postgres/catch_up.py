"""Catching up: what a subscription that is behind gets out of the log, a step at a time.

A step is a transaction on a connection of its own, so that nobody's turn waits while it waits for the log to be closed.
Up to `read_to` the log was closed once and can be read as it is; beyond it has to be closed again. What is locked is
locked in one order: the log, the subscription, the lines.
"""

from collections.abc import Callable

from msgspec import Struct, structs

from ringpost.contract.errors import StoreError
from ringpost.core import notes
from ringpost.core.notes import Subscription
from ringpost.core.subscription import caught_up, read_on, room
from ringpost.store.log import delivery_of
from ringpost.store.port import CaughtUp
from ringpost.store.postgres import log, put, read
from ringpost.store.postgres.db import Again, Lost, not_free
from ringpost.store.postgres.log import Stretch
from ringpost.store.postgres.transaction import Pool
from ringpost.store.postgres.turn import Turn

_VALUE = "SELECT value, ringpost.now_ms() FROM ringpost.note WHERE name = $1"
_LOCKED = f"{_VALUE} FOR UPDATE"
_REWRITE = "UPDATE ringpost.note SET value = $2, version = version + 1 WHERE name = $1"
_AUDIT = (
    "INSERT INTO ringpost.audit (at_ms, who, what, id) SELECT ringpost.now_ms(), 'catch_up', 'checksum', id"
    " FROM unnest($1::bytea[]) id"
)


class Step(Struct, frozen=True):
    """What is asked: at most `limit` of an event for a queue, which takes `depth_max` in all."""

    event: str
    queue: str
    limit: int
    depth_max: int


async def catch_up(pool: Pool, committed: Callable[[Turn], None], step: Step) -> CaughtUp:
    """Do one step. `committed` is told what it brought. Raises StoreError where the server doesn't answer; whether the
    step was done shows in the next."""
    queues = await pool.know({step.queue})
    link, db = await pool.take()
    try:
        await db.begin()
        turn = Turn(db, queues)
        done = await _take(turn, step)
        await db.commit()
        committed(turn)
        return done
    except Again:
        return CaughtUp(behind=True)
    except Lost as exc:
        raise StoreError(f"the store did not answer: {exc}") from exc
    except Exception as exc:
        if not not_free(exc):
            raise
        return CaughtUp(behind=True)  # somebody is publishing, and takes his time
    finally:
        await db.roll_back()
        await pool.give(link)


async def _take(turn: Turn, step: Step) -> CaughtUp:
    """Look whether the log has to be closed, close it, and look again."""
    before, _ = await _subscription(turn, _VALUE, step)
    closed = before is not None and before.behind and not before.suspended and before.read_at >= before.read_to
    if closed:
        await log.close(turn, step.event)
    before, now_ms = await _subscription(turn, _LOCKED, step)
    if before is None or not before.behind:
        return CaughtUp()
    count = min(step.limit, room(await _waiting(turn, step.queue), step.depth_max))
    if before.suspended or count <= 0:
        return CaughtUp(behind=True)
    if closed:
        return await _read_to_the_end(turn, step, before, count, now_ms)
    if before.read_at < before.read_to:
        found = await _stretch(turn, step, before, before.read_to, count)
        read_at = found.read_at if found.read_at > before.read_at else before.read_to  # the rest has been purged
        given = await _give(turn, step, found, now_ms)
        await _rewrite(turn, step, read_on(before, read_at, given))
        return CaughtUp(given, behind=True, more=True, damaged=len(found.damaged))
    return CaughtUp(behind=True, more=True)  # another process has come so far meanwhile


async def _read_to_the_end(turn: Turn, step: Step, before: Subscription, count: int, now_ms: int) -> CaughtUp:
    """Give the rest of a log that is closed. If that is too much for one step, only note how far it may be read now:
    nobody is to be kept from publishing meanwhile."""
    end = await log.end(turn, step.event)
    found = await _stretch(turn, step, before, end, count)
    if found.read_at < end:
        await _rewrite(turn, step, structs.replace(before, read_to=end))
        return CaughtUp(behind=True, more=True)
    given = await _give(turn, step, found, now_ms)
    await _rewrite(turn, step, caught_up(before, given))
    return CaughtUp(given, damaged=len(found.damaged))


async def _stretch(turn: Turn, step: Step, before: Subscription, until: int, count: int) -> Stretch:
    queue = turn.queues.by_name[step.queue].no
    return await log.stretch(turn, step.event, queue, before.read_at, until, count)


async def _give(turn: Turn, step: Step, found: Stretch, now_ms: int) -> int:
    if found.damaged:
        await turn.db.fetch(_AUDIT, found.damaged)
    made = [delivery_of(entry, step.queue, now_ms) for entry in found.entries]
    deliveries = [one for one in made if one is not None]
    if not deliveries:
        return 0
    return sum(not answer.duplicate for answer in await put.put_all(turn, deliveries, None))


async def _subscription(turn: Turn, sql: str, step: Step) -> tuple[Subscription | None, int]:
    """Read the subscription, if it is there, and the server's time."""
    found = await turn.db.fetch(sql, notes.subscription(step.event, step.queue))
    return (notes.decode_subscription(found[0][0]), found[0][1]) if found else (None, 0)


async def _rewrite(turn: Turn, step: Step, after: Subscription) -> None:
    await turn.db.fetch(_REWRITE, notes.subscription(step.event, step.queue), notes.encode(after))


async def _waiting(turn: Turn, queue: str) -> int:
    rows = await turn.db.fetch(read.DEPTHS, [turn.queues.by_name[queue].no])
    return int(rows[0][1]) if rows else 0
