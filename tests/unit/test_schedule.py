"""Schedules: when ticks fall due, and that every process puts the same ones ahead, without a backlog."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ringpost.contract.errors import UsageError
from ringpost.core.message import Delivery, Settlement, State
from ringpost.service.handler import Plan
from ringpost.service.schedule import Scheduler, Tick, check, next_after_ms, tick_of
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter

HOUR_MS = 3_600_000


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def scheduled(plan: Plan, name: str = "nightly") -> Any:
    queue = f"billing.schedule.{name}"
    return SimpleNamespace(queue=queue, name=queue, service="billing", plan=plan)


@pytest.mark.parametrize(
    ("plan", "now", "tick"),
    [
        (Plan(cron="0 3 * * *"), "2026-01-01T02:59:59+00:00", "2026-01-01T03:00:00+00:00"),
        (Plan(cron="0 3 * * *"), "2026-01-01T03:00:00+00:00", "2026-01-02T03:00:00+00:00"),
        (Plan(cron="0 3 * * *", tz="Europe/Berlin"), "2026-07-01T00:00:00+00:00", "2026-07-01T01:00:00+00:00"),
        (Plan(cron="*/15 * * * *"), "2026-01-01T00:14:59.999+00:00", "2026-01-01T00:15:00+00:00"),
        (Plan(every_s=60), "2026-01-01T00:00:59.999+00:00", "2026-01-01T00:01:00+00:00"),
        (Plan(every_s=60), "2026-01-01T00:01:00+00:00", "2026-01-01T00:02:00+00:00"),
        (Plan(every_s=0.5), "2026-01-01T00:00:00.500+00:00", "2026-01-01T00:00:01+00:00"),
    ],
)
def test_the_next_tick(plan: Plan, now: str, tick: str) -> None:
    assert next_after_ms(plan, at(now)) == at(tick)


def test_every_is_aligned_to_the_epoch_so_that_all_processes_agree() -> None:
    plan = Plan(every_s=7)
    ticks = {
        next_after_ms(plan, now_ms)
        for now_ms in range(at("2026-01-01T00:00:00+00:00"), at("2026-01-01T00:00:30+00:00"), 111)
    }
    assert all(tick % 7000 == 0 for tick in ticks)


def test_a_night_without_three_o_clock_has_its_tick_all_the_same() -> None:
    plan = Plan(cron="30 2 * * *", tz="Europe/Berlin")  # 2026-03-29: 02:00 is followed by 03:00
    first = next_after_ms(plan, at("2026-03-28T12:00:00+00:00"))
    assert at("2026-03-29T00:00:00+00:00") < first < at("2026-03-29T03:00:00+00:00")


@pytest.mark.parametrize(
    "plan",
    [
        Plan(cron="61 * * * *"),
        Plan(cron="every day"),
        Plan(cron="0 0 30 2 *"),
        Plan(cron="* * * * *", tz="Mars/Olympus"),
        Plan(every_s=0),
        Plan(every_s=-1),
        Plan(every_s=float("inf")),
        Plan(every_s=float("nan")),
    ],
)
def test_what_can_never_tick_is_refused(plan: Plan) -> None:
    with pytest.raises(UsageError):
        check(plan)


def test_a_good_plan_is_accepted() -> None:
    check(Plan(cron="*/5 * * * *", tz="America/New_York"))
    check(Plan(every_s=1))


def test_a_tick_tells_when_it_was_due() -> None:
    message = tick_of(scheduled(Plan(every_s=60)), Plan(every_s=60), at("2026-01-01T00:01:00+00:00"))
    assert msgspec.json.decode(message.body, type=Tick).due_at == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert message.queue == "billing.schedule.nightly"


async def test_all_processes_put_one_tick_ahead() -> None:
    now = [at("2026-01-01T00:00:10+00:00")]
    store = MemoryStore(clock=lambda: now[0])
    processes = [Scheduler(store, [scheduled(Plan(every_s=60))], lambda: now[0]) for _ in range(3)]
    for scheduler in processes * 2:
        await scheduler.step()
    (record,) = await store.find(Filter())
    assert (record.state, record.due_ms) == (State.SCHEDULED, at("2026-01-01T00:01:00+00:00"))


async def test_when_a_tick_falls_due_the_next_one_is_put() -> None:
    now = [at("2026-01-01T00:00:10+00:00")]
    store = MemoryStore(clock=lambda: now[0])
    scheduler = Scheduler(store, [scheduled(Plan(every_s=60))], lambda: now[0])
    await scheduler.step()
    now[0] += 50_000
    await scheduler.step()
    assert [record.due_ms for record in await store.find(Filter())] == [
        at("2026-01-01T00:01:00+00:00"),
        at("2026-01-01T00:02:00+00:00"),
    ]


@pytest.mark.parametrize(("overlap", "most"), [(False, 3), (True, 100)])
async def test_a_slow_handler_gathers_no_backlog_unless_ticks_may_overlap(overlap: bool, most: int) -> None:
    now = [at("2026-01-01T00:00:00+00:00")]
    store = MemoryStore(clock=lambda: now[0])
    scheduler = Scheduler(store, [scheduled(Plan(every_s=60, overlap=overlap))], lambda: now[0])
    for _ in range(20):
        await scheduler.step()
        now[0] += 60_000
        await store.tend()
        await store.claim({"billing.schedule.nightly": 100}, 1, 1e6)  # begins, and never ends
    records = await store.find(Filter())
    assert len(records) <= most
    assert overlap == (len(records) == 20)


async def test_after_a_full_stop_one_tick_is_there_and_not_all_that_were_missed() -> None:
    now = [at("2026-01-01T00:00:10+00:00")]
    store = MemoryStore(clock=lambda: now[0])
    await Scheduler(store, [scheduled(Plan(every_s=60))], lambda: now[0]).step()
    now[0] += 24 * HOUR_MS
    await Scheduler(store, [scheduled(Plan(every_s=60))], lambda: now[0]).step()
    await store.tend()
    claimed = await store.claim({"billing.schedule.nightly": 100}, 1, 30.0)
    assert len(claimed.deliveries) == 1


async def test_it_runs_by_itself() -> None:
    store = MemoryStore()
    task = asyncio.create_task(Scheduler(store, [scheduled(Plan(every_s=0.1))]).run())
    async with asyncio.timeout(10):
        while len(await store.find(Filter())) < 3:
            await store.tend()
            claimed = await store.claim({"billing.schedule.nightly": 9}, 1, 30.0)
            await store.settle([_done(delivery) for delivery in claimed.deliveries])
            await asyncio.sleep(0.02)
    task.cancel()


def _done(delivery: Delivery) -> Settlement:
    return Settlement(delivery, State.SUCCEEDED)
