"""Kill -9 of sender, receiver and both at random moments: nothing acknowledged is lost, nothing gets stuck."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import Struct
from scene import Running, Scene, a_client, a_scene
from town import Job, Town

from ringpost import OperationFailed
from ringpost.core import ids
from ringpost.core.message import State

LEASE_S = 2.0
CYCLES = 20
LIVE = (State.SCHEDULED, State.WAITING, State.READY, State.RUNNING)
_LOOK_S = 0.02


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_scene(tmp_path, LEASE_S) as scene:
        yield scene


class Verdict(Struct):
    """What the history says: sets of job numbers."""

    receipted: set[int]
    effects: set[int]
    lost: set[int]  # acknowledged, and neither done nor dead nor anywhere
    unexpected: set[int]  # done, and never sent
    sunk: list[str]  # taken over without a higher fence
    doubled: set[int]  # more than one message staged by one
    unstaged: set[int]  # done, and what it staged never came


async def judged(scene: Scene, most: int) -> Verdict:
    diary = scene.diary
    receipted = {line["receipt"] for line in diary.all(receipt=...)}
    effects = {line["effect"] for line in diary.all(effect=...)}
    known = {line["id"] for line in diary.all(receipt=...)}
    left = {ids.text(record.id) for record in await scene.rows(*LIVE, State.DEAD)}
    kept = {line["receipt"] for line in diary.all(receipt=...) if line["id"] in left & known}
    fences: dict[str, list[int]] = {}
    for line in diary.all(began=...):
        fences.setdefault(line["id"], []).append(line["fence"])
    noted: dict[int, set[str]] = {}
    for line in diary.all(noted=...):
        noted.setdefault(line["noted"], set()).add(line["id"])
    return Verdict(
        receipted,
        effects,
        lost=receipted - (effects | kept),
        unexpected={number for number in effects if not 0 <= number < most},
        sunk=[id for id, seen in fences.items() if any(a >= b for a, b in pairwise(seen))],
        doubled={number for number, seen in noted.items() if len(seen) > 1},
        unstaged=effects - noted.keys(),
    )


class Killing:
    """Two processes, killed again and again."""

    def __init__(self, scene: Scene, sender: str, seed: int) -> None:
        self.scene = scene
        self.random = random.Random(seed)
        self._role = sender
        self._next = 0
        self.sender: Running
        self.receiver: Running

    async def start(self) -> None:
        self.receiver = await self.scene.start("town")
        await self._start_sender()

    async def _start_sender(self) -> None:
        self.sender = await self.scene.start(self._role, self._next)

    async def cycle(self) -> None:
        """Wait until both are at work, then for a random moment; kill one or both, and start what was killed."""
        diary = self.scene.diary
        begun = len(diary.all(effect=..., pid=self.receiver.pid))
        sent = len(diary.all(receipt=..., pid=self.sender.pid))
        await diary.until(begun + 1, effect=..., pid=self.receiver.pid)
        await diary.until(sent + 1, receipt=..., pid=self.sender.pid)
        await asyncio.sleep(self.random.uniform(0.02, 0.4))
        whom = self.random.choice(("sender", "receiver", "both"))
        if whom != "sender":
            await self.receiver.kill()
            self.receiver = await self.scene.start("town")
        if whom != "receiver":
            await self.sender.kill()
            self._next = max(line["receipt"] for line in diary.all(receipt=...)) + 1000
            await self._start_sender()

    async def quiet(self) -> int:
        """End the sender, wait until the receiver is at work; give how many looks it took until nothing was left."""
        self.sender.process.stdin.close()  # type: ignore[union-attr]
        await self.sender.ended()
        await self.scene.diary.until(effect=..., pid=self.receiver.pid)
        looks = 0
        async with asyncio.timeout(60):
            while any(depth.ready + depth.running + depth.scheduled for depth in await self.scene.store.depths()):
                looks += 1
                await asyncio.sleep(_LOOK_S)
        return looks

    @property
    def most(self) -> int:
        return self._next + 1_000_000


async def test_nothing_acknowledged_is_lost_whoever_is_killed_whenever(scene: Scene) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    killing = Killing(scene, "sender", seed)
    await killing.start()
    for _ in range(CYCLES):
        await killing.cycle()
    looks = await killing.quiet()
    verdict = await judged(scene, killing.most)
    assert len(verdict.receipted) > CYCLES
    assert (verdict.lost, verdict.unexpected, verdict.sunk) == (set(), set(), []), f"seed {seed}"
    assert (verdict.doubled, verdict.unstaged) == (set(), set()), f"seed {seed}"
    # Counted in looks, not by the clock: a machine that is slow gives the store's processes less as well.
    assert looks * _LOOK_S <= 2 * LEASE_S, f"something was stuck for {looks * _LOOK_S:g} s; seed {seed}"
    taken_over = [line for line in scene.diary.all(began=...) if line["attempt"] == 1]
    assert len(taken_over) > len({line["id"] for line in taken_over}), "no kill ever hit a running handler"


async def test_the_judge_sees_what_is_wrong(scene: Scene) -> None:
    """Every kind of fault, once, in a history made up."""
    for line in (
        {"receipt": 1, "id": "a"},
        {"receipt": 2, "id": "b"},
        {"began": 2, "id": "b", "fence": 8},
        {"began": 2, "id": "b", "fence": 8},
        {"effect": 2, "id": "b"},
        {"noted": 2, "id": "c"},
        {"noted": 2, "id": "d"},
        {"effect": 3, "id": "e"},
        {"effect": 100, "id": "f"},
    ):
        os.write(scene.diary.write_end, json.dumps(line).encode() + b"\n")
    await scene.diary.until(effect=100)
    verdict = await judged(scene, 100)
    assert (verdict.lost, verdict.unexpected, verdict.sunk) == ({1}, {100}, ["b"])
    assert (verdict.doubled, verdict.unstaged) == ({2}, {3, 100})


async def test_a_sender_that_acknowledges_before_the_commit_is_found_out(scene: Scene) -> None:
    killing = Killing(scene, "hasty", 1)
    await killing.start()
    await scene.diary.until(receipt=..., pid=killing.sender.pid)
    await killing.sender.kill()
    assert not scene.diary.all(sent=..., pid=killing.sender.pid), "it was killed too late to show anything"
    killing.sender = await scene.start("sender", 1000)
    await scene.diary.until(sent=1000)
    await killing.quiet()
    verdict = await judged(scene, killing.most)
    assert 0 in verdict.lost


async def test_a_message_that_kills_its_worker_is_given_up_and_the_others_are_not(tmp_path: Path) -> None:
    async with a_scene(tmp_path, 1.0) as scene, a_client(store=scene.url) as client:
        await scene.start("town", 2)  # with a parent that starts others in their place
        poison = await client.send(Town.work, Job(1, "die"))
        good = await client.send_all(Town.work, [Job(number) for number in range(10, 60)])
        for ticket in good:
            await ticket.result(60)
        with pytest.raises(OperationFailed) as caught:
            await poison.result(60)
        assert caught.value.cause == "worker_lost"
        record = await scene.until_ended(poison.id)
        assert (record.state, record.losses) == (State.DEAD, 5)
        begun = [line["fence"] for line in scene.diary.all(began=1)]
        assert len(begun) == 5
        assert begun == sorted(set(begun))
        assert (await scene.diary.until(id=poison.id, letter=...))["cause"] == "worker_lost"
        assert {line["effect"] for line in scene.diary.all(effect=...)} == set(range(10, 60))
