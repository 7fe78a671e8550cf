"""A breaker between a caller and a target: when it opens and for whom, and how its probes close it again."""

import asyncio
from contextlib import suppress

import pytest
from far_door import (
    PATIENCE_S,
    UNSEEN,
    Answer,
    Door,
    Far,
    Odd,
    Seen,
    a_client,
    a_door,
    answered,
    fail,
    hang,
    refuse,
    say,
    two_instances,
    until,
)
from far_outages import assert_one_probe_at_a_time
from servers.programs import free_port

from ringpost import Client, DeadlineExceeded, OperationFailed, Overloaded, Unavailable
from ringpost.client import guard, guards
from ringpost.client.attempt import Attempt
from ringpost.client.outgoing import Asked
from ringpost.client.ticket import Receipt
from ringpost.core.breaker import GOOD_CLOSE, Breaker
from ringpost.settings import Settings


async def test_it_opens_for_this_operation_at_this_target_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door, a_door() as well:
        settings = Settings(addresses={"far": door.url})
        client = Client._attached(None, None, settings)
        await fail(client, 20)
        assert len(door.seen) == 20
        with pytest.raises(Unavailable) as raised:
            await client.call(Far.write, 1)
        assert len(door.seen) == 20, "nothing went out"
        assert raised.value.processed == "no"
        assert raised.value.retry_after is not None and 0 <= raised.value.retry_after <= 0.5
        for part in ("far.write", door.url, "open since", "handler_error", "probes next in"):
            assert part in str(raised.value)
        assert "breaker has opened" in caplog.text
        # Neither another operation there nor the same one elsewhere is broken off.
        door.answering = answered(say(200, 7))
        assert await client.call(Far.other, 1) == 7
        async with a_client(well) as elsewhere:
            assert await elsewhere.call(Far.write, 1) == 7
        # Another client of the process knows already.
        async with a_client(door) as neighbour:
            with pytest.raises(Unavailable, match="open since"):
                await neighbour.call(Far.write, 1)
        await client.close()


async def test_where_nobody_listens_it_opens_too() -> None:
    client = Client._attached(None, None, Settings(addresses={"far": f"http://127.0.0.1:{free_port()}"}))
    said = await fail(client, 40)
    assert "open since" in said[-1] and "nobody listens there" in said[-1]
    await client.close()


async def test_answers_break_nothing_off() -> None:
    body = {"type": "urn:ringpost:problem:far.odd", "title": "odd", "status": 409, "code": "odd"}
    async with a_door(answered(say(409, body, kind="application/problem+json"))) as door, a_client(door) as client:
        for _ in range(30):
            with pytest.raises(Odd):
                await client.call(Far.write, 1)
        assert len(door.seen) == 30


async def test_what_is_shed_or_failed_further_down_breaks_nothing_off() -> None:
    for refusal in (refuse("overloaded", 503, UNSEEN, "retry-after: 30"), refuse("unavailable", 503, retryable=False)):
        async with a_door(answered(refusal)) as door, a_client(door) as client:
            for _ in range(30):
                with pytest.raises((Overloaded, Unavailable)):
                    await client.call(Far.write, 1)
            assert len(door.seen) == 30


async def test_it_closes_by_five_good_probes_and_never_are_two_out() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door:
        await assert_one_probe_at_a_time(door)


async def test_a_twin_that_lets_two_probes_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(self: Breaker, now_s: float, until_s: float) -> bool:
        self.state = "half_open"
        return now_s >= self.probe_at_s

    monkeypatch.setattr(Breaker, "probe", generous)
    async with a_door(answered(refuse("handler_error", 500))) as door:
        with pytest.raises(BaseExceptionGroup) as caught:
            await assert_one_probe_at_a_time(door)
        assert caught.group_contains(AssertionError)


async def test_hanging_calls_open_it_and_it_closes_after_healing() -> None:
    async with a_door(hang) as door, a_client(door) as client:
        late = await asyncio.gather(
            *(client.call(Far.write, 1, timeout=0.2) for _ in range(20)), return_exceptions=True
        )
        assert all(isinstance(one, DeadlineExceeded) for one in late)
        with pytest.raises(Unavailable, match="open since"):
            await client.call(Far.write, 1)
        door.answering = answered(say(200, 7))
        async with asyncio.timeout(PATIENCE_S):
            good = 0
            while good < GOOD_CLOSE + 1:
                with suppress(Unavailable):
                    good += await client.call(Far.write, 1) == 7
                await asyncio.sleep(0.01)


async def broken_off_while_they_hang(client: Client, timeout_s: float) -> bool:
    """Say whether calls are broken off before the first of those that hang has ended."""
    hanging = [asyncio.ensure_future(client.call(Far.write, 1, timeout=timeout_s)) for _ in range(20)]
    try:
        await until(lambda: any(not one.breaker.passing for one in guards.PROCESS.all()) or hanging[0].done())
        return not any(one.done() for one in hanging)
    finally:
        for one in hanging:
            one.cancel()
        await asyncio.wait(hanging)


HANG_SOON = {"far.write": {"slow_s": 0.2}}


