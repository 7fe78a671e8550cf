"""Kill -9 of senders, receivers and both, where handlers write: each number stands in the books once."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from killing import LOOK_S, Killing, judged
from ledger import entries
from scene import Scene, a_scene

LEASE_S = 2.0
CYCLES = 20  # 500 in the soak


@pytest.fixture(params=["sqlite", "postgres"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    url = None
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    async with a_scene(tmp_path, LEASE_S, url) as scene:
        scene.script = Path(__file__).with_name("ledger.py")
        yield scene


async def test_each_message_writes_once_whoever_is_killed_whenever(scene: Scene) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    killing = Killing(scene, "sender", seed, receiver="books")
    await killing.start()
    for _ in range(CYCLES):
        await killing.cycle()
    looks = await killing.quiet()
    verdict = await judged(scene, killing.most, [number for number, _, _ in await entries(scene.url)])
    assert len(verdict.receipted) > CYCLES
    assert verdict.faults == [], f"seed {seed}"
    assert looks * LOOK_S <= 2 * LEASE_S, f"something was stuck for {looks * LOOK_S:g} s; seed {seed}"
    begun = [line["id"] for line in scene.diary.all(began=...)]
    assert len(begun) > len(set(begun)), "no kill ever hit a running handler"
