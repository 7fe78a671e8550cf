"""A call after messages sees their effects, whichever way it goes: in process, over HTTP, from a handler, from threads,
in virtual time. The receiver waits, before it takes a slot; what isn't there in time is told from what never will be.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from scene import asked as asked_by_hand

from ringpost import (
    Client,
    Context,
    Contract,
    Event,
    NotHere,
    NotYet,
    Operation,
    Receipt,
    Reject,
    Service,
    StateError,
    TicketExpired,
    UsageError,
    blocking,
)
from ringpost.client import effects
from ringpost.client.effects import Effects
from ringpost.client.posting import message_of
from ringpost.core import after, ids
from ringpost.core.after import Awaited, Standing
from ringpost.core.message import Record
from ringpost.http.ports import bind
from ringpost.http.site import Site
from ringpost.settings import Settings
from ringpost.testing import Harness

PATIENCE_S = 30.0


class Board(Contract):
    write = Operation(str)
    look = Operation(None, list[str])
    lost = Operation(str)
    written = Event(str)


class Reader(Contract):
    look = Operation(None, list[str])
    write_and_look = Operation(str, list[str])


class Wall:
    """A board, and hands to hold up who writes on it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.gate = asyncio.Event()
        self.board = board = Service(Board)
        self.reader = reader = Service(Reader)

        @board.implements(Board.write, concurrency=1)
        async def write(line: str) -> None:
            await self.gate.wait()
            self.lines.append(line)

        @board.implements(Board.look, concurrency=1)
        async def look(_: None) -> list[str]:
            return self.lines

        @board.implements(Board.lost)
        async def lost(line: str) -> None:
            raise Reject(line)

        @board.on(Board.written, name="one")
        async def one(line: str) -> None:
            self.lines.append(f"one: {line}")

        @board.on(Board.written, name="two")
        async def two(line: str) -> None:
            await self.gate.wait()
            self.lines.append(f"two: {line}")

        @reader.implements(Reader.look)
        async def look_there(_: None, ctx: Context) -> list[str]:
            assert self.receipts is not None
            return await ctx.call(Board.look, None, after=self.receipts)

        @reader.implements(Reader.write_and_look)
        async def write_and_look(line: str, ctx: Context) -> list[str]:
            receipt = await ctx.now.send(Board.write, line, idempotency_key=line)
            return await ctx.call(Board.look, None, after=receipt)

        self.receipts: Receipt | Sequence[Receipt] | None = None


@asynccontextmanager
async def a_site(
    folder: Path, *services: Service, name: str = "a", **addresses: str
) -> AsyncIterator[tuple[Site, str]]:
    settings = Settings(store=f"sqlite:///{folder / name}.db", http="127.0.0.1:0", http_given=True, addresses=addresses)
    bound = bind(settings)
    assert bound is not None
    site = Site(services, settings)
    await site.open(bound, work=True)
    try:
        yield site, bound.url
    finally:
        await site.close(1.0)


class Place:
    """A wall that is served, and every way to it."""

    def __init__(self, wall: Wall, site: Site, url: str, stack: AsyncExitStack) -> None:
        self.wall = wall
        self.site = site
        self.url = url
        self._stack = stack
        self.inside = site.client()

    async def by_store(self) -> Client:
        assert self.site.settings.store is not None
        return await self._stack.enter_async_context(Client(store=self.site.settings.store))

    async def ended(self, id: bytes) -> None:
        store = self.site.store
        assert store is not None
        async with asyncio.timeout(PATIENCE_S):
            while (record := (await store.read([id]))[0]) is None or not record.state.terminal:
                await store.wait(frozenset(), frozenset([id]), 0.1)

    async def by_address(self) -> Client:
        return await self._stack.enter_async_context(Client(addresses={"board": self.url, "reader": self.url}))


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.chdir(tmp_path)
    async with AsyncExitStack() as stack:
        wall = Wall()
        site, url = await stack.enter_async_context(a_site(tmp_path, wall.board, wall.reader))
        yield Place(wall, site, url, stack)


