"""Calls that fail are tried again only where it is safe, and not before they were told to come again."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from far_door import PATIENCE_S, UNSEEN, Answer, Door, Far, a_client, a_door, answered, refuse, say

from ringpost import Client, DeadlineExceeded, OperationFailed, Overloaded, Unavailable, UsageError
from ringpost.client import guards, outbound
from ringpost.client.target import target_of
from ringpost.core import call_retry
from ringpost.core.breaker import Breaker

REPEATED = [
    ("read", refuse("unavailable"), 3),
    ("turn", refuse("unavailable"), 3),
    ("write", refuse("unavailable"), 1),  # it may have been done
    ("write", refuse("unavailable", 503, UNSEEN), 3),
    ("write", refuse("overloaded", 503, UNSEEN), 3),
    ("read", say(502), 3),
    ("write", say(502), 1),
    ("read", None, 3),  # it hangs up
    ("write", None, 1),
    ("read", refuse("handler_error", 500), 1),  # an outcome
    ("read", refuse("deadline_exceeded", 504), 1),
    ("read", refuse("unavailable", 503, retryable=False), 1),  # somebody below has done so
    ("read", refuse("loop_detected", 508), 1),
    ("read", refuse("not_found", 404, UNSEEN), 1),
]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("name", "answer", "times"), REPEATED)
async def test_only_what_is_safe_is_tried_again(name: str, answer: Answer, times: int) -> None:
    async with a_door(answered(answer)) as door, a_client(door) as client:
        with pytest.raises((Unavailable, OperationFailed, Overloaded, DeadlineExceeded)):
            await client.call(getattr(Far, name), 1)
        assert [seen.attempt for seen in door.seen] == list(range(1, times + 1))


@pytest.mark.usefixtures("at_once")
async def test_a_key_makes_it_safe_and_a_retry_brings_the_reply() -> None:
    async with a_door(answered(None, say(200, 7))) as door, a_client(door) as client:
        assert await client.call(Far.write, 1, idempotency_key="k") == 7
        assert [seen.headers["idempotency-key"] for seen in door.seen] == ['"k"', '"k"']


@pytest.mark.usefixtures("at_once")
async def test_a_request_that_is_in_flight_under_its_key_is_asked_for_again() -> None:
    async with a_door(answered(None, refuse("in_flight", 409), say(200, 7))) as door, a_client(door) as client:
        assert await client.call(Far.write, 1, idempotency_key="k") == 7
        assert len(door.seen) == 3


@pytest.mark.usefixtures("at_once")
async def test_what_the_first_attempt_may_have_done_the_last_one_does_not_deny() -> None:
    last = refuse("unavailable", 503, UNSEEN, retryable=False)
    async with a_door(answered(None, last)) as door, a_client(door) as client:
        with pytest.raises(Unavailable) as caught:
            await client.call(Far.write, 1, idempotency_key="k")
        assert (len(door.seen), caught.value.processed) == (2, "maybe")


@pytest.mark.usefixtures("at_once")
async def test_the_call_has_the_last_word_then_operation_contract_process() -> None:
    policies = {"": {"attempts": 5}, "far": {"attempts": 4}, "far.turn": {"attempts": 2}}
    async with a_door(answered(say(502))) as door, a_client(door, policies=policies) as client:
        for operation, options, times in ((Far.turn, {}, 2), (Far.read, {}, 4), (Far.read, {"attempts": 1}, 1)):
            door.seen.clear()
            guards.PROCESS.watch(target_of(door.url), "x", Breaker().rule, 0).budget.tenths = 100
            with pytest.raises(Unavailable):
                await client.call(operation, 1, **options)  # type: ignore[arg-type]
            assert len(door.seen) == times


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"attempts": True}, {"attempts": 11}, {"hedge": 1}, {"hedge": True}]
)
async def test_wrong_options_are_refused_before_anything_is_sent(options: Any) -> None:
    async with a_door() as door, a_client(door) as client:
        with pytest.raises(UsageError):
            await client.call(Far.write, 1, **options)
        assert door.seen == []


async def test_a_retry_after_beyond_the_deadline_is_raised_at_once() -> None:
    shed = refuse("overloaded", 503, UNSEEN, "retry-after: 30")
    async with a_door(answered(shed)) as door, a_client(door) as client:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Overloaded) as raised:
                await client.call(Far.read, 1, timeout=20)
        assert raised.value.retry_after == 30
        assert len(door.seen) == 1


SOON = (refuse("overloaded", 503, "retry-after: 1"), say(200, 7))


async def assert_a_retry_waits(client: Client, door: Door) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    assert await client.call(Far.read, 1, timeout=10) == 7
    assert len(door.seen) == 2
    assert loop.time() - began_s >= 1.0


@pytest.mark.usefixtures("at_once")
async def test_a_retry_after_is_waited_for() -> None:
    async with a_door(answered(*SOON)) as door, a_client(door) as client:
        await assert_a_retry_waits(client, door)


@pytest.mark.usefixtures("at_once")
async def test_a_twin_that_repeats_what_isn_t_safe_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "may_repeat", lambda failed, tries, *, safe: failed.number < tries.most)
    caught = 0
    for name, answer, times in REPEATED:
        async with a_door(answered(answer)) as door, a_client(door) as client:
            with suppress(Unavailable, OperationFailed, Overloaded, DeadlineExceeded):
                await client.call(getattr(Far, name), 1)
            caught += len(door.seen) != times
    assert caught == 3


@pytest.mark.usefixtures("at_once")
async def test_a_twin_that_doesn_t_heed_retry_after_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def heedless(failed: call_retry.Failed, deadline_s: float, random01: float) -> float:
        return failed.at_s

    monkeypatch.setattr(outbound, "next_at_s", heedless)
    async with a_door(answered(*SOON)) as door, a_client(door) as client:
        with pytest.raises(AssertionError):
            await assert_a_retry_waits(client, door)
