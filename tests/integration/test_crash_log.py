"""Kill -9 of who catches up with a log, and of who writes it: nothing is passed over, nothing is given twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from log_town import KEYS, Road
from scene import GUARD_S, Running, Scene, a_scene
from servers.postgres import RealPostgres

from ringpost.core import notes
from ringpost.store.port import Depth

QUEUE = "reader.on.road.went"
LEASE_S = 2.0
CYCLES = 3
BEFORE = 150  # published before anybody reads


@pytest.fixture(params=["sqlite", "postgres"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    url = None
    if request.param == "postgres":
        server: RealPostgres = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    async with a_scene(tmp_path, LEASE_S, url) as scene:
        scene.script = Path(__file__).with_name("log_town.py")
        yield scene


async def published(scene: Scene, first: int) -> Running:
    running = await scene.start("publisher", first)
    await scene.diary.until(pid=running.pid, told=...)
    return running


async def all_is_quiet(scene: Scene) -> Depth:
    """Wait until nobody is behind and nothing waits; gives what the queue has seen."""
    async with asyncio.timeout(GUARD_S):
        while True:
            (note,) = await scene.store.notes(notes.subscription(Road.went.full_name, QUEUE))
            (depth,) = [one for one in await scene.store.depths() if one.queue == QUEUE]
            if not notes.decode_subscription(note.value).behind and depth.puts == depth.ends:
                return depth
            await asyncio.sleep(0.05)


async def test_each_event_is_given_once_and_in_order_whoever_is_killed(scene: Scene) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    diary = scene.diary
    publisher = await published(scene, 0)
    await diary.until(BEFORE, told=...)
    readers = [await scene.start("reader") for _ in range(2)]
    for cycle in range(1, CYCLES + 1):
        await diary.until(len(diary.all(read=...)) + 1, read=...)
        await asyncio.sleep(chance.uniform(0.0, 0.2))
        whom = chance.randrange(3)
        if whom < 2:
            await readers[whom].kill()
            readers[whom] = await scene.start("reader")
        else:
            await publisher.kill()
            publisher = await published(scene, cycle * 1_000_000)
    publisher.process.stdin.close()  # type: ignore[union-attr]
    await publisher.ended()
    depth = await all_is_quiet(scene)
    told = {line["told"] for line in diary.all(told=...)}
    read = {line["read"] for line in diary.all(read=...)}
    assert told <= read, f"nothing is passed over; seed {seed}"
    assert depth.puts == len(read), f"and nothing is given twice; seed {seed}"
    for key in range(KEYS):
        first = list(dict.fromkeys(line["read"] for line in diary.all(read=...) if line["read"] % KEYS == key))
        assert first == sorted(first), f"of one key, in the order in which they were told; seed {seed}"
