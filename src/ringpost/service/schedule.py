"""Schedules: every process puts the next tick ahead, under an id that all of them derive alike, so no leader is needed.

A tick is an ordinary message with a due time, in the queue `service.schedule.name`. One tick always lies ahead in the
store, so one survives a full stop. With `overlap=False` the ticks of a schedule stand in line, and none is put ahead
while an earlier one still waits there: a slow handler has a tick or two before it, never a growing backlog.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Struct

from ringpost.contract.errors import RingpostError, UsageError
from ringpost.core import ids
from ringpost.core.line import line_id
from ringpost.core.message import Envelope, Message, State
from ringpost.service.handler import Handler, Plan
from ringpost.store.logged import log_error
from ringpost.store.port import Store

_LOG = logging.getLogger("ringpost.schedule")
_EVERY_S_MIN = 0.1
_SLEEP_S_MAX = 60.0  # the wall clock may be stepped: look at it again at least this often
_RETRY_S = 1.0


class Tick(Struct):
    """Tell a scheduled handler which instant it was called for (aware, UTC), however late it runs."""

    due_at: datetime


def check(plan: Plan) -> None:
    """Raise UsageError for a plan that can't tick: a bad cron line, an unknown zone, a length of no use."""
    if plan.cron:
        _zone(plan.tz)
        next_after_ms(plan, wall_ms())
    elif not _EVERY_S_MIN <= plan.every_s < float("inf"):
        raise UsageError(f"every={plan.every_s:g} must be at least {_EVERY_S_MIN:g} seconds")


def next_after_ms(plan: Plan, now_ms: int) -> int:
    """Give the first tick after `now_ms`, both Unix milliseconds."""
    if not plan.cron:
        every_ms = round(plan.every_s * 1000)
        return (now_ms // every_ms + 1) * every_ms
    after = datetime.fromtimestamp(now_ms / 1000, _zone(plan.tz))
    try:
        return round(next(CronSim(plan.cron, after)).timestamp() * 1000)
    except CronSimError as error:
        raise UsageError(f"{plan.cron!r} is no cron expression: {error}") from error
    except StopIteration:
        raise UsageError(f"the cron expression {plan.cron!r} never falls due") from None


def tick_of(handler: Handler, plan: Plan, due_ms: int) -> Message:
    """Make the message of one tick. Every process makes the same one, and a store keeps one of them."""
    due_at = datetime.fromtimestamp(due_ms / 1000, UTC)
    return Message(
        id=ids.uuid7(due_ms, int.from_bytes(ids.hash128("tick", handler.queue, str(due_ms)), "big")),
        queue=handler.queue,
        body=msgspec.json.encode(Tick(due_at)),
        headers=msgspec.json.encode(Envelope(operation=handler.name, sender=handler.service)),
        due_ms=due_ms,
        line=None if plan.overlap else line_id(handler.queue, ""),
    )


def wall_ms() -> int:
    """Tell the time, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"there is no time zone {name!r}") from error


class Scheduler:
    """Keep the next tick of each schedule in the store: `run()` is one task of every process that serves them."""

    def __init__(self, store: Store, handlers: Iterable[Handler], clock_ms: Callable[[], int] = wall_ms) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._planned = {handler.queue: (handler, handler.plan) for handler in handlers if handler.plan is not None}
        self._due_ms = dict.fromkeys(self._planned, 0)  # the tick that was put last; 0: none yet
        self._put: dict[str, list[tuple[int, bytes]]] = {
            queue: [] for queue in self._planned
        }  # not known to have begun

    async def run(self) -> None:
        """Put tick after tick until cancelled; a store that fails is asked again."""
        while self._planned:
            try:
                await self.step()
            except RingpostError as error:
                log_error(
                    _LOG, logging.WARNING, error, "the next ticks could not be put; trying again in %g s", _RETRY_S
                )
                await asyncio.sleep(_RETRY_S)
            else:
                ahead_s = (min(self._due_ms.values()) - self._clock_ms()) / 1000
                await asyncio.sleep(min(max(ahead_s, 0.001), _SLEEP_S_MAX))

    async def step(self) -> None:
        """Put the next tick of every schedule whose last one has fallen due. Repeating it changes nothing."""
        now_ms = self._clock_ms()
        over = [queue for queue, due_ms in self._due_ms.items() if due_ms <= now_ms]
        behind = await self._behind(over)
        due: dict[str, int] = {}
        ticks: list[Message] = []
        for queue in over:
            handler, plan = self._planned[queue]
            due[queue] = next_after_ms(plan, now_ms)
            if queue not in behind:
                ticks.append(tick_of(handler, plan, due[queue]))
        if ticks:
            await self._store.put(ticks)
        self._due_ms.update(due)
        for tick in ticks:
            self._put[tick.queue].append((due[tick.queue], tick.id))

    async def _behind(self, queues: Sequence[str]) -> set[str]:
        """Say in which of these a tick still waits for the one before it, beside the one that falls due just now."""
        earlier = [(queue, id) for queue in queues for due_ms, id in self._put[queue] if due_ms < self._due_ms[queue]]
        records = await self._store.read([id for _, id in earlier]) if earlier else []
        waiting = {record.id: record.queue for record in records if record is not None and record.state < State.RUNNING}
        for queue in queues:
            self._put[queue] = [t for t in self._put[queue] if t[0] >= self._due_ms[queue] or t[1] in waiting]
        return {queue for queue in waiting.values() if not self._planned[queue][1].overlap}
