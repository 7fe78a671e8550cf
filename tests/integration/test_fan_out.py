"""Many calls at once: what is given up ends at the other end too, in one process and over HTTP; nothing is taken ahead
of a slow reader; answers are in their order, and who failed is said.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ringpost import (
    Caller,
    Client,
    Context,
    Contract,
    DeadlineExceeded,
    Operation,
    Problem,
    Service,
    UsageError,
    blocking,
    deadline,
    first,
)
from ringpost.http.ports import bind
from ringpost.http.site import Site
from ringpost.settings import Settings
from ringpost.testing import Harness

PATIENCE_S = 30.0


class No(Problem, status=409):
    word: str


class Many(Contract):
    say = Operation(str, str, raises=[No], timeout=20)
    nap = Operation(float, float, timeout=20)
    pair = Operation(int, float, timeout=20)


class Crowd:
    """A service whose handlers answer, refuse or hang as they are told, and say how they ended."""

    def __init__(self) -> None:
        self.service = service = Service(Many)
        self.began: Counter[str] = Counter()
        self.news = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()

        @service.implements(Many.say)
        async def say(word: str) -> str:
            """`hang …` never answers; `… after N` waits until so many hang."""
            self.began[word] += 1
            self.news.set()
            try:
                if word.startswith("hang"):
                    await asyncio.Event().wait()
            finally:
                if word.startswith("hang"):
                    self.ended.put_nowait(word)
            said, _, count = word.partition(" after ")
            if count:
                await self.hanging(int(count))
            if said == "no":
                raise No(said)
            return said.upper()

        @service.implements(Many.nap)
        async def nap(length_s: float) -> float:
            await asyncio.sleep(length_s)
            return length_s

        @service.implements(Many.pair)
        async def pair(concurrency: int, ctx: Context) -> float:
            clock = asyncio.get_running_loop().time
            began_s = clock()
            assert await ctx.call_all(Many.nap, [2.0, 2.0], concurrency=concurrency) == [2.0, 2.0]
            return clock() - began_s

    async def hanging(self, count: int) -> None:
        """Wait until so many hang."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(many for word, many in self.began.items() if word.startswith("hang")) < count:
                self.news.clear()
                await self.news.wait()

    async def end(self, count: int) -> list[str]:
        """Give what was ended, which must be so many and soon."""
        try:
            async with asyncio.timeout(5):
                return sorted([await self.ended.get() for _ in range(count)])
        except TimeoutError:
            raise AssertionError("a handler goes on that nobody waits for") from None


@asynccontextmanager
async def a_site(folder: Path, service: Service) -> AsyncIterator[tuple[Site, str]]:
    settings = Settings(store=f"sqlite:///{folder}/x.db", http="127.0.0.1:0", http_given=True)
    bound = bind(settings)
    assert bound is not None
    site = Site([service], settings)
    await site.open(bound, work=True)
    try:
        yield site, bound.url
    finally:
        await site.close(0.2)


class Place:
    """A crowd that is served, and a client on it."""

    def __init__(self, crowd: Crowd, client: Client, url: str) -> None:
        self.crowd = crowd
        self.client = client
        self.url = url


@pytest.fixture(params=["in process", "over HTTP"])
async def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.chdir(tmp_path)
    crowd = Crowd()
    async with a_site(tmp_path, crowd.service) as (site, url), Client(addresses={"many": url}) as away:
        yield Place(crowd, site.client() if request.param == "in process" else away, url)


async def leave_running(tasks: object) -> None:
    """The broken twin: what is given up goes on."""


# --- first


async def check_first(here: Place) -> None:
    call = here.client.call
    words = ["hang 1", "a after 2", "hang 2"]
    assert await first(*(call(Many.say, word) for word in words)) == ["A"]
    assert await here.crowd.end(2) == ["hang 1", "hang 2"]


async def test_what_comes_first_ends_the_others_where_they_are_handled(here: Place) -> None:
    await check_first(here)


