"""What keeps a service that is called standing, through a real door and raw sockets: counts and orders, no times.

Handlers hold until they are let go, so that what waits and what is turned away is known before anything ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from ringpost import Client, Context, Contract, Operation, OperationFailed, Overloaded, Service, Unavailable
from ringpost.core import notes
from ringpost.core.limit import Fixed
from ringpost.core.maintenance import Window
from ringpost.http.door import Door
from ringpost.http.ports import bind
from ringpost.http.site import Site
from ringpost.service import slots
from ringpost.service.schedule import wall_ms
from ringpost.settings import Settings
from ringpost.store.port import Filter, Note, Store

GUARD_S = 20.0


class Shop(Contract, name="shop_overload"):
    buy = Operation(str, str)
    note = Operation(str)


class Held:
    """A service whose handler holds until it is let go, and what it has begun."""

    def __init__(self, **options: Any) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.noted: list[str] = []
        self.go_on = asyncio.Event()
        self.service = Service(Shop)

        @self.service.implements(Shop.buy, **options)
        async def buy(what: str) -> str:
            self.begun.append(what)
            try:
                await self.go_on.wait()
                return what
            finally:
                self.ended.append(what)

        @self.service.implements(Shop.note)
        async def note(what: str) -> None:
            self.noted.append(what)


@contextlib.asynccontextmanager
async def serving(services: Sequence[Service], **more: Any) -> AsyncIterator[tuple[Site, int]]:
    bound = bind(Settings(http="127.0.0.1:0", http_given=True))
    assert bound is not None
    site = Site(services, Settings(**more))
    try:
        await site.open(bound, work=True)
        try:
            yield site, int(bound.url.rpartition(":")[2])
        finally:
            await site.close(0.0)
    finally:
        bound.close()


class Answered(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: Any


class Peer:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, port: int) -> "Peer":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def post(self, what: str, path: str = "/shop_overload/buy", **headers: str) -> None:
        body = msgspec.json.encode(what)
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\n{''.join(lines)}content-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    def get(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())

    async def answer(self) -> Answered:
        async with asyncio.timeout(GUARD_S):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answered(int(first.split()[1]), headers, msgspec.json.decode(body) if body else None)

    async def ended(self) -> bool:
        async with asyncio.timeout(GUARD_S):
            return await self.reader.read(1) == b""

    def close(self) -> None:
        self.writer.close()


async def until(so: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not so():  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(0.002)


def slots_of(site: Site) -> Any:
    return site.host.entrance("shop_overload.buy")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls stand in the queue for as long as the test takes to look, however slow the machine is."""
    monkeypatch.setattr(slots, "WAIT_S_MAX", GUARD_S)


@pytest.mark.usefixtures("patient")
async def test_ten_times_too_much_is_turned_away_at_once_and_costs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(concurrency=4, call_queue=2, limiter="fixed")
    seen: list[str] = []
    answer = Door.__call__

    async def counted(self: Door, request: Any) -> Any:
        seen.append(request.path)
        return await answer(self, request)

    monkeypatch.setattr(Door, "__call__", counted)
    async with serving([held.service]) as (_, port):
        peers = [await Peer.at(port) for _ in range(60)]
        for number, peer in enumerate(peers):
            peer.post(str(number))
        answers = [asyncio.create_task(peer.answer()) for peer in peers]
        await until(lambda: sum(one.done() for one in answers) == 54)
        turned_away = [one.result() for one in answers if one.done()]
        assert {one.status for one in turned_away} == {503}
        assert all(int(one.headers["retry-after"]) >= 1 for one in turned_away)
        assert all(one.headers["ringpost-processed"] == "no" for one in turned_away)
        assert {one.body["code"] for one in turned_away} == {"overloaded"}
        assert len(seen) == 6, "no task is made for who is turned away"
        assert not held.ended, "nobody had to end for that"
        held.go_on.set()
        assert sorted([(await one).status for one in answers]) == [200] * 6 + [503] * 54
        assert len(held.begun) == 6
        again = peers[answers.index(next(one for one in answers if one.result().status == 503))]
        again.post("again")  # the connection is as good as before
        assert (await again.answer()).status == 200
        for peer in peers:
            peer.close()


