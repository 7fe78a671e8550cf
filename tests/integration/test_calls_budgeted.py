"""What all clients of a process try again comes out of one budget for each target."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
import uvloop
from far_door import UNSEEN, Answer, Far, Seen, a_client, a_door, answered, refuse, say
from far_outages import assert_one_probe_at_a_time, calls_in_an_outage

from ringpost import Unavailable
from ringpost.client import guards
from ringpost.core.budget import Budget


async def test_in_an_outage_there_are_five_retries_whoever_makes_them() -> None:
    """Two clients in this loop and one in a thread of its own have one budget."""
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door:
        assert await calls_in_an_outage(door) == 9 + 5


async def test_a_twin_with_a_budget_for_each_client_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = guards.Guards.watch

    def own(self: guards.Guards, *given: Any) -> guards.Watch:
        return msgspec.structs.replace(watch(self, *given), budget=Budget())

    monkeypatch.setattr(guards.Guards, "watch", own)
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door:
        assert await calls_in_an_outage(door) > 9 + 5


@pytest.mark.usefixtures("at_once")
async def test_a_long_outage_of_half_the_calls_is_amplified_by_no_more_than_a_fifth() -> None:
    """Every other request is refused: never for ever, so that the breaker stays closed."""

    async def half(seen: Seen) -> Answer:
        return say(200, 7) if len(door.seen) % 5 else refuse("unavailable", 503, UNSEEN)

    async with a_door(half) as door, a_client(door) as client:
        calls = 400
        for _ in range(calls):
            with suppress(Unavailable):
                await client.call(Far.write, 1)
        assert len(door.seen) <= calls * 1.2


def test_it_is_all_the_same_under_uvloop() -> None:
    async def scenario() -> None:
        async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door:
            assert await calls_in_an_outage(door) == 9 + 5
        guards.PROCESS.forget()
        async with a_door(answered(refuse("handler_error", 500))) as door:
            await assert_one_probe_at_a_time(door)

    uvloop.run(scenario())
