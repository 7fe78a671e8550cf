"""Deadlines along a chain: each hop has less time than the one before, nothing outlives who waits for it, and what is
sent on the way lives by its own time. The same in one process and over HTTP, from threads and in virtual time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from scene import asked as asked_by_hand

from ringpost import Client, Context, Contract, DeadlineExceeded, Operation, Service, blocking, deadline
from ringpost.client import deadline as deadlines
from ringpost.client.router import Router
from ringpost.core import deadline as decisions
from ringpost.http.ports import bind
from ringpost.http.site import Site
from ringpost.service.context import Context as AnyContext
from ringpost.settings import Settings
from ringpost.testing import Harness

PATIENCE_S = 30.0


class Front(Contract):
    relay = Operation(str, list[float])
    linger = Operation(str, timeout=60)
    leave = Operation(str)
    finish = Operation(str, timeout=0.2)
    bounded = Operation(float, str)


class Back(Contract):
    left = Operation(None, float)
    hang = Operation(None, timeout=60)
    note = Operation(str)


class Town:
    """Two services, and what becomes of their handlers."""

    def __init__(self) -> None:
        self.front = front = Service(Front)
        self.back = back = Service(Back)
        self.began = asyncio.Event()
        self.ended: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
        self.noted: asyncio.Queue[float] = asyncio.Queue()
        self.gate = asyncio.Event()

        @back.implements(Back.left)
        async def left(_: None, ctx: Context) -> float:
            return ctx.remaining

        @back.implements(Back.hang)
        async def hang(_: None, ctx: Context) -> None:
            self.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.put_nowait(("back", ctx.cancelled))

        @back.implements(Back.note)
        async def note(_: str, ctx: Context) -> None:
            self.noted.put_nowait(ctx.remaining)

        @front.implements(Front.relay)
        async def relay(_: str, ctx: Context) -> list[float]:
            return [ctx.remaining, await ctx.call(Back.left, None)]

        @front.implements(Front.linger)
        async def linger(_: str, ctx: Context) -> None:
            try:
                await ctx.call(Back.hang, None)
            finally:
                self.ended.put_nowait(("front", ctx.cancelled))

        @front.implements(Front.leave)
        async def leave(word: str, ctx: Context) -> None:
            await ctx.send(Back.note, word)

        @front.implements(Front.finish, finish=True)
        async def finish(_: str, ctx: Context) -> None:
            self.began.set()
            await self.gate.wait()
            try:
                await ctx.call(Back.left, None)
            except DeadlineExceeded:
                self.ended.put_nowait(("front", "bound"))
                raise
            self.ended.put_nowait(("front", ctx.cancelled))

        @front.implements(Front.bounded)
        async def bounded(length_s: float, ctx: Context) -> str:
            try:
                with deadline(length_s):
                    await ctx.call(Back.hang, None)
            except DeadlineExceeded:
                return f"{await ctx.call(Back.left, None) > length_s}"
            return "it answered"


@asynccontextmanager
async def a_site(folder: Path, service: Service, **addresses: str) -> AsyncIterator[tuple[Site, str]]:
    store = f"sqlite:///{folder / service.name}.db"
    settings = Settings(store=store, http="127.0.0.1:0", http_given=True, addresses=addresses)
    bound = bind(settings)
    assert bound is not None
    site = Site([service], settings)
    await site.open(bound, work=True)
    try:
        yield site, bound.url
    finally:
        await site.close(1.0)


@asynccontextmanager
async def over_http(folder: Path, town: Town) -> AsyncIterator[tuple[Client, str]]:
    """Each service in a place of its own, and a client that knows but their addresses."""
    async with (
        a_site(folder, town.back) as (_, back),
        a_site(folder, town.front, back=back) as (_, front),
        Client(addresses={"front": front, "back": back}) as client,
    ):
        yield client, front


@asynccontextmanager
async def in_process(folder: Path, town: Town) -> AsyncIterator[tuple[Client, str]]:
    """Both services in one process, and the client in their middle."""
    settings = Settings(store=f"sqlite:///{folder}/one.db", http="127.0.0.1:0", http_given=True)
    bound = bind(settings)
    assert bound is not None
    site = Site([town.front, town.back], settings)
    await site.open(bound, work=True)
    try:
        yield site.client(), bound.url
    finally:
        await site.close(1.0)


Place = Callable[[Path, Town], Any]
PLACES = [over_http, in_process]


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
async def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.chdir(tmp_path)
    town = Town()
    async with request.param(tmp_path, town) as (client, url):
        yield town, client, url


async def soon(awaited: Any) -> Any:
    return await asyncio.wait_for(awaited, PATIENCE_S)


async def check_each_hop_has_less(town: Town, client: Client) -> None:
    first, second = await client.call(Front.relay, "x", timeout=3)
    assert first <= 3
    assert second <= first - decisions.MARGIN_S


async def test_each_hop_has_less_time_than_the_one_before(here: Any) -> None:
    town, client, _ = here
    await check_each_hop_has_less(town, client)


async def test_hops_without_a_margin_are_found(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    town, client, _ = here
    monkeypatch.setattr(deadlines, "child", lambda now_s, own_s, parent_s: now_s + own_s)
    with pytest.raises(AssertionError):
        await check_each_hop_has_less(town, client)


async def check_all_end(town: Town, client: Client) -> None:
    """The caller's time is over: every handler of the chain ends, and says why."""
    try:
        async with asyncio.timeout(6):
            with pytest.raises(DeadlineExceeded):
                await client.call(Front.linger, "x", timeout=1)
            ended = dict([await town.ended.get(), await town.ended.get()])
    except TimeoutError:
        raise AssertionError("a handler outlives its caller") from None
    assert set(ended) == {"front", "back"}
    assert ended["back"] in ("deadline", "caller_gone")


