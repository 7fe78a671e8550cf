"""The watchdog: it acts when what could be claimed is left lying, and only then."""

import asyncio
from typing import Any

import pytest

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.service.watchdog import STALL_S, Watchdog
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Depth, Note

QUEUE = "mail.welcome"


class Scene:
    """A watchdog over a memory store, a clock to turn, and what it did."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.store = MemoryStore()
        self.claimable: dict[str, float] = {QUEUE: self.now_s}
        self.rescued = 0
        self.reasons: list[str] = []
        self.failing = False
        self.watchdog = Watchdog(
            self.store, lambda: self.claimable, self._rescue, self.reasons.append, clock_s=lambda: self.now_s
        )
        depths = self.store.depths

        async def depths_or_not() -> list[Depth]:
            if self.failing:
                raise StoreError("no answer")
            return await depths()

        self.store.depths = depths_or_not  # type: ignore[method-assign]

    async def _rescue(self) -> None:
        self.rescued += 1

    async def put(self) -> None:
        await self.store.put([Message(id=bytes(16), queue=QUEUE, body=b"{}")])

    async def look_for(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += STALL_S / 3
            await self.watchdog.look()


async def test_an_empty_queue_is_no_stall() -> None:
    scene = Scene()
    await scene.look_for(10 * STALL_S)
    assert scene.rescued == 0
    assert not scene.watchdog.stalled


async def test_ready_messages_that_nobody_claims_are_a_stall() -> None:
    scene = Scene()
    await scene.put()
    await scene.look_for(STALL_S)
    assert scene.rescued == 0
    await scene.look_for(STALL_S)
    assert scene.rescued == 1


async def test_after_three_rescues_it_gives_up_with_a_reason() -> None:
    scene = Scene()
    await scene.put()
    await scene.look_for(6 * STALL_S)
    assert scene.rescued == 3
    assert QUEUE in scene.reasons[0]
    assert scene.watchdog.stalled


async def test_claims_that_give_something_are_no_stall_though_more_is_ready() -> None:
    scene = Scene()
    await scene.put()
    for _ in range(30):
        scene.claimable[QUEUE] = scene.now_s
        await scene.look_for(STALL_S / 3)
    assert scene.rescued == 0


async def test_a_queue_without_free_slots_is_no_stall() -> None:
    scene = Scene()
    await scene.put()
    scene.claimable = {}
    await scene.look_for(10 * STALL_S)
    assert scene.rescued == 0


async def test_a_paused_queue_is_no_stall() -> None:
    scene = Scene()
    await scene.put()
    await scene.store.note_put(Note(f"pause/{QUEUE}", b"{}"))
    await scene.look_for(10 * STALL_S)
    assert scene.rescued == 0


async def test_another_services_queue_is_not_ours_to_judge() -> None:
    scene = Scene()
    await scene.put()
    scene.claimable = {"billing.charge": 0.0}
    await scene.look_for(10 * STALL_S)
    assert scene.rescued == 0


async def test_a_store_that_does_not_answer_is_a_stall() -> None:
    scene = Scene()
    scene.failing = True
    await scene.look_for(6 * STALL_S)
    assert scene.rescued == 3
    assert "not answered" in scene.reasons[0]


async def test_rescues_are_forgotten_once_all_is_well() -> None:
    scene = Scene()
    await scene.put()
    await scene.look_for(3 * STALL_S)
    assert scene.rescued > 0
    await scene.store.claim({QUEUE: 1}, 1, 30.0)
    await scene.look_for(STALL_S)
    scene.rescued = 0
    await scene.store.put([Message(id=b"\1" * 16, queue=QUEUE, body=b"{}")])
    await scene.look_for(5 * STALL_S)
    assert scene.rescued == 3, "three more before it gives up"


async def test_a_rescue_that_fails_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    await scene.put()

    async def fails() -> None:
        raise StoreError("locked")

    monkeypatch.setattr(scene.watchdog, "_rescue", fails)
    await scene.look_for(6 * STALL_S)
    assert scene.reasons


async def test_it_looks_by_itself() -> None:
    scene = Scene()
    looked = asyncio.Event()

    def claimable() -> dict[str, float]:
        looked.set()
        return {}

    async def never() -> Any:
        raise AssertionError

    watchdog = Watchdog(scene.store, claimable, never, scene.reasons.append, clock_s=lambda: 0.0, stall_s=0.01)
    task = asyncio.create_task(watchdog.run())
    async with asyncio.timeout(5):
        await looked.wait()
    task.cancel()
