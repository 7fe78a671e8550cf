"""The worker and its slots: how many it claims for, what runs at once, what calls take first."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from workers import Handling, Spied, StandIn, forever, handler, message, working

from ringpost.core.limit import Fixed
from ringpost.core.message import Delivery, Priority, Settled, State
from ringpost.service import worker as service_worker
from ringpost.service.lane import Lane
from ringpost.service.slots import Slots
from ringpost.store.memory.store import MemoryStore


async def test_no_more_is_claimed_than_slots_are_free() -> None:
    store, pipeline = Spied(), StandIn(forever)
    await store.put([message() for _ in range(20)])
    async with working(store, pipeline, handler(concurrency=5), grace_s=0):
        await pipeline.until(lambda: pipeline.running == 5)
        for _ in range(20):
            await asyncio.sleep(0)
        assert pipeline.most == 5
        assert (await store.depths())[0].ready == 15


class CommitsItself(StandIn):
    """A pipeline whose handlers commit one by one, so that a turn has nothing to settle for them."""

    def __init__(self, store: MemoryStore, handling: Handling) -> None:
        super().__init__(handling)
        self.store = store

    async def handle_message(self, handler: Any, delivery: Delivery, *, charge: bool = True) -> Any:
        settlement = await super().handle_message(handler, delivery, charge=charge)
        if settlement.to is State.SUCCEEDED:
            await self.store.settle([settlement])
            return Settled(settlement, done=True)
        return settlement


async def claims_for_freed_slots(ends: int, monkeypatch: pytest.MonkeyPatch, gap_s: float) -> list[int]:
    """Let so many of 16 handlers that commit one by one come to their end; give how many were claimed after that, each
    time, by when the worker has had time for it."""
    monkeypatch.setattr(service_worker, "_GATHER_S", gap_s)
    go_on = asyncio.Semaphore(0)

    async def handling(delivery: Delivery) -> None:
        await go_on.acquire()

    store = Spied()
    pipeline = CommitsItself(store, handling)
    await store.put([message() for _ in range(40)])
    async with working(store, pipeline, handler(concurrency=16), grace_s=0):
        await pipeline.until(lambda: pipeline.running == 16)
        before = len(store.wanted)
        for number in range(1, ends + 1):
            go_on.release()
            await pipeline.until(lambda number=number: len(pipeline.handled) == number)
            for _ in range(50):
                await asyncio.sleep(0)
        if gap_s < 1:
            await pipeline.until(lambda: pipeline.running == 16)
        return [want["mail.welcome"] for want in store.wanted[before:] if want]


async def test_slots_that_become_free_one_by_one_are_filled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await claims_for_freed_slots(1, monkeypatch, 600.0) == []
    assert await claims_for_freed_slots(2, monkeypatch, 600.0) == [2]


async def test_a_slot_that_no_other_joins_is_filled_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await claims_for_freed_slots(1, monkeypatch, 0.005) == [1]


async def test_a_worker_that_claims_for_each_slot_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "few", lambda self, count, now_s, gap_s: False)
    assert await claims_for_freed_slots(2, monkeypatch, 600.0) == [1, 1]


async def test_handlers_that_wait_all_run_at_once() -> None:
    store, pipeline = Spied(), StandIn(forever)
    await store.put([message() for _ in range(100)])
    async with working(store, pipeline, handler(concurrency=100), grace_s=0):
        await pipeline.until(lambda: pipeline.running == 100)


async def test_handlers_that_do_not_wait_need_few_tasks() -> None:
    tasks: set[Any] = set()

    async def quick(delivery: Delivery) -> None:
        tasks.add(asyncio.current_task())

    store, pipeline = Spied(), StandIn(quick)
    await store.put([message() for _ in range(400)])
    async with working(store, pipeline, handler(concurrency=200)):
        await pipeline.until(lambda: len(pipeline.handled) == 400)
    assert len(tasks) < 20


async def test_a_slot_is_free_once_the_handler_has_ended_though_not_yet_settled() -> None:
    store, pipeline = Spied(), StandIn()
    slots = pipeline.slots(handler(concurrency=1))
    free_at_claim: list[int] = []
    claim = store.claim

    async def watched(want: Any, *rest: Any, **options: Any) -> Any:
        free_at_claim.append(slots.total - slots.used)
        return await claim(want, *rest, **options)

    store.claim = watched  # type: ignore[method-assign]
    await store.put([message() for _ in range(5)])
    async with working(store, pipeline, handler(concurrency=1)):
        await pipeline.until(lambda: len(pipeline.handled) == 5)
    assert set(free_at_claim) == {1}


async def test_while_the_loop_is_late_only_a_few_claims_a_second_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    store, pipeline = Spied(), StandIn()
    async with working(store, pipeline) as worker:
        monkeypatch.setattr(worker, "_lag", SimpleNamespace(high=True, watch=lambda: None, stop=lambda: None))
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for count in range(1, 4):
            await store.put([message()])
            while len(pipeline.handled) < count:
                worker.look()
                await asyncio.sleep(0.005)
        assert loop.time() - begun_s >= 0.15
    assert len(pipeline.handled) == 3


async def test_what_calls_have_taken_the_slots_of_meanwhile_is_given_back_at_no_cost() -> None:
    store, pipeline = Spied(), StandIn()
    slots = pipeline.slots(handler(concurrency=1))
    claim, released = store.claim, asyncio.Event()

    async def beside_a_call(want: Any, holder: int, lease_s: float, settlements: Any = (), **options: Any) -> Any:
        if want and not released.is_set():
            assert slots.take()
        if any(settlement.to is State.READY and not settlement.charge for settlement in settlements):
            released.set()
            slots.give()
        return await claim(want, holder, lease_s, settlements, **options)

    store.claim = beside_a_call  # type: ignore[method-assign]
    await store.put([message()])
    async with working(store, pipeline, handler(concurrency=1)):
        await pipeline.until(lambda: len(pipeline.handled) == 1)
    assert released.is_set()
    assert [delivery.attempt for delivery in pipeline.handled] == [1]


class Greedy(Slots, eq=False):
    """Slots that don't say that calls wait for them."""

    @property
    def free(self) -> int:
        return self.total - self.used - self.asked


@pytest.mark.parametrize(("kind", "claimed"), [(Slots, False), (Greedy, True)], ids=["claims yield", "twin"])
async def test_nothing_is_claimed_while_calls_wait(kind: type[Slots], claimed: bool) -> None:
    store, pipeline = Spied(), StandIn()
    slots = pipeline._slots["mail.welcome"] = kind(2, limiter=Fixed(1))
    assert slots.take()
    now_s = asyncio.get_running_loop().time()
    call = asyncio.create_task(slots.enter(Priority.NORMAL, now_s + 30))
    await asyncio.sleep(0)
    await store.put([message()])
    async with working(store, pipeline, handler(concurrency=2)) as worker:
        worker.look()
        for _ in range(50):  # far more turns of the loop than a claim and a handling take
            await asyncio.sleep(0)
        assert bool(pipeline.handled) is claimed
        slots.give()  # the call that waits has it now, and nobody waits any more
        assert await call == "runs"
        await pipeline.until(lambda: len(pipeline.handled) == 1)
        slots.give()