async def test_when_the_time_is_over_the_whole_chain_ends(here: Any) -> None:
    town, client, _ = here
    await check_all_end(town, client)


async def test_handlers_that_nobody_ends_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process: over HTTP the caller that gives up closes its connection, which ends them too."""
    monkeypatch.chdir(tmp_path)
    town = Town()
    monkeypatch.setattr(AnyContext, "_cancel", lambda *_: None)
    monkeypatch.setattr(Router, "prepared", without_deadline(Router.prepared))
    async with in_process(tmp_path, town) as (client, _):
        with pytest.raises(AssertionError):
            await check_all_end(town, client)


def without_deadline(prepared: Any) -> Any:
    """The broken twin: what is nested has all the time there is."""

    def patched(router: Any, operation: Any, request: object, options: Any = None, parent: Any = None) -> Any:
        if parent is not None:
            parent.deadline_s += 60
        return prepared(router, operation, request, options or {}, parent)

    return patched


async def test_when_the_caller_goes_away_the_whole_chain_ends(here: Any) -> None:
    town, _, url = here
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = b'"x"'
    writer.write(
        b"POST /front/linger HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n" + body
    )
    await soon(town.began.wait())
    writer.close()
    ended = dict([await soon(town.ended.get()), await soon(town.ended.get())])
    assert ended == {"front": "caller_gone", "back": "caller_gone"}


async def test_a_cancelled_caller_ends_the_whole_chain(here: Any) -> None:
    town, client, _ = here
    calling = asyncio.ensure_future(client.call(Front.linger, "x", timeout=60))
    await soon(town.began.wait())
    calling.cancel()
    assert set(dict([await soon(town.ended.get()), await soon(town.ended.get())])) == {"front", "back"}


async def test_with_finish_a_handler_goes_on_and_still_may_call(here: Any) -> None:
    """Its caller's time is long over when it calls on."""
    town, client, _ = here
    while not town.began.is_set():  # where there was no time for it, it isn't begun
        with pytest.raises(DeadlineExceeded) as late:
            await client.call(Front.finish, "x")
    assert late.value.processed == "maybe"
    town.gate.set()
    assert await soon(town.ended.get()) == ("front", None)


