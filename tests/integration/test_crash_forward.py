"""Store and forward with kill -9 at every point on the way, and answers lost: each message takes effect once, each
ticket ends."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from far_lives import TwoTowns, two_towns
from far_town import RECEIVING, SENDING
from scene import GUARD_S, Running

from ringpost.core.message import Cause

REQUESTS = [b"GET /healthz", b"POST /billing/charge", b"POST /billing/note", b"POST /tickets:wait", b"DELETE /tickets"]


@pytest.fixture
async def towns(tmp_path: Path) -> AsyncIterator[TwoTowns]:
    async with two_towns(tmp_path) as towns:
        yield towns


async def lost_twice(towns: TwoTowns, requests: Sequence[bytes]) -> None:
    """Lose two answers to each of these requests: they have arrived, and nobody hears of it."""
    for lost in [towns.proxy.lose_answer(request) for request in requests for _ in range(2)]:
        await lost.wait(GUARD_S)


async def killed(running: Running) -> None:
    """Wait until a process has come to its point."""
    assert await running.ended() == -signal.SIGKILL, running.said()


# A message that was lost with five workers is given up: no test kills five that may have had the same one.
@pytest.mark.parametrize("points", [[*SENDING][at : at + 4] for at in range(0, len(SENDING), 4)], ids=" | ".join)
async def test_a_sender_is_killed_at_each_point(towns: TwoTowns, points: list[str]) -> None:
    await towns.billing()
    for point in points:
        await towns.send(point)
        await killed(await towns.shop(point))
    await towns.shop()
    await towns.quiet()
    assert await towns.faults() == []


async def test_a_receiver_is_killed_at_each_point(towns: TwoTowns) -> None:
    await towns.send("nobody is there")
    await towns.shop()
    for point in RECEIVING:
        await towns.send(point)
        await killed(await towns.billing(point))
    await towns.billing()
    await towns.quiet()
    assert await towns.faults() == []


async def test_both_are_killed_at_points_that_chance_chose(towns: TwoTowns) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(3):
        print(await towns.killed_by_chance(chance, f"{number}"))
    await towns.billing()
    await towns.shop()
    await towns.quiet()
    assert await towns.faults() == []


async def test_answers_to_every_kind_of_request_are_lost(towns: TwoTowns) -> None:
    losing = asyncio.ensure_future(lost_twice(towns, REQUESTS))
    await asyncio.sleep(0)
    for about in ("a", "b", "c"):
        await towns.send(about)
    await towns.billing()
    await towns.shop()
    await losing
    await towns.quiet()
    assert await towns.faults() == []


async def test_a_sender_that_sleeps_past_its_lease_settles_nothing(towns: TwoTowns) -> None:
    await towns.send("a")
    await towns.billing()
    asleep = await towns.shop("after the answer", asleep=True)
    await towns.scene.diary.until(point="after the answer")
    await towns.shop()
    await towns.quiet()
    assert len(towns.scene.diary.all(posted=...)) > len(towns.cards + towns.notes)  # something was delivered twice
    towns.scene.tell("awake")
    asleep.signal(signal.SIGTERM)
    await asleep.ended()
    await towns.quiet()
    assert await towns.faults() == []


# --- broken twins


@pytest.mark.parametrize(("sender", "receiver"), [("fresh", ""), ("", "heedless")])
async def test_without_an_id_that_stays_or_is_known_again_an_effect_comes_twice(
    towns: TwoTowns, sender: str, receiver: str
) -> None:
    losing = asyncio.ensure_future(lost_twice(towns, [b"POST /billing/note"]))
    await asyncio.sleep(0)
    await towns.send("a")
    await towns.billing(twin=receiver)
    await towns.shop(twin=sender)
    await losing
    await towns.quiet()
    assert "'a note' took effect 3 times" in await towns.faults()


async def test_a_hand_over_before_the_answer_loses_messages(towns: TwoTowns) -> None:
    await towns.send("a")
    await towns.billing()
    await killed(await towns.shop("after the hand-over", twin="early"))
    await towns.shop()
    await towns.quiet()
    assert any(Cause.OUTCOME_UNKNOWN.word in fault for fault in await towns.faults())


async def test_outcomes_that_are_dropped_leave_tickets_without_an_end(towns: TwoTowns) -> None:
    await towns.send("a")
    await towns.billing()
    await towns.shop(twin="dropping")
    await towns.scene.diary.until(2, dropped="succeeded")
    assert "the outcome of 'a slow' was told 0 times" in await towns.faults()
