"""Connections to PostgreSQL break while services work: all goes on by itself, and nothing is lost or done twice."""

import random

import pytest
from breaking import MODES
from cutting import a_cutting
from servers.postgres import RealPostgres


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


async def test_it_goes_on_after_every_break(chance: random.Random, postgres: RealPostgres) -> None:
    async with a_cutting(postgres) as cutting:
        for mode in chance.sample(MODES, len(MODES)):
            await mode(cutting.proxy)
            print(f"{mode.__name__}: went on within {await cutting.load.goes_on():.1f} s")
        counted = await cutting.load.ended()
    assert counted.faults == []


async def test_the_answer_to_whatever_is_asked_is_lost(chance: random.Random, postgres: RealPostgres) -> None:
    async with a_cutting(postgres) as cutting:
        for kind in chance.sample([*cutting.commits] * 2, 2 * len(cutting.commits)):
            await cutting.proxy.lose_answer(cutting.commits[kind], chance.choice(["reset", "close"])).wait()
        counted = await cutting.load.ended()
    assert counted.faults == []
