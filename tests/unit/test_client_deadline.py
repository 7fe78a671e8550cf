"""Deadlines only get shorter on the way in; `first` takes what comes first and ends the rest."""

import asyncio
from datetime import timedelta

import pytest

from ringpost.client.deadline import call_deadline_s, deadline
from ringpost.client.first import first
from ringpost.contract.errors import DeadlineExceeded, Unavailable, UsageError
from ringpost.settings import Settings

SETTINGS = Settings()


def test_the_option_wins_over_the_operation_and_that_over_the_default() -> None:
    assert call_deadline_s(100, 1.5, 2, None, SETTINGS) == 101.5
    assert call_deadline_s(100, timedelta(seconds=3), 2, None, SETTINGS) == 103
    assert call_deadline_s(100, None, 2, None, SETTINGS) == 102
    assert call_deadline_s(100, None, None, None, SETTINGS) == 105
    assert call_deadline_s(100, None, 600, None, SETTINGS) == 160


def test_longer_than_a_minute_is_a_message() -> None:
    with pytest.raises(UsageError, match="What takes longer is sent"):
        call_deadline_s(100, 61, None, None, SETTINGS)


def test_a_nested_call_leaves_time_for_the_way_back() -> None:
    assert call_deadline_s(100, 5, None, 101, SETTINGS) == pytest.approx(100.98)
    assert call_deadline_s(100, 0.5, None, 101, SETTINGS) == 100.5


def test_what_is_over_before_it_began_was_certainly_not_done() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        call_deadline_s(100, 5, None, 100.01, SETTINGS)
    assert caught.value.processed == "no"


async def test_a_block_bounds_all_calls_inside_and_blocks_nest() -> None:
    now_s = asyncio.get_running_loop().time()
    with deadline(2):
        outer_s = call_deadline_s(now_s, 5, None, None, SETTINGS)
        assert now_s + 1.9 < outer_s < now_s + 2.5
        with deadline(10):
            assert call_deadline_s(now_s, 50, None, None, SETTINGS) == outer_s
        with deadline(1):
            assert call_deadline_s(now_s, 5, None, None, SETTINGS) < now_s + 1.5
        assert call_deadline_s(now_s, 5, None, None, SETTINGS) == outer_s
    assert call_deadline_s(now_s, 5, None, None, SETTINGS) == now_s + 5


async def test_the_first_wins_and_the_rest_is_cancelled() -> None:
    ended: list[str] = []

    async def slow() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("slow")
        return "slow"

    async def quick(word: str) -> str:
        await asyncio.sleep(0)
        return word

    assert await first(slow(), quick("a")) == ["a"]
    assert ended == ["slow"]
    assert sorted(await first(quick("a"), slow(), quick("b"), need=2)) == ["a", "b"]


async def test_first_fails_once_enough_cant_be_reached() -> None:
    async def fails() -> str:
        raise Unavailable("gone")

    async def works() -> str:
        return "a"

    assert await first(fails(), works()) == ["a"]
    with pytest.raises(Unavailable):
        await first(fails(), works(), need=2)
    with pytest.raises(UsageError, match="need must be 1 to 1"):
        await first(works(), need=2)
    with pytest.raises(UsageError, match="not 'x'"):
        await first(works(), need="x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one call or more"):
        await first()


async def test_cancelling_first_cancels_all() -> None:
    ended: list[int] = []

    async def slow(n: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(n)

    task = asyncio.ensure_future(first(slow(1), slow(2)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [1, 2]
