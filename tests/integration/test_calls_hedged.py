"""A read that is late is asked a second time: elsewhere if it can be, within the budget, and the loser ends."""

import asyncio
from typing import Any

import pytest
from far_door import Answer, Door, Far, Seen, a_client, a_door, hang, say, two_instances, until

from ringpost import Client, DeadlineExceeded, Operation
from ringpost.client import guards


async def warm(client: Client, *doors: Door, operation: Operation[int, int] = Far.read) -> None:
    """Let the usual latency be learned of each: how many calls that takes depends on how long they take."""
    for door in doors:
        while not any(watch.target == door.url and watch.latency.p95_s for watch in guards.PROCESS.all()):
            await client.call(operation, 1)
    for door in doors:
        door.seen.clear()
        door.cut = 0


async def test_a_late_read_is_asked_of_another_instance_and_its_loser_ends() -> None:
    async with a_door() as one, a_door() as two, two_instances(one, two) as client:
        await warm(client, one, two)
        one.answering = hang
        replies = [await client.call(Far.read, 1, timeout=10) for _ in range(4)]
        assert replies == [7] * 4
        # Two of the four went to each; those that hang were asked of the other one. (A slow machine may hedge more.)
        assert [seen.attempt for seen in one.seen].count(1) == 2
        assert [seen.attempt for seen in two.seen].count(2) == 2
        await until(lambda: one.cut == len(one.seen) and one.at_once == 0)  # its connection was closed


async def test_the_first_answer_wins_and_the_hedge_ends() -> None:
    gate = asyncio.Event()

    async def first_slowly(seen: Seen) -> Answer:
        if seen.attempt == 1:
            await gate.wait()
            return say(200, 1)
        gate.set()
        return await hang(seen)

    async with a_door() as door, a_client(door) as client:
        await warm(client, door)
        door.answering = first_slowly
        assert await client.call(Far.read, 1) == 1
        assert [seen.attempt for seen in door.seen] == [1, 2]
        await until(lambda: door.at_once == 0 and door.cut == 1)


@pytest.mark.parametrize(
    ("operation", "options", "policies"),
    [
        (Far.turn, {}, {}),
        (Far.read, {"hedge": False}, {}),
        (Far.read, {}, {"far": {"hedge": False}}),
    ],
)
async def test_what_isn_t_to_be_hedged_is_asked_once(operation: Any, options: Any, policies: Any) -> None:
    async with a_door() as door, a_client(door, policies=policies) as client:
        await warm(client, door, operation=operation)
        door.answering = hang
        with pytest.raises(DeadlineExceeded):
            await client.call(operation, 1, timeout=0.3, **options)
        assert len(door.seen) == 1


async def test_without_budget_nothing_is_hedged() -> None:
    async with a_door() as door, a_client(door) as client:
        await warm(client, door)
        door.answering = hang
        for watch, _ in guards.readings(guards.PROCESS, 0.0):
            watch.budget.tenths = 50
        with pytest.raises(DeadlineExceeded):
            await client.call(Far.read, 1, timeout=0.3)
        assert len(door.seen) == 1
