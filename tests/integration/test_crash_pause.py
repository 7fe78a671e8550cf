"""Workers that are stopped, or whose handlers take or block for longer than a lease: who is late takes no effect, who
is only slow keeps what it has."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scene import Scene, a_client, a_scene
from town import Job, Town

from ringpost.core.message import State

LEASE_S = 1.0


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_scene(tmp_path, LEASE_S) as scene:
        yield scene


async def _stop_and_take_over(scene: Scene, role: str, how: str) -> tuple[set[int], str, State]:
    """Stop a worker past its lease; while another works on what it had, wake it and let it end first.

    Gives the processes whose staged messages came, what the late one logged, and how the message ended.
    """
    diary = scene.diary
    late = await scene.start(role)
    async with a_client(store=scene.url) as client:
        ticket = await client.send(Town.work, Job(1, f"{how}:go"))
        held = await diary.until(began=1, pid=late.pid)
        late.signal(signal.SIGSTOP)
        other = await scene.start(role)
        taken = await diary.until(began=1, pid=other.pid)
        assert (taken["id"], taken["attempt"]) == (held["id"], held["attempt"])
        assert taken["fence"] > held["fence"]
        other.signal(signal.SIGSTOP)
        scene.tell("go")
        late.signal(signal.SIGCONT)
        # It has ended here, and what it says of it is refused, or, without fences, believed.
        await diary.until_so(lambda: bool(diary.all(effect=1, pid=late.pid) or diary.all(cancelled=1, pid=late.pid)))
        if role == "unfenced":
            await diary.until(noted=1)
        other.signal(signal.SIGCONT)
        await ticket.result(30)
        await diary.until(noted=1)
        late.signal(signal.SIGTERM)
        assert await late.ended() == 0
        record = await scene.until_ended(ticket.id)
        return {line["by"] for line in diary.all(noted=1)}, late.said(), record.state


@pytest.mark.parametrize("how", ["wait", "block"])
async def test_a_holder_that_slept_through_its_lease_is_refused_and_nothing_it_sent_leaves(
    scene: Scene, how: str
) -> None:
    by, said, state = await _stop_and_take_over(scene, "town", how)
    assert state is State.SUCCEEDED
    (other,) = {line["pid"] for line in scene.diary.all(began=1)} - {scene.first.pid}
    assert by == {other}
    # One that never waits can't be cancelled before it has ended: then its settlement is refused.
    assert "LeaseLost" in said or (how == "wait" and "could not be kept" in said)


async def test_without_a_check_of_the_fence_the_late_one_would_win(scene: Scene) -> None:
    by, _, _ = await _stop_and_take_over(scene, "unfenced", "block")
    assert scene.first.pid in by


LONG = [Job(1, "sleep", length_s=3 * LEASE_S), Job(2, "spin", length_s=1.5 * LEASE_S)]


@pytest.mark.parametrize("role", ["town", "heartless"])
async def test_a_handler_of_several_leases_and_one_that_blocks_the_loop_keep_theirs(scene: Scene, role: str) -> None:
    diary = scene.diary
    first = await scene.start(role)
    async with a_client(store=scene.url) as client:
        sleeping, spinning = [await client.send(Town.work, job) for job in LONG]
        await diary.until(began=1, pid=first.pid)
        await diary.until(began=2, pid=first.pid)
        await scene.start("town")
        if role == "town":
            records = [await scene.until_ended(ticket.id) for ticket in (sleeping, spinning)]
            assert len(diary.all(began=...)) == 2
            assert [(record.state, record.losses) for record in records] == [(State.SUCCEEDED, 0)] * 2
        else:  # without a heartbeat somebody takes it over, again and again where that one has none either
            await diary.until(3, began=...)
