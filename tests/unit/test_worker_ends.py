"""The worker and what goes wrong or comes to an end: failures, leases, cancelling, stopping."""

import asyncio
import logging
from typing import Any

import pytest
from workers import Spied, StandIn, forever, handler, message, working

from ringpost.core import ids
from ringpost.core.message import Delivery, Settlement, State
from ringpost.store.port import Cancel, Filter, Woken


async def test_a_lost_fence_is_counted_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    store, pipeline = Spied(), StandIn()
    store.lose_fences = True
    await store.put([message() for _ in range(3)])
    with caplog.at_level(logging.WARNING, "ringpost.worker"):
        async with working(store, pipeline) as worker:
            await pipeline.until(lambda: len(pipeline.handled) == 3)
    assert worker.working().fences_lost == 3
    assert worker.working().settled == 0
    assert "LeaseLost" in caplog.text


async def test_a_failed_turn_loses_no_settlement_and_changes_the_holder() -> None:
    store, pipeline = Spied(), StandIn()
    first = message()
    started, go_on = asyncio.Event(), asyncio.Event()

    async def waits(delivery: Delivery) -> None:
        started.set()
        await go_on.wait()

    pipeline.handling = waits
    async with working(store, pipeline) as worker:
        await store.put([first])
        await started.wait()
        before = worker.holder
        store.claims_fail = 2
        go_on.set()
        await store.put([message()])
        await pipeline.until(lambda: len(pipeline.handled) == 2)
    assert await store.state(first) is State.SUCCEEDED
    assert worker.holder != before
    assert worker.working().settled == 2


async def test_an_error_of_the_pipeline_itself_costs_no_message() -> None:
    store, pipeline = Spied(), StandIn()
    broken = message()

    async def fails(delivery: Delivery) -> None:
        if delivery.id == broken.id:
            raise KeyError("a bug in the pipeline")

    pipeline.handling = fails
    await store.put([broken, message()])
    async with working(store, pipeline) as worker:
        await pipeline.until(lambda: len(pipeline.handled) == 1)
    assert await store.state(broken) is State.SCHEDULED
    assert worker.working().running == 0


async def test_stop_lets_what_runs_end() -> None:
    store = Spied()

    async def slow(delivery: Delivery) -> None:
        await asyncio.sleep(0.05)

    pipeline = StandIn(slow)
    first = message()
    await store.put([first])
    async with working(store, pipeline):
        await pipeline.until(lambda: pipeline.running == 1)
    assert pipeline.reasons == []
    assert await store.state(first) is State.SUCCEEDED


async def test_stop_releases_at_no_cost_what_does_not_end_in_time() -> None:
    store, pipeline = Spied(), StandIn(forever)
    messages = [message() for _ in range(3)]
    await store.put(messages)
    async with working(store, pipeline, grace_s=0.01):
        await pipeline.until(lambda: pipeline.running == 3)
    assert pipeline.reasons == ["shutdown"] * 3
    records = await store.read([m.id for m in messages])
    assert [(record.state, record.attempts, record.losses) for record in records if record] == [(State.READY, 0, 0)] * 3


async def test_nothing_is_claimed_after_stop() -> None:
    store, pipeline = Spied(), StandIn()
    async with working(store, pipeline):
        await store.put([message()])
        await pipeline.until(lambda: len(pipeline.handled) == 1)
    left = message()
    await store.put([left])
    await asyncio.sleep(0.05)
    assert await store.state(left) is State.READY


async def test_a_message_that_runs_long_is_cancelled_when_somebody_asks() -> None:
    store, pipeline = Spied(), StandIn(forever)
    first, second = message(), message()
    await store.put([first])
    async with working(store, pipeline):
        await pipeline.until(lambda: pipeline.running == 1)
        (changed,) = await store.change([Cancel(first.id)])
        assert changed.result == "requested"
        await pipeline.until(lambda: pipeline.running == 0)
        assert pipeline.reasons == ["user"]
        pipeline.handling = None
        await store.put([second])  # the runner that was cancelled is replaced
        await pipeline.until(lambda: len(pipeline.handled) == 1)
    assert await store.state(first) is State.CANCELLED
    assert await store.state(second) is State.SUCCEEDED


