"""The door as an ASGI application: mounted in FastAPI and Starlette, over httpx and over uvicorn."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from ringpost import Context, Contract, Event, Operation, Problem, Service, asgi, serve
from ringpost.http.asgi import Application

PATIENCE_S = 10.0


@dataclass
class NewUser:
    email: str


class EmailTaken(Problem, status=409):
    email: str


class Members(Contract):
    join = Operation(NewUser, str, raises=[EmailTaken])
    slow = Operation(float, str, timeout=30)
    joined = Event(NewUser)


@dataclass
class World:
    """A service, and what its handlers saw."""

    service: Service
    began: asyncio.Event
    cancelled: asyncio.Event
    heard: list[str]


@pytest.fixture
def world() -> World:
    service = Service(Members)
    world = World(service, asyncio.Event(), asyncio.Event(), [])

    @service.implements(Members.join)
    async def join(new: NewUser) -> str:
        if new.email == "taken":
            raise EmailTaken(new.email)
        return f"hello {new.email}"

    @service.implements(Members.slow)
    async def slow(length_s: float, ctx: Context) -> str:
        world.began.set()
        try:
            await ctx.progress(0.5, "half")
            await asyncio.sleep(length_s)
        except asyncio.CancelledError:
            world.cancelled.set()
            raise
        return "done"

    @service.on(Members.joined)
    async def joined(user: NewUser) -> None:
        world.heard.append(user.email)

    return world


@pytest.fixture
async def app(world: World) -> AsyncIterator[Application]:
    app = asgi(world.service, store="memory:")
    yield app
    await app.close()


def client(app: Any, base: str = "http://shop") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base)


def in_fastapi(app: Any) -> Any:
    outer = fastapi.FastAPI()
    outer.mount("/rpc", app)
    return outer


def in_starlette(app: Any) -> Any:
    return Starlette(routes=[Mount("/rpc", app=app)])


@pytest.mark.parametrize("mount", [in_fastapi, in_starlette])
async def test_mounted_it_answers_below_its_path(app: Application, mount: Any) -> None:
    async with client(mount(app)) as http:
        answer = await http.post("/rpc/members/join", json={"email": "ada"})
        assert (answer.status_code, answer.json()) == (200, "hello ada")
        taken = await http.post("/rpc/members/join", json={"email": "taken"})
        assert (taken.status_code, taken.json()["email"]) == (409, "taken")
        wrong = await http.post("/rpc/members/join", json={"email": 1})
        assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (400, "/email")
        assert (await http.get("/rpc/members/join")).headers["allow"] == "POST"
        assert (await http.get("/rpc/readyz")).status_code == 200
        assert (await http.get("/rpc/nothing")).status_code == 404


@pytest.mark.parametrize("mount", [in_fastapi, in_starlette])
async def test_locations_lead_back_through_the_mount(app: Application, mount: Any) -> None:
    async with client(mount(app), "https://api.example:8443") as http:
        accepted = await http.post("/rpc/members/join", json={"email": "ada"}, headers={"Prefer": "respond-async"})
        assert accepted.status_code == 202
        location = accepted.headers["location"]
        assert location.startswith("https://api.example:8443/rpc/tickets/")
        result = await http.get(location, headers={"Prefer": "wait=10"})
        assert (result.status_code, result.json()) == (200, "hello ada")
        monitor = await http.get(accepted.headers["operation-location"])
        assert monitor.json()["status"] == "Succeeded"


async def test_limits_hold_behind_other_servers_too(app: Application) -> None:
    async with client(app) as http:
        assert (await http.post("/members/join", content=b"x" * 300_000)).status_code == 413
        assert (await http.post("/members/join", content=b"{}", headers={"X": "x" * 20_000})).status_code == 431
        twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        assert (await http.post("/members/join", content=b"{}", headers=twice)).status_code == 400


async def test_it_opens_with_the_lifespan_where_there_is_one(world: World) -> None:
    app = asgi(world.service, store="memory:")
    told: list[str] = []
    shutting = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not told:
            return {"type": "lifespan.startup"}
        await shutting.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        told.append(message["type"])
        shutting.set()

    await app({"type": "lifespan"}, receive, send)
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_store_that_cant_be_opened_fails_the_startup(world: World, tmp_path: Path) -> None:
    app = asgi(world.service, store=f"sqlite:///{tmp_path}/no/such/folder/x.db")
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        told.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in told] == ["lifespan.startup.failed"]


async def test_a_websocket_is_closed(app: Application) -> None:
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        told.append(message["type"])

    await app({"type": "websocket"}, receive, send)
    assert told == ["websocket.close"]


async def test_mounted_it_claims_no_messages_and_beside_it_serve_works_them(world: World, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/shop.db"
    app = asgi(world.service, store=store)
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "test", "ce-type": "members.joined"}
    try:
        async with client(in_fastapi(app)) as http:
            published = await http.post("/rpc/events", json={"email": "ada"}, headers=event)
            assert published.json()["receivers"] == 1
            await asyncio.sleep(0.3)  # nothing tells that nothing happens
            assert world.heard == []
            async with serve(world.service, store=store, http=None):
                async with asyncio.timeout(PATIENCE_S):
                    while not world.heard:  # noqa: ASYNC110 (the handler belongs to the service)
                        await asyncio.sleep(0.01)
        assert world.heard == ["ada"]
    finally:
        await app.close()


@asynccontextmanager
async def on_uvicorn(app: Any) -> AsyncGenerator[str, None]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE_S):
        while not server.started:  # noqa: ASYNC110 (uvicorn tells nobody)
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def test_over_uvicorn_calls_streams_and_goings(world: World, app: Application) -> None:
    async with on_uvicorn(in_fastapi(app)) as base, httpx.AsyncClient(base_url=f"{base}/rpc") as http:
        assert (await http.post("/members/join", json={"email": "ada"})).json() == "hello ada"
        accepted = await http.post("/members/slow", json=0.2, headers={"Prefer": "respond-async"})
        monitor = accepted.headers["operation-location"]
        assert monitor.startswith(f"{base}/rpc/tickets/")
        async with http.stream("GET", monitor, headers={"Accept": "text/event-stream"}) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            events = [line async for line in stream.aiter_lines() if line.startswith("data:")]
        assert '"status":"Succeeded"' in events[-1]
        world.began.clear()
        calling = asyncio.create_task(http.post("/members/slow", json=30.0))
        await asyncio.wait_for(world.began.wait(), PATIENCE_S)
        calling.cancel()
        await asyncio.wait_for(world.cancelled.wait(), PATIENCE_S)


def test_each_loop_after_the_other_opens_anew(world: World) -> None:
    """What test clients do that run a loop per request."""
    app = asgi(world.service, store="memory:")

    async def call() -> int:
        async with client(app) as http:
            return (await http.post("/members/join", json={"email": "ada"})).status_code

    assert [asyncio.run(call()) for _ in range(2)] == [200, 200]