@pytest.mark.usefixtures("patient")
async def test_the_higher_priority_finds_room_where_the_lower_is_told_at_once_that_there_is_none() -> None:
    held = Held(concurrency=6, limiter="fixed")
    async with serving([held.service]) as (site, port):
        running = [await Peer.at(port) for _ in range(6)]
        for number, peer in enumerate(running):
            peer.post(str(number))
        await until(lambda: len(held.begun) == 6)
        inside: list[Peer] = []
        for priority in ("low", "normal", "high"):
            entering, too_many = await Peer.at(port), await Peer.at(port)
            entering.post(priority, ringpost_priority=priority)
            inside.append(entering)
            await until(lambda: slots_of(site).waiting == len(inside))
            too_many.post("one more", ringpost_priority=priority)
            refused = await too_many.answer()
            assert (refused.status, refused.headers["ringpost-processed"]) == (503, "no")
            assert int(refused.headers["retry-after"]) >= 1
            too_many.close()
        assert not held.ended, "nobody had to end for that"
        held.go_on.set()
        assert [(await peer.answer()).status for peer in (*running, *inside)] == [200] * 9
        assert held.begun[6:] == ["low", "normal", "high"]
        for peer in (*running, *inside):
            peer.close()


async def test_who_would_come_too_late_from_its_place_is_told_before_it_has_waited() -> None:
    held = Held(concurrency=1, limiter="fixed")
    async with serving([held.service]) as (site, port):
        running, hopeless = await Peer.at(port), await Peer.at(port)
        running.post("running")
        await until(lambda: held.begun)
        slots_of(site).took(0.4)
        hopeless.post("hopeless", request_timeout="300ms")
        refused = await hopeless.answer()
        assert (refused.status, refused.body["code"]) == (503, "overloaded")
        assert (refused.headers["ringpost-processed"], refused.headers["retry-after"]) == ("no", "1")
        assert not held.ended, "nobody had to end for that"
        held.go_on.set()
        assert (await running.answer()).status == 200
        assert held.begun == ["running"]
        running.close()
        hopeless.close()


@pytest.mark.usefixtures("patient")
async def test_messages_yield_to_a_call_that_waits() -> None:
    held = Held(concurrency=2, limiter="fixed")
    async with serving([held.service], store="memory:") as (site, port):
        gate, client = slots_of(site), site.client()
        gate.limiter = Fixed(1)  # so one slot stays free, and messages may have it
        gate.limited()
        running, waiting = await Peer.at(port), await Peer.at(port)
        running.post("running")
        await until(lambda: held.begun)
        waiting.post("waiting")
        await until(lambda: gate.waiting == 1)
        await client.send(Shop.buy, "message")
        await client.send(Shop.note, "looked")  # of the same worker
        await until(lambda: held.noted)
        assert held.begun == ["running"], "a message was claimed while a call waits"
        held.go_on.set()
        assert [(await peer.answer()).status for peer in (running, waiting)] == [200, 200]
        await until(lambda: len(held.ended) == 3)
        assert held.begun == ["running", "waiting", "message"]
        for peer in (running, waiting):
            peer.close()


async def test_who_waits_for_too_long_or_has_gone_is_never_begun() -> None:
    held = Held(concurrency=1, call_queue=8, limiter="fixed")
    async with serving([held.service]) as (site, port):
        slots_of(site).calls_max = 1
        running, late = await Peer.at(port), await Peer.at(port)
        running.post("running")
        await until(lambda: held.begun)
        late.post("late", request_timeout="30ms")
        answer = await late.answer()
        assert (answer.status, answer.body["code"]) == (504, "deadline_exceeded")
        assert answer.headers["ringpost-processed"] == "no"
        gone = await Peer.at(port)
        gone.post("gone")
        await until(lambda: slots_of(site).waiting == 1)
        gone.close()
        await until(lambda: slots_of(site).waiting == 0)
        held.go_on.set()
        assert (await running.answer()).status == 200
        assert held.begun == ["running"]
        running.close()
        late.close()


