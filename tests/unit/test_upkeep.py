"""Upkeep: bounded steps, at once while there is more to do, and in time for what falls due."""

import asyncio

from ringpost.contract.errors import StoreError
from ringpost.service.upkeep import Upkeep
from ringpost.store.port import Tended


class Tending:
    """A store of which only `tend` is used: it answers from a list, then with nothing to do."""

    def __init__(self, *answers: Tended | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.tended = asyncio.Event()

    async def tend(self, limit: int = 1000) -> Tended:
        self.asked += 1
        self.tended.set()
        answer = self.answers.pop(0) if self.answers else Tended()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def until(self, count: int, timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while self.asked < count:
                self.tended.clear()
                await self.tended.wait()


def upkeep(store: Tending, lease_s: float = 300.0) -> tuple[Upkeep, list[int]]:
    found: list[int] = []
    return Upkeep(store, lease_s, lambda: found.append(1)), found  # type: ignore[arg-type]


async def test_more_to_do_is_done_at_once() -> None:
    store = Tending(*[Tended(purged=1000, more=True)] * 5)
    keep, found = upkeep(store)
    task = asyncio.create_task(keep.run())
    await store.until(6, timeout_s=0.5)
    task.cancel()
    assert found == [], "purging gives nothing to claim"


async def test_what_has_become_ready_is_told() -> None:
    for tended in (Tended(due=1), Tended(lost=1), Tended(woken=1)):
        keep, found = upkeep(Tending(tended))
        await keep.step()
        assert found == [1]


async def test_the_next_step_is_in_time_for_what_falls_due() -> None:
    keep, _ = upkeep(Tending(Tended(next_due_s=0.05)))
    assert await keep.step() == 0.05
    assert 0.7 < await keep.step() <= 1.0


async def test_short_leases_are_looked_after_often() -> None:
    keep, _ = upkeep(Tending(), lease_s=0.3)
    assert await keep.step() <= 0.1


async def test_a_message_that_falls_due_sooner_brings_the_step_forward() -> None:
    store = Tending()
    keep, _ = upkeep(store)
    task = asyncio.create_task(keep.run())
    await store.until(1)
    await asyncio.sleep(0)
    keep.due_in(0.01)
    keep.due_in(5.0)
    await store.until(2, timeout_s=0.6)
    task.cancel()


async def test_a_store_that_fails_is_tended_again() -> None:
    store = Tending(StoreError("busy"), Tended(due=1))
    keep, found = upkeep(store)
    task = asyncio.create_task(keep.run())
    await store.until(2)
    await asyncio.sleep(0)
    task.cancel()
    assert found == [1]
