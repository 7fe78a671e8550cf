"""How many calls are at a target at once: who waits in line, for how long, and what operations leave each other."""

import asyncio
import time
from typing import Any

import pytest
from far_door import PATIENCE_S, Answer, Door, Far, Seen, a_client, a_door, hang, say, until

from ringpost import Client, DeadlineExceeded, Overloaded
from ringpost.client import bulkhead, guard, guards, outbound
from ringpost.client.attempt import Attempt
from ringpost.client.transport import CONNECTIONS_PER_ORIGIN


async def test_a_thousand_calls_at_once_are_all_answered() -> None:
    async with a_door() as door, a_client(door) as client:
        assert await asyncio.gather(*(client.call(Far.write, 1, timeout=60) for _ in range(1000))) == [7] * 1000


async def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "WAITING_MAX", 4)
    async with a_door(hang) as door, a_client(door, policies={"far.write": {"limit": 4}}) as client:
        hanging = [asyncio.ensure_future(client.call(Far.write, 1, timeout=60)) for _ in range(4)]
        await until(lambda: len(door.seen) == 4)
        in_line = [asyncio.ensure_future(client.call(Far.write, 1, timeout=3)) for _ in range(4)]
        await until(lambda: [len(one.waiting) for one in bulkheads_of(client)] == [4])
        with pytest.raises(Overloaded, match="under way") as raised:
            await client.call(Far.write, 1)
        assert raised.value.processed == "no"
        ends = await asyncio.gather(*in_line, return_exceptions=True)
        assert [(type(one), getattr(one, "processed", "")) for one in ends] == [(DeadlineExceeded, "no")] * 4
        assert len(door.seen) == 4
        for one in hanging:
            one.cancel()
        await asyncio.wait(hanging)


async def calls_of_a_starved_process(door: Door) -> None:
    """Call healthily for a while, then with a loop that is late at every answer, two dozen at a time."""

    async def starved(_: Seen) -> Answer:
        time.sleep(0.01)  # noqa: ASYNC251 (it is what the test is about)
        return say(200, 7)

    async with a_client(door) as client:
        for _ in range(50):
            await client.call(Far.write, 1)
        door.answering = starved
        for _ in range(6):
            await asyncio.gather(*(client.call(Far.write, 1, timeout=60) for _ in range(24)))


async def test_a_process_without_cpu_fails_none_of_its_own_calls() -> None:
    async with a_door() as door:
        await calls_of_a_starved_process(door)


