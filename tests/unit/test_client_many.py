"""Many calls at once: their order, their bound, their options and the first failure."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_world import Adding, Sum, TooLarge, a_world

from ringpost.contract.errors import UsageError
from ringpost.core.call import Call
from ringpost.core.message import Answer


async def test_options_of_many_calls_are_those_of_each() -> None:
    async with a_world() as world:
        requests = [Sum(n, 1) for n in range(3)]
        await world.client.call_all(Adding.add, requests, priority="low", timeout=2)
        _ = [one async for one in world.client.call_each(Adding.add, requests, priority="low", timeout=2)]
        assert {call.priority.name for call in world.here.calls} == {"LOW"}
        assert all(call.deadline_s - asyncio.get_running_loop().time() <= 2 for call in world.here.calls)
        for many in (world.client.call_all, world.client.call_each):
            with pytest.raises(UsageError, match="takes no idempotency_key"):
                await drained(many(Adding.add, requests, idempotency_key="one"))  # type: ignore[operator]
            with pytest.raises(UsageError, match="1 to 1,000, not 0"):
                await drained(many(Adding.add, requests, concurrency=0))  # type: ignore[operator]


async def drained(many: Any) -> None:
    if isinstance(many, AsyncIterator):
        async for _ in many:
            pass
    else:
        await many


async def test_call_all_keeps_the_order_and_the_bound() -> None:
    async with a_world() as world:
        running, most = 0, 0
        call = world.here.call

        async def counted(asked: Call) -> Answer:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await call(asked)
            finally:
                running -= 1

        world.here.call = counted  # type: ignore[method-assign]
        replies = await world.client.call_all(Adding.add, (Sum(n, 1) for n in range(50)), concurrency=4)
        assert replies == [n + 1 for n in range(50)]
        assert most == 4


async def test_call_all_raises_the_first_failure_and_ends_the_rest() -> None:
    async with a_world() as world:
        with pytest.raises(TooLarge):
            await world.client.call_all(Adding.add, [Sum(101, 1), *[Sum(n, 1) for n in range(50)]], concurrency=2)
        assert len(world.here.calls) < 10
        with pytest.raises(UsageError, match="one key for many"):
            await world.client.call_all(Adding.add, [], idempotency_key="k")
        with pytest.raises(UsageError, match="concurrency"):
            await world.client.call_all(Adding.add, [], concurrency=0)


async def test_call_each_yields_failures_too_and_takes_no_more_than_it_needs() -> None:
    async with a_world() as world:
        taken: list[int] = []

        def requests() -> Any:
            for n in range(100):
                taken.append(n)
                yield Sum(n * 50, 1)

        results: list[int | None] = []
        outcomes = world.client.call_each(Adding.add, requests(), concurrency=3)
        async for outcome in outcomes:
            error = outcome.error
            assert error is None or isinstance(error, TooLarge)
            results.append(None if error else outcome.result())
            if len(results) == 6:
                break
        await outcomes.aclose()  # type: ignore[attr-defined]
        assert sorted(n for n in results if n is not None) == [1, 51, 101]
        assert results.count(None) == 3
        assert len(taken) <= 10
