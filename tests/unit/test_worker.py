"""The worker on the memory store: what it claims, and when."""

import asyncio

from workers import Spied, StandIn, handler, message, working

from ringpost.core.message import Delivery, Reservation, State
from ringpost.store.port import Note


async def test_everything_put_before_is_handled_once_and_settled() -> None:
    store, pipeline = Spied(), StandIn()
    messages = [message() for _ in range(500)]
    await store.put(messages)
    async with working(store, pipeline) as worker:
        await pipeline.until(lambda: len(pipeline.handled) == 500)
    assert sorted(delivery.id for delivery in pipeline.handled) == sorted(m.id for m in messages)
    assert {await store.state(m) for m in messages} == {State.SUCCEEDED}
    assert worker.working().settled == 500


async def test_a_put_wakes_an_idle_worker() -> None:
    store, pipeline = Spied(), StandIn()
    async with working(store, pipeline):
        for count in range(1, 4):
            await store.put([message()])
            async with asyncio.timeout(2):  # less than the poll
                await pipeline.until(lambda count=count: len(pipeline.handled) == count)
    assert len(store.wanted) < 20


async def test_finished_settlements_travel_with_the_next_claim() -> None:
    store, pipeline = Spied(), StandIn()
    await store.put([message() for _ in range(64)])
    async with working(store, pipeline, handler(concurrency=16)):
        await pipeline.until(lambda: len(pipeline.handled) == 64)
    assert len(store.wanted) < 20, "a commit for every message, not for every turn"


async def test_a_message_born_running_is_handled_by_the_same_runners() -> None:
    store, pipeline = Spied(), StandIn()
    async with working(store, pipeline, claiming=False) as worker:
        first = message(reserve=Reservation(worker.holder, 30.0))
        (put,) = await store.put([first])
        assert put.delivery is not None
        assert pipeline.slots(handler()).take()
        worker.accept(put.delivery)
        await pipeline.until(lambda: len(pipeline.handled) == 1)
    assert await store.state(first) is State.SUCCEEDED
    assert pipeline.slots(handler()).used == 0


async def test_a_worker_that_does_not_claim_leaves_queues_alone() -> None:
    store, pipeline = Spied(), StandIn()
    left = message()
    await store.put([left])
    async with working(store, pipeline, claiming=False):
        await asyncio.sleep(0.05)
    assert await store.state(left) is State.READY


async def test_a_paused_queue_is_not_claimed_nor_asked_without_end_and_goes_on_afterwards() -> None:
    store, pipeline = Spied(), StandIn()
    await store.note_put(Note("pause/mail.welcome", b"{}"))
    await store.put([message()])
    async with working(store, pipeline):
        await asyncio.sleep(0.2)
        assert pipeline.handled == []
        assert len(store.wanted) < 20
        await store.note_drop("pause/mail.welcome")
        await pipeline.until(lambda: len(pipeline.handled) == 1)


async def test_a_quiet_queue_is_served_while_another_is_drained() -> None:
    store, pipeline = Spied(), StandIn()
    await store.put([message() for _ in range(50)])
    served = asyncio.Event()
    left = 2000

    async def busy(delivery: Delivery) -> None:
        nonlocal left
        if delivery.queue == "mail.rare":
            served.set()
        elif not served.is_set() and left:
            left -= 1
            await store.put([message()])  # there is always more

    pipeline.handling = busy
    async with working(store, pipeline, handler(), handler("mail.rare")):
        await pipeline.until(lambda: len(pipeline.handled) > 100)
        await store.put([message("mail.rare")])
        async with asyncio.timeout(2):
            await served.wait()
        assert left > 0


async def test_what_falls_due_is_handled() -> None:
    store, pipeline = Spied(), StandIn()
    async with working(store, pipeline):
        await store.put([message(delay_s=0.05)])
        await pipeline.until(lambda: len(pipeline.handled) == 1)