Look = Callable[[Receipt | Sequence[Receipt]], Awaitable[list[str]]]


async def in_process(here: Place) -> tuple[Client, Look]:
    return here.inside, lambda after: here.inside.call(Board.look, None, after=after)


async def over_http_by_the_store(here: Place) -> tuple[Client, Look]:
    client = await here.by_store()
    return client, lambda after: client.call(Board.look, None, after=after)


async def over_http_by_address(here: Place) -> tuple[Client, Look]:
    client = await here.by_address()
    return client, lambda after: client.call(Board.look, None, after=after)


async def from_a_handler(here: Place) -> tuple[Client, Look]:
    client = await here.by_store()

    def look(after: Receipt | Sequence[Receipt]) -> Awaitable[list[str]]:
        here.wall.receipts = after
        return client.call(Reader.look, None)

    return client, look


WAYS = [in_process, over_http_by_the_store, over_http_by_address, from_a_handler]
Way = Callable[[Place], Awaitable[tuple[Client, Look]]]


class Watch:
    """Says when somebody has looked for effects that aren't there, and begins to wait for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = asyncio.Event()
        heard = effects._Listening.heard

        async def watched(listening: effects._Listening) -> None:
            self.began.set()
            await heard(listening)

        monkeypatch.setattr(effects._Listening, "heard", watched)

    async def waited(self, calling: "asyncio.Future[Any]") -> None:
        """Wait until the call waits; fails where it is answered instead."""
        began = asyncio.ensure_future(self.began.wait())
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait((calling, began), return_when=asyncio.FIRST_COMPLETED)
        began.cancel()
        assert self.began.is_set(), f"it was answered before what it comes after: {calling}"


async def check_a_message(here: Place, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    client, look = await way(here)
    ticket = await client.send(Board.write, "tea")
    watch = Watch(monkeypatch)
    calling = asyncio.ensure_future(look(ticket))
    try:
        await watch.waited(calling)
        here.wall.gate.set()
        assert await asyncio.wait_for(calling, PATIENCE_S) == ["tea"]
    finally:
        here.wall.gate.set()
        await asyncio.wait((calling,))


async def check_an_event(here: Place, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an event every subscriber counts: one is through at once, the other is held up."""
    client, look = await way(here)
    told = await client.publish(Board.written, "tea")
    assert told.receivers == 2
    await here.ended(ids.delivery(ids.parse(told.id), "board.on.board.written.one"))
    watch = Watch(monkeypatch)
    calling = asyncio.ensure_future(look([told]))
    try:
        await watch.waited(calling)
        here.wall.gate.set()
        assert await asyncio.wait_for(calling, PATIENCE_S) == ["one: tea", "two: tea"]
    finally:
        here.wall.gate.set()
        await asyncio.wait((calling,))


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_after_a_message_sees_its_effects(here: Place, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    await check_a_message(here, way, monkeypatch)


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_after_an_event_sees_what_all_subscribers_did(
    here: Place, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_an_event(here, way, monkeypatch)


async def never_waits(_: Effects, *asked: Any) -> None:
    return None


def one_delivery_is_enough(awaited: Awaited, records: Sequence[Record | None], now_ms: int) -> Standing:
    found = {after.ticket_state(record) for record in records if record is not None}
    return "succeeded" if "succeeded" in found else "accepted"


@pytest.mark.parametrize("way", WAYS)
async def test_a_receiver_that_doesnt_wait_is_found(here: Place, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Effects, "refusal", never_waits)
    with pytest.raises(AssertionError):
        await check_a_message(here, way, monkeypatch)


async def test_one_that_is_content_with_one_subscriber_is_found(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(after, "standing_of", one_delivery_is_enough)
    with pytest.raises(AssertionError):
        await check_an_event(here, in_process, monkeypatch)


async def test_a_handler_reads_what_it_has_sent_at_once(here: Place) -> None:
    here.wall.gate.set()
    assert await here.inside.call(Reader.write_and_look, "tea") == ["tea"]


async def test_from_threads(here: Place) -> None:
    here.wall.gate.set()
    store = here.site.settings.store

    def work() -> list[str]:
        with blocking.Client(store=store) as client:
            ticket = client.send(Board.write, "tea")
            told = client.publish(Board.written, "tea")
            return client.call(Board.look, None, after=[ticket, told])

    assert sorted(await asyncio.to_thread(work)) == ["one: tea", "tea", "two: tea"]


class Slow(Contract):
    write = Operation(str)
    look = Operation(None, list[str])


async def test_in_virtual_time() -> None:
    """A message takes ten seconds: a call that may take a minute waits for five of them, the next one for the rest."""
    slow, lines = Service(Slow), list[str]()

    @slow.implements(Slow.write)
    async def write(line: str) -> None:
        await asyncio.sleep(9)
        lines.append(line)

    @slow.implements(Slow.look)
    async def look(_: None) -> list[str]:
        return lines

    async with Harness(slow) as harness:
        ticket = await harness.client.send(Slow.write, "tea")
        with pytest.raises(NotYet) as caught:
            await harness.client.call(Slow.look, None, after=ticket, timeout=60)
        assert caught.value.states == {ticket.id: "running"}
        assert await harness.client.call(Slow.look, None, after=ticket, timeout=60) == ["tea"]
        again = harness.client.ticket(Slow.write, ticket.id)
        assert await harness.client.call(Slow.look, None, after=[again, ticket]) == ["tea"]


# --- what isn't there


@pytest.mark.parametrize("way", WAYS[:3])
async def test_not_yet_is_told_from_never(here: Place, way: Way) -> None:
    client, _ = await way(here)
    running = await client.send(Board.write, "tea")
    with pytest.raises(NotYet) as late:
        await client.call(Board.look, None, after=running, timeout=0.3)
    assert late.value.processed == "no"
    assert list(late.value.states) == [running.id]
    rejected = await client.send(Board.lost, "tea")
    cancelled = await client.send(Board.write, "next")
    await cancelled.cancel()
    for ended, word in ((rejected, "failed"), (cancelled, "cancelled")):
        with pytest.raises(StateError, match=f"{ended.id} .{word}.") as never:
            await client.call(Board.look, None, after=[running, ended], timeout=60)
        assert type(never.value) is StateError
    here.wall.gate.set()
    assert await client.call(Board.look, None, after=running) == ["tea"]


async def test_what_will_never_come_is_said_at_once(here: Place) -> None:
    """One of two has ended, the other is held up: the answer doesn't wait for it."""
    client = here.inside
    running = await client.send(Board.write, "tea")
    ended = await client.send(Board.write, "next")
    await ended.cancel()
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(StateError):
        await client.call(Board.look, None, after=[running, ended], timeout=60)
    assert asyncio.get_running_loop().time() - began_s < after.WAIT_S_MAX
    here.wall.gate.set()


async def test_what_is_unknown_may_still_come(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is put only once somebody waits for it."""
    assert here.site.store is not None
    message = message_of(Board.write, "tea", settings=here.site.settings)
    receipt = Receipt(ids.text(message.id), store=store_of(here))
    client = await here.by_address()
    with pytest.raises(NotYet) as caught:
        await client.call(Board.look, None, after=receipt, timeout=0.3)
    assert caught.value.states == {receipt.id: "unknown"}
    here.wall.gate.set()
    watch = Watch(monkeypatch)
    calling = asyncio.ensure_future(client.call(Board.look, None, after=receipt, timeout=60))
    await watch.waited(calling)
    await here.site.store.put([message])
    assert await asyncio.wait_for(calling, PATIENCE_S) == ["tea"]


async def test_what_is_kept_no_longer_is_said_at_once(here: Place) -> None:
    old = ids.text(ids.uuid7(1_600_000_000_000, 7))
    for client in (here.inside, await here.by_address()):
        with pytest.raises(TicketExpired, match="kept no longer"):
            await client.call(Board.look, None, after=Receipt(old, store=store_of(here)), timeout=60)


def store_of(here: Place) -> str:
    assert here.site.store is not None
    return here.site.store.facts.store_id


# --- two stores


async def test_messages_of_another_store_are_waited_for_by_who_can_look_there(here: Place, tmp_path: Path) -> None:
    there = Wall()
    here.wall.gate.set()
    async with AsyncExitStack() as stack:
        _, url = await stack.enter_async_context(a_site(tmp_path, there.board, there.reader, name="b"))
        own = await here.by_store()
        ticket = await own.send(Board.write, "tea")
        # The receiver is on b. A client on a's store looks there itself, one with a ticket asks where it was sent to.
        crossing = await stack.enter_async_context(Client(store=here.site.settings.store, addresses={"board": url}))
        assert await crossing.call(Board.look, None, after=Receipt(ticket.id, store=ticket.store)) == []
        by_ticket = await stack.enter_async_context(Client(addresses={"board": url}))
        assert await by_ticket.call(Board.look, None, after=ticket) == []
        with pytest.raises(NotHere, match="in another store"):
            await by_ticket.call(Board.look, None, after=Receipt(ticket.id, store=ticket.store))
        # Messages of both stores at once: the caller waits for either where it can look.
        there.gate.set()
        mine = await by_ticket.send(Board.write, "there")
        assert await by_ticket.call(Board.look, None, after=[mine, ticket]) == ["there"]


# --- over HTTP by hand


async def test_the_header_by_hand(here: Place) -> None:
    ticket = await here.inside.send(Board.write, "tea")
    token = f"{ticket.store}; {ticket.id}"
    reply = await asked_by_hand(here.url, "POST", "/board/look", ringpost_after=token, request_timeout="300ms")
    assert (reply.status, reply.json["code"]) == (409, "not_yet")
    assert reply.json["messages"] == [{"id": ticket.id, "state": "running"}]
    assert reply.headers["ringpost-processed"] == "no"
    here.wall.gate.set()
    reply = await asked_by_hand(here.url, "POST", "/board/look", ringpost_after=token)
    assert (reply.status, reply.json) == (200, ["tea"])
    reply = await asked_by_hand(here.url, "POST", "/board/look", ringpost_after=f"0123; {ticket.id}")
    assert (reply.status, reply.json["code"]) == (409, "not_here")


async def test_a_receipt_over_http_names_its_store(here: Place) -> None:
    here.wall.gate.set()
    reply = await asked_by_hand(here.url, "POST", "/board/write", "tea", prefer="respond-async")
    assert (reply.status, reply.json["store"]) == (202, store_of(here))
    client = await here.by_address()
    assert (await client.send(Board.write, "tea")).store == store_of(here)
    assert (await client.publish(Board.written, "tea")).store == store_of(here)


@pytest.mark.parametrize("value", ["", "x", "; y", "a; b", "a; 0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8", "a; x:y"])
async def test_a_malformed_header_never_reaches_a_handler(here: Place, value: str) -> None:
    reply = await asked_by_hand(here.url, "POST", "/board/look", ringpost_after=value)
    assert (reply.status, reply.json["errors"][0]["header"]) == (400, "Ringpost-After")


async def test_a_message_comes_after_nothing(here: Place) -> None:
    ticket = await here.inside.send(Board.write, "tea")
    reply = await asked_by_hand(
        here.url, "POST", "/board/write", "x", ringpost_after=f"{ticket.store}; {ticket.id}", prefer="respond-async"
    )
    assert (reply.status, reply.json["errors"][0]["header"]) == (400, "Ringpost-After")
    here.wall.gate.set()
    with pytest.raises(UsageError, match="takes no `after`"):
        await here.inside.send(Board.write, "x", after=ticket)  # type: ignore[call-arg]
