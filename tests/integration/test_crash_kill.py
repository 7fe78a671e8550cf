"""Kill -9 of sender, receiver and both at random moments: nothing acknowledged is lost, nothing gets stuck."""

import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from killing import LOOK_S, Killing, judged
from scene import Scene, a_client, a_scene
from town import Job, Town

from ringpost import OperationFailed
from ringpost.core.message import State

LEASE_S = 2.0
CYCLES = 20  # 500 in the soak


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_scene(tmp_path, LEASE_S) as scene:
        yield scene


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
    assert verdict.faults == [], f"seed {seed}"
    # Counted in looks, not by the clock: a machine that is slow gives the store's processes less as well.
    assert looks * LOOK_S <= 2 * LEASE_S, f"something was stuck for {looks * LOOK_S:g} s; seed {seed}"
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
    verdict = await judged(scene, 100, [2, 3, 3])
    assert (verdict.lost, verdict.repeated, verdict.unexpected) == ({1}, {3}, set())


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
