"""What calls to a target that is out have to do, whoever makes them: on either loop, and found missing in twins."""

import asyncio
from contextlib import suppress

import pytest
from far_door import PATIENCE_S, Answer, Door, Far, Seen, a_client, fail, say

from ringpost import Unavailable, blocking
from ringpost.client import guards
from ringpost.core import call_retry
from ringpost.core.breaker import GOOD_CLOSE


async def calls_in_an_outage(door: Door) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call_retry, "backoff_s", lambda number, chance: 0.0)
        async with a_client(door) as one, a_client(door) as two:
            for client in (one, two):
                for _ in range(3):
                    with pytest.raises(Unavailable):
                        await client.call(Far.write, 1)
        await asyncio.to_thread(_call_from_a_thread, door.url)
    return len(door.seen)


def _call_from_a_thread(url: str) -> None:
    with blocking.Client(addresses={"far": url}) as client:
        for _ in range(3):
            with pytest.raises(Unavailable):
                client.call(Far.write, 1)


async def assert_one_probe_at_a_time(door: Door) -> None:
    async with a_client(door) as client:
        await fail(client, 20)
        assert guards.readings(guards.PROCESS, 0.0)[0][1].state == "open"
        door.seen.clear()
        door.most_at_once = 0
        healing = asyncio.Event()

        async def slowly(seen: Seen) -> Answer:
            if not healing.is_set() and len(door.seen) <= GOOD_CLOSE:
                await asyncio.sleep(0.02)
            return say(200, 7)

        door.answering = slowly
        answers = 0

        async def keep_calling() -> None:
            nonlocal answers
            while answers < 200:
                with suppress(Unavailable):
                    await client.call(Far.write, 1)
                    answers += 1
                    if answers == GOOD_CLOSE:
                        assert door.most_at_once == 1, "more than one probe was out"
                        healing.set()
                await asyncio.sleep(0)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(keep_calling())
        assert guards.readings(guards.PROCESS, 0.0)[0][1].state == "closed"
