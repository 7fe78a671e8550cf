"""The worker on the memory store: what it claims, settles, gives back, and how it stops."""

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ringpost.contract.errors import StoreError
from ringpost.core import ids
from ringpost.core.limit import Fixed
from ringpost.core.message import Delivery, Message, Priority, Reservation, Settled, Settlement, State
from ringpost.service import worker as service_worker
from ringpost.service.lane import Lane
from ringpost.service.slots import Slots
from ringpost.service.worker import Worker
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Cancel, Filter, Note, Renewed, Woken

Handling = Callable[[Delivery], Awaitable[None]]
_ids = itertools.count(1)


def message(queue: str = "mail.welcome", **fields: Any) -> Message:
    return Message(id=next(_ids).to_bytes(16, "big"), queue=queue, body=b"{}", **fields)


def handler(queue: str = "mail.welcome", concurrency: int = 8) -> Any:
    return SimpleNamespace(queue=queue, concurrency=concurrency, plan=None)


class StandIn:
    """A pipeline that runs one function, and settles as the real one does for success and for each reason to cancel."""

    def __init__(self, handling: Handling | None = None) -> None:
        self.handling = handling
        self.handled: list[Delivery] = []
        self.reasons: list[str] = []
        self.most = 0
        self.changed = asyncio.Event()
        self._slots: dict[str, Slots] = {}
        self._running: dict[int, tuple[asyncio.Task[Any], list[str]]] = {}

    def slots(self, handler: Any) -> Slots:
        return self._slots.setdefault(handler.queue, Slots(handler.concurrency))

    async def handle_message(self, handler: Any, delivery: Delivery, *, charge: bool = True) -> Settlement:
        task = asyncio.current_task()
        assert task is not None
        reason: list[str] = []
        self._running[delivery.ref] = task, reason
        self.most = max(self.most, len(self._running))
        self.changed.set()
        try:
            if self.handling is not None:
                await self.handling(delivery)
        except asyncio.CancelledError:
            if not reason:
                raise
            self.reasons += reason
            to = State.CANCELLED if reason == ["user"] else State.READY
            return Settlement(delivery, to, charge=False)
        finally:
            del self._running[delivery.ref]
            self.changed.set()
        self.handled.append(delivery)
        self.changed.set()
        return Settlement(delivery, State.SUCCEEDED)

    def cancel(self, ref: int, reason: str) -> bool:
        if ref not in self._running:
            return False
        task, reasons = self._running[ref]
        reasons.append(reason)
        return task.cancel()

    @property
    def running(self) -> int:
        return len(self._running)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Spied(MemoryStore):
    """A memory store that notes its claims, and fails, loses or hangs where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[dict[str, int]] = []
        self.holders: list[int] = []
        self.claims_fail = 0
        self.renewals_fail = False
        self.renewed = threading.Event()
        self.lose_fences = False

    async def claim(self, want: Any, holder: int, lease_s: float, settlements: Any = (), *, suspects: int = 1) -> Any:
        self.wanted.append(dict(want))
        self.holders.append(holder)
        if self.claims_fail:
            self.claims_fail -= 1
            raise StoreError("the disk is on fire")
        claimed = await super().claim(want, holder, lease_s, settlements, suspects=suspects)
        if self.lose_fences:
            claimed.settled = [False for _ in claimed.settled]
        return claimed

    def renew(self, holder: int, lease_s: float) -> Renewed:
        if self.renewals_fail:
            raise StoreError("no answer")
        renewed = super().renew(holder, lease_s)
        self.renewed.set()
        return renewed

    async def state(self, message: Message) -> State | None:
        (record,) = await self.read([message.id])
        return None if record is None else record.state


@asynccontextmanager
async def working(
    store: MemoryStore, pipeline: StandIn, *handlers: Any, lease_s: float = 30.0, grace_s: float = 5.0, **options: Any
) -> AsyncIterator[Worker]:
    worker = Worker(store, pipeline, handlers or (handler(),), lease_s=lease_s, **options)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace_s)


async def forever(delivery: Delivery) -> None:
    await asyncio.Event().wait()


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


async def test_finished_settlements_travel_with_the_next_claim() -> None:
    store, pipeline = Spied(), StandIn()
    await store.put([message() for _ in range(64)])
    async with working(store, pipeline, handler(concurrency=16)):
        await pipeline.until(lambda: len(pipeline.handled) == 64)
    assert len(store.wanted) < 20, "a commit for every message, not for every turn"


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