async def test_first_that_leaves_the_rest_running_is_found(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpost.client.first.cancelled", leave_running)
    with pytest.raises(AssertionError):
        await check_first(here)


async def test_a_quorum_is_as_many_as_are_needed(here: Place) -> None:
    call = here.client.call
    words = ["a after 1", "hang", "no", "b after 1"]
    assert sorted(await first(*(call(Many.say, word) for word in words), need=2)) == ["A", "B"]
    assert await here.crowd.end(1) == ["hang"]


async def test_a_quorum_out_of_reach_ends_at_once_and_says_how_many_failed(here: Place) -> None:
    call = here.client.call
    words = ["hang", "no after 1", "no after 1"]
    with pytest.raises(No) as caught:
        await first(*(call(Many.say, word) for word in words), need=2)
    assert caught.value.__notes__ == ["first(need=2): 2 of 3 calls failed, this one first."]
    assert await here.crowd.end(1) == ["hang"]


async def test_first_shares_the_time_of_a_block(here: Place) -> None:
    with deadline(0.3), pytest.raises(DeadlineExceeded):
        await first(here.client.call(Many.say, "hang 1"), here.client.call(Many.say, "hang 2"))
    assert await here.crowd.end(2) == ["hang 1", "hang 2"]


# --- call_all


async def check_call_all(here: Place) -> None:
    with pytest.raises(No) as caught:
        await here.client.call_all(Many.say, ["a", "hang 1", "no after 2", "hang 2"], concurrency=4)
    assert caught.value.__notes__ == ["call_all: request 2 failed (the first is 0)."]
    assert await here.crowd.end(2) == ["hang 1", "hang 2"]


async def test_the_first_failure_of_many_ends_the_rest_where_it_is_handled(here: Place) -> None:
    await check_call_all(here)


async def test_call_all_that_leaves_the_rest_running_is_found(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpost.client.verbs.cancelled", leave_running)
    with pytest.raises(AssertionError):
        await check_call_all(here)


async def test_giving_up_call_all_ends_every_call(here: Place) -> None:
    calling = asyncio.ensure_future(here.client.call_all(Many.say, ["hang 1", "hang 2"]))
    await here.crowd.hanging(2)
    calling.cancel()
    assert await here.crowd.end(2) == ["hang 1", "hang 2"]


async def test_replies_are_in_the_order_of_the_requests_whichever_comes_first(here: Place) -> None:
    assert await here.client.call_all(Many.nap, [0.05, 0.0, 0.02], concurrency=3) == [0.05, 0.0, 0.02]


# --- call_each


async def check_a_stream_that_is_left(here: Place) -> None:
    async with aclosing(here.client.call_each(Many.say, ["hang 1", "a after 2", "hang 2"], concurrency=3)) as stream:
        assert (await anext(stream)).result() == "A"
    assert await here.crowd.end(2) == ["hang 1", "hang 2"]


async def test_a_stream_that_is_closed_early_ends_the_rest_where_it_is_handled(here: Place) -> None:
    await check_a_stream_that_is_left(here)


async def test_a_stream_that_leaves_the_rest_running_is_found(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpost.client.verbs.cancelled", leave_running)
    with pytest.raises(AssertionError):
        await check_a_stream_that_is_left(here)


async def test_a_failure_is_an_outcome_and_stops_nothing(here: Place) -> None:
    outcomes = {outcome.request: outcome async for outcome in here.client.call_each(Many.say, ["a", "no", "b"])}
    assert {word: outcome.state for word, outcome in outcomes.items()} == {
        "a": "succeeded",
        "no": "failed",
        "b": "succeeded",
    }
    assert isinstance(outcomes["no"].error, No)


async def check_backpressure(client: Caller, concurrency: int) -> None:
    """Requests are taken as the reader takes outcomes, `concurrency` ahead of it at most."""
    taken = 0

    def words() -> Iterator[str]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield f"{number}"

    read = 0
    async with aclosing(client.call_each(Many.say, words(), concurrency=concurrency)) as stream:
        async for _ in stream:
            read += 1
            assert taken <= read + concurrency
            await asyncio.sleep(0)
    assert (read, taken) == (20, 20)


async def test_nothing_is_taken_ahead_of_a_slow_reader(here: Place) -> None:
    await check_backpressure(here.client, 3)


async def test_a_stream_that_takes_all_at_once_is_found(here: Place) -> None:
    class Eager(Client):
        def call_each(self, operation: Any, requests: Any, /, *, concurrency: int = 20, **options: Any) -> Any:
            return here.client.call_each(operation, list(requests), concurrency=concurrency, **options)

    with pytest.raises(AssertionError):
        await check_backpressure(Eager(), 3)


async def test_what_is_wrong_with_the_program_is_raised_and_nothing_goes_on_behind_it(here: Place) -> None:
    """Options that no call takes fail in every call at once: one is raised, and nothing warns of the others."""
    wrong: Any = {"nonsense": 1}
    with pytest.raises(UsageError, match="takes no nonsense"):
        async for _ in here.client.call_each(Many.say, ["a", "b", "c"], **wrong):
            pass
    gc.collect()  # an exception that nobody has looked at would warn here, and warnings are errors


# --- in threads, and in virtual time


async def test_a_blocking_stream_that_is_left_ends_the_rest(here: Place) -> None:
    def work() -> str:
        with blocking.Client(addresses={"many": here.url}) as client:
            stream = client.call_each(Many.say, ["hang 1", "a after 2", "hang 2"], concurrency=3)
            found = next(stream).result()
            stream.close()
            return found

    assert await asyncio.wait_for(asyncio.to_thread(work), PATIENCE_S) == "A"
    assert await here.crowd.end(2) == ["hang 1", "hang 2"]


async def check_side_by_side(concurrency: int) -> None:
    async with Harness(Crowd().service) as harness:
        assert await harness.client.call(Many.pair, concurrency) == pytest.approx(2, abs=0.05)


async def test_two_calls_of_two_seconds_side_by_side_take_two_seconds() -> None:
    await check_side_by_side(2)


async def test_one_after_the_other_is_found() -> None:
    with pytest.raises(AssertionError):
        await check_side_by_side(1)
