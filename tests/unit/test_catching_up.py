"""A process brings its subscriptions to the end of their logs: at its start, after it, and whoever set them behind."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from msgspec import structs

from ringpost import Contract, Event, Service
from ringpost.contract.errors import StoreError
from ringpost.core import notes
from ringpost.core.message import Message, Settlement, State
from ringpost.core.notes import Subscription
from ringpost.core.subscription import missed, refilled
from ringpost.service import catching_up
from ringpost.service.attendance import Attendance
from ringpost.service.catching_up import CatchingUp
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import CaughtUp, Note
from ringpost.testing.conformance.suite import LEASE_S, new_id

EVENT, QUEUE = "shop.sold", "stats.on.shop.sold"
NAME = notes.subscription(EVENT, QUEUE)
OTHER = notes.subscription(EVENT, "other.on.shop.sold")


class Shop(Contract):
    sold = Event(int, keep=timedelta(days=1))


stats, late = Service(name="stats"), Service(name="stats")


@stats.on(Shop.sold)
async def count(number: int) -> None: ...


@late.on(Shop.sold, from_beginning=True)
async def count_all(number: int) -> None: ...


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("_LOOK_S", "_REST_S", "_WAIT_S", "_WAIT_S_MAX"):
        monkeypatch.setattr(catching_up, name, 0.001)
    yield


async def publish(store: MemoryStore, count: int) -> None:
    await store.put([Message(new_id(), "", b"1", event=EVENT, log_s=3600) for _ in range(count)])


async def noted(store: MemoryStore, name: str = NAME) -> Subscription:
    (note,) = await store.notes(name)
    return notes.decode_subscription(note.value)


async def until_live(store: MemoryStore) -> Subscription:
    async with asyncio.timeout(20):
        while (found := await noted(store)).behind:  # noqa: ASYNC110
            await asyncio.sleep(0)
    return found


async def attend(store: MemoryStore, service: Service) -> CatchingUp:
    """Subscribe as a process does at its start."""
    attendance = Attendance(store, service.handlers.values(), lambda: 1_800_000_000_000)
    await attendance.say_seen()
    return CatchingUp(store, attendance.names)


async def test_a_short_log_is_given_before_the_service_is_ready() -> None:
    store = MemoryStore()
    await publish(store, 3)
    await (await attend(store, late)).begin()
    assert (await noted(store)).given == 3
    assert not (await noted(store)).behind


async def test_a_subscription_that_is_there_stays_as_it_is() -> None:
    store = MemoryStore()
    await publish(store, 3)
    await attend(store, stats)
    await (await attend(store, late)).begin()
    assert (await noted(store)).given == 0


async def test_a_long_log_is_given_meanwhile_by_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "STEP_ROWS", 10)
    store = MemoryStore()
    await publish(store, 100)
    processes = [await attend(store, late) for _ in range(2)]
    for one in processes:
        await one.begin()
    assert (await noted(store)).given == 20, "so much before they are ready"
    tasks = [asyncio.ensure_future(one.run()) for one in processes]
    assert (await until_live(store)).given == 100
    await ended(*tasks)


async def test_what_a_command_has_set_behind_is_gone_on_with() -> None:
    store = MemoryStore()
    catching = await attend(store, stats)
    task = asyncio.ensure_future(catching.run())
    await store.note_put(Note(NAME, notes.encode(structs.replace(await noted(store), suspended=True))))
    await publish(store, 5)
    await store.note_put(Note(NAME, notes.encode(refilled(structs.replace(await noted(store), suspended=False)))))
    assert (await until_live(store)).given == 5
    await ended(task)


async def test_nobody_else_s_is_touched() -> None:
    store = MemoryStore()
    await publish(store, 5)
    await store.note_put(Note(OTHER, notes.encode(Subscription(behind=True))))
    catching = await attend(store, late)
    task = asyncio.ensure_future(catching.run())
    await until_live(store)
    await ended(task)
    assert (await noted(store, OTHER)).behind


class Failing(MemoryStore):
    """Can't be reached at first, and once it can, somebody is publishing."""

    steps = 0

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        self.steps += 1
        if self.steps == 1:
            raise StoreError("away")
        return CaughtUp(behind=True) if self.steps == 2 else await super().catch_up(event, queue, limit)


async def test_what_stands_in_the_way_is_waited_for() -> None:
    store = Failing()
    await publish(store, 5)
    task = asyncio.ensure_future((await attend(store, late)).run())
    assert (await until_live(store)).given == 5
    await ended(task)


async def test_a_full_queue_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpost.core.subscription.CATCH_UP_WAITING_MAX", 3)
    store = MemoryStore()
    await publish(store, 10)
    task = asyncio.ensure_future((await attend(store, late)).run())
    most = 0
    async with asyncio.timeout(20):
        while (await noted(store)).behind:
            await asyncio.sleep(0.001)
            waiting = (await store.claim({QUEUE: 100}, 1, LEASE_S)).deliveries
            most = max(most, len(waiting))
            await store.settle([Settlement(one, State.SUCCEEDED) for one in waiting])
    await ended(task)
    assert most == 3


def test_the_first_that_was_missed_stays_the_first() -> None:
    before = Subscription(suspended=True)
    assert missed(before, 2, 7, 1).gap_at == 7
    assert missed(missed(before, 2, 7, 1), 1, 5, 2).gap_at == 5, "commits may come out of their order"
    assert missed(missed(before, 2, 7, 1), 1, 9, 2).gap_at == 7
    assert missed(missed(before, 2, 7, 1), 1, 0, 2).gap_at == 7, "one that no log has"
    assert missed(missed(before, 2, 0, 1), 1, 9, 2).gap_at == 9


async def ended(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