async def test_a_hang_is_noticed_before_the_first_deadline() -> None:
    async with a_door(hang) as door, a_client(door, policies=HANG_SOON) as client:
        assert await broken_off_while_they_hang(client, PATIENCE_S)
        with pytest.raises(Unavailable, match=r"calls take 0\.2 s and longer"):
            await client.call(Far.write, 1)


async def test_a_twin_that_waits_for_how_they_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmoved(self: guard.Guard, this: Attempt, now_s: float) -> None:
        this.overdue = False

    monkeypatch.setattr(guard.Guard, "_overdue", unmoved)
    async with a_door(hang) as door, a_client(door, policies=HANG_SOON) as client:
        assert not await broken_off_while_they_hang(client, 1.0)


async def test_impatience_isn_t_the_target_s_fault() -> None:
    """A target that usually takes 50 ms isn't broken off because some give it 5."""

    async def steady(_: Seen) -> Answer:
        await asyncio.sleep(0.05)
        return say(200, 7)

    async with a_door(steady) as door, a_client(door) as client:
        for _ in range(40):
            await client.call(Far.write, 1)
        for _ in range(60):
            with pytest.raises(DeadlineExceeded):
                await client.call(Far.write, 1, timeout=0.005)
        assert await client.call(Far.write, 1) == 7


async def test_without_breaker_everything_goes_out() -> None:
    policies = {"far.write": {"breaker": False}}
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door, policies=policies) as client:
        await fail(client, 30)
        assert len(door.seen) == 30


async def how_tickets_are_probed(door: Door, client: Client) -> list[str]:
    """Let the breaker of tickets open, wait for the outcome of one while the target heals, and give what each question
    up to the first long one says of waiting."""
    ticket = client.ticket(Far.write, "0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e")
    door.answering = answered(say(502))
    while all(one.breaker.passing for one in guards.PROCESS.all()):
        with pytest.raises(Unavailable):
            await ticket.status()
    door.seen.clear()

    async def as_a_door_does(seen: Seen) -> Answer:
        return say(200, 7) if "wait=" in seen.headers.get("prefer", "") else say(202, {"id": ticket.id})

    door.answering = as_a_door_does
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):  # until the first probe may go
                assert await ticket.result(timeout=60) == 7
                return [seen.headers.get("prefer", "") for seen in door.seen]
            await asyncio.sleep(0.01)


async def test_a_long_poll_is_no_probe() -> None:
    """Its answer may take as long as it is waited for, and all others would wait for it."""
    async with a_door() as door, a_client(door) as client:
        assert await how_tickets_are_probed(door, client) == [""] * GOOD_CLOSE + ["wait=25"]
        assert all(one.breaker.passing for one in guards.PROCESS.all())


async def test_a_twin_that_probes_by_a_long_poll_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asked, "brief", lambda self: self)
    async with a_door() as door, a_client(door) as client:
        assert await how_tickets_are_probed(door, client) == ["wait=25"]


async def test_while_a_probe_waits_for_something_else_no_other_one_goes_out() -> None:
    """A call that comes after a message is answered once that has been handled; `slow_s` says nothing of that."""
    policies = {"far.write": {"slow_s": 0.05}}
    after = Receipt("0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e", duplicate=False, receivers=1, level="durable", store="s")
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door, policies=policies) as client:
        await fail(client, 20)
        door.seen.clear()
        door.answering = hang
        probe = None
        async with asyncio.timeout(PATIENCE_S):
            while not door.seen:
                if probe is None or probe.done():
                    probe = asyncio.ensure_future(client.call(Far.write, 1, after=after, timeout=10))
                    probe.add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.sleep(0.01)
        watch = next(one for one in guards.PROCESS.all() if one.operation == "far.write")
        now_s = asyncio.get_running_loop().time()
        assert not watch.breaker.probe(now_s + 5.0, now_s + 6.0), "the first one is out"
        assert probe is not None
        probe.cancel()
        await asyncio.wait((probe,))


async def test_an_instance_whose_breaker_is_open_is_passed_over() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as bad, a_door() as good:
        await assert_passed_over(bad, good)


async def assert_passed_over(bad: Door, good: Door) -> None:
    async with two_instances(bad, good) as client:
        for _ in range(50):
            with suppress(OperationFailed):
                await client.call(Far.write, 1)
        assert len(bad.seen) == 20
        bad.seen.clear()
        assert [await client.call(Far.write, 1) for _ in range(10)] == [7] * 10
        good.answering = answered(refuse("handler_error", 500))
        await fail(client, 60)
        with pytest.raises(Unavailable, match="open since"):
            await client.call(Far.write, 1)


async def test_how_messages_ended_says_nothing_of_the_door_that_tells_it() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door) as client:
        ticket = client.ticket(Far.write, "0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e")
        for _ in range(30):
            with pytest.raises(OperationFailed):
                await ticket.result(timeout=5)
        assert len(door.seen) == 30
        door.answering = answered(say(502))
        with pytest.raises(Unavailable):
            await ticket.result(timeout=5)
        assert len(door.seen) == 33, "to ask is harmless"


async def test_what_is_known_of_targets_can_be_looked_at() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door) as client:
        assert client.statistics() == ()
        await fail(client, 20)
        (one,) = client.statistics()
        assert (one.operation, one.target, one.state, one.forced) == ("far.write", door.url, "open", "")
        assert "handler_error" in one.error