async def test_a_twin_that_takes_its_own_lateness_for_the_target_s_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    good = guard.Guard.good

    def learning(self: guard.Guard, this: Attempt, now_s: float) -> None:
        if now_s - this.began_s > 0.02:
            self.bulkhead.limit = max(4, self.bulkhead.limit // 2)
        good(self, this, now_s)

    monkeypatch.setattr(guard.Guard, "good", learning)
    monkeypatch.setattr(bulkhead, "WAITING_MAX", 8)
    async with a_door() as door:
        with pytest.raises(Overloaded):
            await calls_of_a_starved_process(door)


async def others_beside_hangs(door: Door, *hanging: Any, timeout_s: float = PATIENCE_S) -> tuple[list[int], list[Any]]:
    """Let operations hang at a target one after the other, each asked for 300 times at once; give how many connections
    each has taken, and what then becomes of calls of another one there."""
    paths = [f"/far/{operation.name}" for operation in hanging]

    async def half_well(seen: Seen) -> Answer:
        return await hang(seen) if seen.path in paths else say(200, 7)

    door.answering = half_well
    async with a_client(door, policies=PATIENT) as client:
        calls: list[asyncio.Future[Any]] = []
        for operation in hanging:
            calls += [asyncio.ensure_future(client.call(operation, 1, timeout=60)) for _ in range(300)]
            await all_wait_or_hang(client, door, len(calls))
        others = [client.call(Far.other, 1, timeout=timeout_s) for _ in range(50)]
        ends = await asyncio.gather(*others, return_exceptions=True)
        for one in calls:
            one.cancel()
        await asyncio.wait(calls)
        assert all(one.taken == 0 and not one.waiting and not one.places.lines for one in bulkheads_of(client))
    return [[seen.path for seen in door.seen].count(path) for path in paths], ends


def bulkheads_of(client: Client) -> list[bulkhead.Bulkhead]:
    ways = client._ways
    return [] if ways is None else [one.bulkhead for one in ways.router._out._kept.values()]


PATIENT = {"far": {"breaker": False}}  # however slow this machine is: no hang is given up


async def all_wait_or_hang(client: Client, door: Door, calls: int) -> None:
    await until(lambda: sum(one.taken + len(one.waiting) for one in bulkheads_of(client)) == calls)
    taken = sum(one.taken for one in bulkheads_of(client))
    await until(lambda: len(door.seen) == min(taken, CONNECTIONS_PER_ORIGIN))


@pytest.mark.parametrize(
    ("hanging", "taken"),
    [((Far.write,), [128]), ((Far.write, Far.turn), [128, 64]), ((Far.write, Far.turn, Far.slow), [128, 64, 32])],
)
async def test_operations_that_hang_leave_connections_for_others(hanging: tuple[Any, ...], taken: list[int]) -> None:
    async with a_door() as door:
        assert await others_beside_hangs(door, *hanging) == (taken, [7] * 50)


async def test_a_twin_whose_operations_take_without_regard_to_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boundless(bulkhead.Places):
        free = property(lambda self: 1_000_000, lambda self, count: None)  # type: ignore[assignment]

    monkeypatch.setattr(outbound, "Places", Boundless)
    async with a_door() as door:
        taken, ends = await others_beside_hangs(door, Far.write, Far.turn, Far.slow, timeout_s=0.5)
        assert sum(taken) == CONNECTIONS_PER_ORIGIN
        assert all(isinstance(one, DeadlineExceeded) for one in ends)


async def test_a_policy_may_let_an_operation_have_more() -> None:
    async with a_door(hang) as door, a_client(door, policies=PATIENT | {"far.write": {"limit": 200}}) as client:
        calls = [asyncio.ensure_future(client.call(Far.write, 1, timeout=60)) for _ in range(300)]
        await all_wait_or_hang(client, door, 300)
        assert len(door.seen) == 200
        for one in calls:
            one.cancel()
        await asyncio.wait(calls)


async def test_who_has_the_fewest_places_gets_the_next() -> None:
    """One operation has taken half of all, and hangs no more: another one, which has less, takes what it gives back."""
    gate = asyncio.Semaphore(0)

    async def one_by_one(seen: Seen) -> Answer:
        if seen.path == "/far/write":
            await gate.acquire()
            return say(200, 7)
        return await hang(seen)

    async with a_door(one_by_one) as door, a_client(door, policies=PATIENT) as client:
        calls: list[asyncio.Future[Any]] = []
        for operation in (Far.write, Far.turn):
            calls += [asyncio.ensure_future(client.call(operation, 1, timeout=60)) for _ in range(200)]
            await all_wait_or_hang(client, door, len(calls))
        write, turn = bulkheads_of(client)
        for _ in range(60):
            gate.release()
        await until(lambda: len(write.waiting) < 72)  # it waited while it had more than there were free
        assert (write.taken, turn.taken, write.places.free) == (86, 85, 85)
        for _ in range(140):
            gate.release()
        assert await asyncio.gather(*calls[:200]) == [7] * 200
        for one in calls[200:]:
            one.cancel()
        await asyncio.wait(calls[200:])


async def left_in_line(door: Door, client: Client) -> list[str]:
    """Let calls hang and others stand in line behind them; give how those in line end while the first still hang."""
    hanging = [asyncio.ensure_future(client.call(Far.write, 1, timeout=60)) for _ in range(20)]
    await until(lambda: len(door.seen) == 20)
    in_line = [asyncio.ensure_future(client.call(Far.write, 1, timeout=4)) for _ in range(20)]
    ends = await asyncio.gather(*in_line, return_exceptions=True)
    assert not any(one.done() for one in hanging)
    for one in hanging:
        one.cancel()
    await asyncio.wait(hanging)
    return sorted({type(one).__name__ for one in ends})


async def test_who_stands_in_line_goes_when_the_breaker_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = {"far.write": {"limit": 20, "slow_s": 1.5}}
    async with a_door(hang) as door, a_client(door, policies=policies) as client:
        assert await left_in_line(door, client) == ["Unavailable"]
        guards.PROCESS.forget()
    monkeypatch.setattr(bulkhead.Bulkhead, "dismiss", lambda self: None)  # the twin keeps them there
    async with a_door(hang) as door, a_client(door, policies=policies) as client:
        assert await left_in_line(door, client) == ["DeadlineExceeded"]