async def test_who_asks_before_anybody_listens_is_heard_all_the_same() -> None:
    class Mute(Spied):
        async def wait(self, queues: Any, ids: Any, timeout_s: float) -> Woken:
            return await super().wait(queues, frozenset(), timeout_s)

    store, pipeline = Mute(), StandIn(forever)
    first, second = message(), message()
    await store.put([first])
    async with working(store, pipeline, lease_s=600.0):  # no renewal tells of it
        await pipeline.until(lambda: pipeline.running == 1)
        await asyncio.sleep(1.2)  # it runs long, and is listened for
        await store.put([second])
        await pipeline.until(lambda: pipeline.running == 2)
        await store.change([Cancel(first.id), Cancel(second.id)])
        await pipeline.until(lambda: pipeline.running == 0)
    assert pipeline.reasons == ["user", "user"]


async def test_a_lease_that_cannot_be_renewed_ends_its_handler_before_it_ends_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, pipeline = Spied(), StandIn(forever)
    store.renewals_fail = True
    sent = message()
    await store.put([sent])
    async with working(store, pipeline, lease_s=0.3, grace_s=0):
        await pipeline.until(lambda: bool(pipeline.reasons))
    assert pipeline.reasons[0] == "lease_lost"
    assert f"the lease of message {ids.text(sent.id)} of {sent.queue} could not be kept" in caplog.text
    assert all(record.losses == 0 for record in await store.find(Filter()))


async def test_a_lease_that_is_renewed_is_kept_for_many_lengths() -> None:
    store, pipeline = Spied(), StandIn(forever)
    await store.put([message()])
    async with working(store, pipeline, lease_s=0.1, grace_s=0):
        await pipeline.until(lambda: pipeline.running == 1)
        for _ in range(9):
            store.renewed.clear()
            assert await asyncio.to_thread(store.renewed.wait, 5)
        assert pipeline.reasons == []
        assert pipeline.running == 1


async def test_suspects_run_one_at_a_time() -> None:
    store, pipeline = Spied(), StandIn()
    suspects = [message() for _ in range(3)]
    await store.put(suspects)
    for _ in range(2):  # lose each of them twice
        await store.claim({"mail.welcome": 3}, 1, -1.0, suspects=3)
        await store.tend()
    running: list[int] = []

    async def counts(delivery: Delivery) -> None:
        running.append(pipeline.running)
        await asyncio.sleep(0.01)

    pipeline.handling = counts
    async with working(store, pipeline):
        await pipeline.until(lambda: len(pipeline.handled) == 3)
    assert running == [1, 1, 1]


async def test_an_outage_behind_the_handlers_does_not_use_up_the_backlog() -> None:
    store, pipeline = Spied(), StandIn()
    charges: list[bool] = []
    handle = pipeline.handle_message

    async def fails(handler: Any, delivery: Delivery, *, charge: bool = True) -> Settlement:
        charges.append(charge)
        await handle(handler, delivery)
        return Settlement(delivery, State.SCHEDULED, delay_s=0.0, charge=charge, feeds="downstream")

    pipeline.handle_message = fails  # type: ignore[method-assign]
    await store.put([message() for _ in range(100)])
    async with working(store, pipeline, handler(concurrency=4)) as worker:
        await pipeline.until(lambda: bool(worker.working().holding_back))
        handled = len(pipeline.handled)
        assert 20 <= handled < 30
        await store.put([message() for _ in range(10)])
        await asyncio.sleep(0.1)
        assert len(pipeline.handled) == handled, "the breaker is open, and no probe is due yet"
        await pipeline.until(lambda: len(pipeline.handled) == handled + 1)
    assert charges[-1] is False
    assert worker.working().holding_back == ("mail.welcome",)


async def test_a_draining_worker_runs_what_it_has_and_takes_no_wake_up_from_others() -> None:
    store, pipeline = Spied(), StandIn(forever)
    async with working(store, pipeline, grace_s=0) as worker:
        await store.put([message()])
        await pipeline.until(lambda: pipeline.running == 1)
        worker.drain()
        left = message()
        await store.put([left])
        await asyncio.sleep(0.05)
        assert await store.state(left) is State.READY
        assert pipeline.running == 1
        assert not worker._listener.queues