async def test_who_takes_a_ticket_is_never_turned_away() -> None:
    held = Held(concurrency=1, call_queue=0, limiter="fixed")
    async with serving([held.service], store="memory:") as (_, port):
        running, plain, later = [await Peer.at(port) for _ in range(3)]
        running.post("running")
        await until(lambda: held.begun)
        plain.post("plain")
        assert (await plain.answer()).status == 503
        later.post("later", prefer="respond-async, wait=0")
        assert (await later.answer()).status == 202
        assert held.begun == ["running"]
        held.go_on.set()
        await until(lambda: held.ended == ["running", "later"])
        for peer in (running, plain, later):
            peer.close()


async def test_health_is_told_in_a_full_house() -> None:
    held = Held(concurrency=4, limiter="fixed")
    async with serving([held.service], connections_max=4) as (_, port):
        house = [await Peer.at(port) for _ in range(4)]
        for number, peer in enumerate(house):
            peer.post(str(number))
        await until(lambda: len(held.begun) == 4)
        for path in ("/healthz", "/readyz"):
            asking = await Peer.at(port)
            asking.get(path)
            assert (await asking.answer()).status == 200
            assert await asking.ended()
            asking.close()
        caller = await Peer.at(port)
        caller.post("one more")
        answer = await caller.answer()
        assert (answer.status, answer.body["code"], answer.headers["ringpost-processed"]) == (503, "overloaded", "no")
        assert await caller.ended()
        caller.close()
        held.go_on.set()
        assert [(await peer.answer()).status for peer in house] == [200] * 4
        for peer in house:
            peer.close()


async def test_a_closed_service_says_until_when_takes_tickets_and_drains_afterwards() -> None:
    held = Held()
    held.go_on.set()
    async with serving([held.service], store="memory:") as (site, port):
        store = site.store
        assert store is not None
        window = Window(wall_ms() + 600_000, 1_000.0, "new disk", "me", wall_ms())
        await store.note_put(Note(notes.maintenance("shop_overload"), notes.encode(window)))
        await until(lambda: site.host.health().closed)
        peer = await Peer.at(port)
        peer.get("/readyz")
        ready = await peer.answer()
        assert (ready.status, ready.body["maintenance"][0]["reason"]) == (200, "new disk")
        peer.post("called")
        refused = await peer.answer()
        assert (refused.status, refused.body["code"]) == (503, "maintenance")
        assert "new disk" in refused.body["detail"]
        assert 500 < int(refused.headers["retry-after"]) <= 600
        assert refused.headers["ringpost-processed"] == "no"
        with pytest.raises(Unavailable) as closed:
            await site.client().call(Shop.buy, "in process")
        assert closed.value.processed == "no"
        for number in range(5):
            peer.post(str(number), prefer="respond-async")
            assert (await peer.answer()).status == 202
        assert len(await store.find(Filter(queue="shop_overload.buy"))) == 5
        assert not held.begun
        await store.note_put(
            Note(notes.maintenance("shop_overload"), notes.encode(msgspec.structs.replace(window, until_ms=wall_ms())))
        )
        await until(lambda: len(held.ended) == 5)
        peer.post("called")
        assert (await peer.answer()).status == 200
        peer.close()
        async with asyncio.timeout(GUARD_S):  # who starts now isn't told to drain what is drained
            while not (await _window(store)).over(wall_ms()):  # noqa: ASYNC110 (no event tells)
                await asyncio.sleep(0.02)


async def _window(store: Store) -> Window:
    ((note),) = await store.notes(notes.maintenance("shop_overload"))
    return notes.decode_maintenance(note.value)


async def test_a_window_ends_by_itself() -> None:
    held = Held()
    held.go_on.set()
    async with serving([held.service], store="memory:") as (site, _):
        store = site.store
        assert store is not None
        window = Window(wall_ms() + 1_500)
        await store.note_put(Note(notes.maintenance("shop_overload"), notes.encode(window)))
        await until(lambda: site.host.health().closed)
        await until(lambda: not site.host.health().closed)
        assert await site.client().call(Shop.buy, "x") == "x"