async def test_a_message_sent_during_a_call_has_its_own_time(here: Any) -> None:
    town, client, _ = here
    if client._attachment is None:
        pytest.skip("its receiver is on another store")
    with deadline(20):
        await client.call(Front.leave, "x", timeout=10)
    assert await soon(town.noted.get()) > 800  # max_run


# --- blocks


async def test_a_block_in_a_handler_bounds_what_is_called_in_it(here: Any) -> None:
    _, client, _ = here
    assert await client.call(Front.bounded, 0.1, timeout=20) == "True"


async def test_a_block_is_shared_by_calls_lists_streams_and_tickets(here: Any) -> None:
    _, client, _ = here
    with deadline(0.2):
        with pytest.raises(DeadlineExceeded):
            await soon(client.call_all(Back.hang, [None] * 3, timeout=20))
        with pytest.raises(DeadlineExceeded) as over:
            await client.call(Back.left, None)
        assert over.value.processed == "no"
        (outcome,) = [outcome async for outcome in client.call_each(Back.left, [None])]
        assert isinstance(outcome.error, DeadlineExceeded)
    assert await client.call(Back.left, None) > 4


async def check_a_ticket(client: Client) -> None:
    ticket = await client.send(Back.hang, None)
    began_s = asyncio.get_running_loop().time()
    with deadline(0.2), pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(2):
            await ticket.result(timeout=20)
    assert asyncio.get_running_loop().time() - began_s < 2
    await ticket.cancel()


async def test_a_block_bounds_waiting_for_a_ticket(here: Any) -> None:
    _, client, _ = here
    await check_a_ticket(client)


async def test_a_ticket_that_waits_beyond_the_block_is_found(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client, _ = here
    monkeypatch.setattr("ringpost.client.ticket.within_block", lambda until_s: until_s)
    with pytest.raises((TimeoutError, AssertionError)) as caught:
        await check_a_ticket(client)
    assert not isinstance(caught.value, DeadlineExceeded)


async def check_a_finishing_handler(town: Town, client: Client) -> None:
    while not town.began.is_set():  # where there was no time for it, it isn't begun
        with deadline(0.2), pytest.raises(DeadlineExceeded):
            await client.call(Front.finish, "x", timeout=20)
    town.gate.set()
    assert await soon(town.ended.get()) == ("front", None), "the handler was bound by its caller's block"


async def test_a_block_doesnt_reach_into_the_handler_of_this_process(here: Any) -> None:
    town, client, _ = here
    await check_a_finishing_handler(town, client)


async def test_a_block_that_does_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    town = Town()
    block = deadlines._block

    def whoever_is_handling(until_s: float) -> float:
        found = block.get()
        return until_s if found is None else min(until_s, found.until_s)

    monkeypatch.setattr(deadlines, "within_block", whoever_is_handling)
    async with in_process(tmp_path, town) as (client, _):
        with pytest.raises(AssertionError):
            await check_a_finishing_handler(town, client)


async def test_a_block_counts_in_threads(here: Any) -> None:
    _, _, url = here

    def work() -> list[str]:
        said: list[str] = []
        with blocking.Client(addresses={"front": url, "back": url}) as client, blocking.deadline(0.2):
            try:
                client.call(Front.linger, "x", timeout=20)
            except DeadlineExceeded:
                said.append("late")
            try:
                client.send(Front.linger, "x").result(timeout=20)
            except DeadlineExceeded:
                said.append("late again")
        return said

    assert await soon(asyncio.to_thread(work)) == ["late", "late again"]


async def test_in_virtual_time_a_chain_ends_to_the_millisecond() -> None:
    town = Town()
    async with Harness(town.front, town.back) as harness:
        assert await harness.client.call(Front.relay, "x", timeout=3) == [pytest.approx(3), pytest.approx(2.98)]


async def test_a_call_whose_time_is_over_runs_no_handler(here: Any) -> None:
    town, _, url = here
    reply = await asked_by_hand(url, "POST", "/front/linger", "x", request_timeout="0ms")
    assert (reply.status, reply.headers["ringpost-processed"]) == (504, "no")
    assert not town.began.is_set()
