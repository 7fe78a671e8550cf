"""Renewal from a thread of its own: it must outlive a blocked event loop, and say when leases can't be kept."""

import asyncio
import threading
import time
from typing import Any

from ringpost.contract.errors import StoreError
from ringpost.service.heartbeat import Heartbeat
from ringpost.store.port import Renewed


class Renewals:
    """A store of which only `renew` is used."""

    def __init__(self) -> None:
        self.cancel: list[int] = []
        self.failing = False
        self.asked: list[int] = []
        self.beat = threading.Semaphore(0)

    def renew(self, holder: int, lease_s: float) -> Renewed:
        self.asked.append(holder)
        self.beat.release()
        if self.failing:
            raise StoreError("no answer")
        return Renewed(self.cancel, 1)


def heartbeat(
    store: Any, *, cancelled: Any = None, failing: Any = None, lease_s: float = 0.03, **options: Any
) -> Heartbeat:
    return Heartbeat(
        store,
        (7,),
        lease_s,
        on_cancel=cancelled or (lambda refs: None),
        on_failing=failing or (lambda: None),
        **options,
    )


async def test_renewal_goes_on_while_the_loop_is_blocked() -> None:
    store = Renewals()
    heart = heartbeat(store)
    heart.start()
    for _ in range(3):
        assert store.beat.acquire(timeout=5)  # blocks the loop, as a handler would that never awaits
    heart.stop()


async def test_cancel_flags_reach_the_loop() -> None:
    store = Renewals()
    store.cancel = [4, 5]
    told: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    threads: list[threading.Thread] = []

    def cancelled(refs: list[int]) -> None:
        threads.append(threading.current_thread())
        if not told.done():
            told.set_result(refs)

    heart = heartbeat(store, cancelled=cancelled)
    heart.start()
    assert await told == [4, 5]
    heart.stop()
    assert threads[0] is threading.main_thread()


async def test_one_failure_is_borne_and_two_in_a_row_are_told() -> None:
    store, told = Renewals(), []
    heart = heartbeat(store, failing=lambda: told.append(1), clock_s=lambda: 5.0)
    heart.start(thread=False)
    for outcome in (False, True, False, True):
        store.failing = not outcome
        heart.beat()
    await asyncio.sleep(0)
    assert told == []
    store.failing = True
    heart.beat()
    heart.beat()
    await asyncio.sleep(0)
    assert told == [1]
    heart.stop()


async def test_the_last_renewal_counts_from_when_it_was_asked_for() -> None:
    now = [10.0]
    store = Renewals()
    heart = heartbeat(store, clock_s=lambda: now[0])
    now[0] = 11.0
    heart.beat()
    assert heart.renewed_s == 11.0
    now[0] = 12.0
    store.failing = True
    heart.beat()
    assert heart.renewed_s == 11.0


async def test_every_holder_is_renewed() -> None:
    store = Renewals()
    heart = heartbeat(store)
    heart.holders = (7, 8)
    heart.beat()
    assert store.asked == [7, 8]


async def test_without_a_thread_it_renews_on_the_loop() -> None:
    store = Renewals()
    heart = heartbeat(store)
    before = threading.active_count()
    heart.start(thread=False)
    assert threading.active_count() == before
    async with asyncio.timeout(5):
        while len(store.asked) < 2:  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(0.01)
    heart.stop()


def test_a_loop_that_was_closed_ends_the_thread() -> None:
    store = Renewals()
    store.cancel = [1]
    before = set(threading.enumerate())  # a test elsewhere may have left its own to end in its time

    async def start() -> Heartbeat:
        heart = heartbeat(store)
        heart.start()
        return heart

    asyncio.run(start())
    end_s = time.monotonic() + 5
    while any(thread.name == "ringpost-heartbeat" for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < end_s, "the thread outlives its loop"
        time.sleep(0.01)