class Near(Contract, name="near_overload"):
    there = Operation(str, str, effect="read")
    prior = Operation(str, str)


class Away(Contract, name="away_overload"):
    back = Operation(str, str, effect="read")


class Circle:
    """Two services that call each other. `begun`: what ran; what is asked says whether the error is caught."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.near, self.away = Service(Near), Service(Away)

        @self.near.implements(Near.there)
        async def there(what: str, ctx: Context) -> str:
            self.begun.append("there")
            return await ctx.call(Away.back, what)

        @self.away.implements(Away.back)
        async def back(what: str, ctx: Context) -> str:
            self.begun.append("back")
            if what == "priority":
                return await ctx.call(Near.prior, what)
            try:
                return await ctx.call(Near.there, what)
            except OperationFailed as error:
                if what != "caught":
                    raise
                return f"{error.cause}: {error}"

        @self.near.implements(Near.prior)
        async def prior(what: str, ctx: Context) -> str:
            assert ctx._request is not None
            return ctx._request.priority.name


@contextlib.asynccontextmanager
async def in_two_processes(circle: Circle) -> AsyncIterator[Client]:
    """Each service has a door of its own: every call goes over HTTP."""
    ports = [bind(Settings(http="127.0.0.1:0", http_given=True)) for _ in range(2)]
    near, away = [port for port in ports if port is not None]
    sites = [
        (Site([circle.near], Settings(addresses={"away_overload": away.url})), near),
        (Site([circle.away], Settings(addresses={"near_overload": near.url})), away),
    ]
    async with contextlib.AsyncExitStack() as stack:
        for site, bound in sites:
            stack.callback(bound.close)
            await site.open(bound, work=True)
            stack.push_async_callback(site.close, 0.0)
        yield await stack.enter_async_context(Client(addresses={"near_overload": near.url}))


@contextlib.asynccontextmanager
async def in_one_process(circle: Circle) -> AsyncIterator[Client]:
    async with serving([circle.near, circle.away]) as (site, _):
        yield site.client()


WAYS = pytest.mark.parametrize("open_all", [in_two_processes, in_one_process], ids=["over HTTP", "in process"])
PATH = ("near_overload.there", "away_overload.back", "near_overload.there")
LOOPS = 30  # of so many failures a breaker would open


@WAYS
async def test_a_circle_of_calls_is_refused_with_its_path_and_priority_travels(open_all: Any) -> None:
    async with open_all(Circle()) as client:
        said = await client.call(Near.there, "caught")
        assert said.startswith("loop_detected")
        assert " → ".join(PATH) in said
        assert await client.call(Near.there, "priority", priority="high") == "HIGH"
        assert await client.call(Near.there, "priority", priority="low") == "LOW"


@WAYS
async def test_who_asked_first_learns_of_the_circle_and_nobody_tries_again_or_breaks_off(open_all: Any) -> None:
    circle = Circle()
    async with open_all(circle) as client:
        for _ in range(LOOPS):
            with pytest.raises(OperationFailed) as looped:
                await client.call(Near.there, "let pass")
            assert (looped.value.cause, looped.value.path) == ("loop_detected", PATH)
            assert " → ".join(PATH) in str(looped.value)
        assert circle.begun == ["there", "back"] * LOOPS


async def test_an_overloaded_service_is_overloaded_to_its_client() -> None:
    held = Held(concurrency=1, call_queue=0, limiter="fixed")
    async with (
        serving([held.service]) as (_, port),
        Client(addresses={"shop_overload": f"http://127.0.0.1:{port}"}) as client,
    ):
        first = asyncio.create_task(client.call(Shop.buy, "first"))
        await until(lambda: held.begun)
        with pytest.raises(Overloaded) as refused:
            await client.call(Shop.buy, "second", timeout=0.9)
        assert refused.value.processed == "no"
        held.go_on.set()
        assert await first == "first"
