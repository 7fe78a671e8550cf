"""Tickets as HTTP shows them: monitor, result, long poll, stream, cancelling; over a store in memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from ringpost.core import ids
from ringpost.core.keep import KEEP_KEYED_S
from ringpost.core.message import Answer, Cause, Delivery, Kind, Message, Progress, Reservation, Settlement, State
from ringpost.http.answers import failure
from ringpost.http.framing import Refused
from ringpost.http.tickets import Tickets
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Report
from ringpost.wire.http import Request, Response

NOW_MS = 1_795_000_000_000
ID = ids.uuid7(NOW_MS, 7)
PATH = f"/tickets/{ids.text(ID)}"


@dataclass
class World:
    """A store with one message in it, and the tickets over it."""

    store: MemoryStore
    tickets: Tickets

    async def put(self, *, running: bool = True, kind: Kind = Kind.MESSAGE) -> Delivery | None:
        reserve = Reservation(1, 30.0) if running else None
        (put,) = await self.store.put([Message(ID, "shop.order", b"1", reserve=reserve, kind=kind)])
        return put.delivery

    async def settle(self, delivery: Delivery | None, to: State, answer: Answer | None = None, **more: Any) -> None:
        assert delivery is not None
        assert await self.store.settle([Settlement(delivery, to, answer, **more)]) == [True]

    async def ask(self, method: str = "GET", path: str = PATH, **headers: str) -> Response:
        now_s = asyncio.get_running_loop().time()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.tickets(Request(method, path, "", named, b"", now_s, "http://shop"))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = MemoryStore(Settings())
    await store.open(create=True)
    yield World(store, Tickets(_Stored(store), "", lambda: NOW_MS))
    await store.close()


@dataclass
class _Stored:
    store: MemoryStore | None


def body(response: Response) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(response.body)
    return decoded


def header(response: Response, name: str) -> str | None:
    return dict(response.headers).get(name)


async def refused(world: World, *args: str, **headers: str) -> int:
    with pytest.raises(Refused) as refusal:
        await world.ask(*args, **headers)
    return refusal.value.status


async def test_the_monitor_shows_a_message_until_it_has_ended(world: World) -> None:
    delivery = await world.put()
    running = await world.ask()
    assert running.status == 200
    assert (body(running)["status"], body(running)["state"]) == ("Running", "running")
    assert header(running, "Retry-After") == "1"
    assert header(running, "Location") == f"http://shop{PATH}/result"
    await world.settle(delivery, State.SUCCEEDED, Answer(200, b"42"))
    done = await world.ask()
    assert (body(done)["status"], header(done, "Retry-After")) == ("Succeeded", None)


async def test_the_result_is_what_the_call_would_have_answered(world: World) -> None:
    delivery = await world.put()
    waiting = await world.ask("GET", f"{PATH}/result")
    assert (waiting.status, header(waiting, "Retry-After")) == (202, "1")
    await world.settle(delivery, State.FAILED, Answer(409, b'{"code":"taken"}', "application/problem+json"))
    result = await world.ask("GET", f"{PATH}/result")
    assert (result.status, result.body, result.content_type) == (409, b'{"code":"taken"}', "application/problem+json")
    assert body(await world.ask())["status"] == "Failed"


async def test_a_dead_message_is_a_500_with_its_cause(world: World) -> None:
    await world.settle(await world.put(), State.DEAD, cause=Cause.WORKER_LOST)
    result = await world.ask("GET", f"{PATH}/result")
    assert (result.status, body(result)["code"]) == (500, "worker_lost")


@pytest.mark.parametrize("rest", ["", "/result"])
async def test_a_long_poll_ends_when_the_message_does(world: World, rest: str) -> None:
    delivery = await world.put()
    asking = asyncio.create_task(world.ask("GET", PATH + rest, prefer="wait=20"))
    await asyncio.sleep(0.01)
    assert not asking.done()
    await world.settle(delivery, State.SUCCEEDED, Answer(200, b"42"))
    response = await asyncio.wait_for(asking, 5)
    assert response.status == 200
    assert header(response, "Preference-Applied") == "wait=20"
    assert (response.body == b"42") if rest else (body(response)["status"] == "Succeeded")


async def test_a_long_poll_ends_when_its_time_is_over(world: World) -> None:
    await world.put()
    response = await world.ask("GET", f"{PATH}/result", prefer="wait=1")
    assert response.status == 202


async def test_no_long_poll_is_longer_than_25_s(world: World) -> None:
    await world.settle(await world.put(), State.SUCCEEDED)
    assert header(await world.ask(prefer="wait=3600"), "Preference-Applied") == "wait=25"


async def test_the_stream_shows_progress_until_the_end(world: World) -> None:
    delivery = await world.put()
    assert delivery is not None
    response = await world.ask(accept="text/event-stream")
    assert response.content_type == "text/event-stream"
    stream = response.stream
    assert stream is not None
    first = await anext(stream)
    assert b'"state":"running"' in first
    await world.store.change([Report(delivery, Progress(0.5, "half", NOW_MS))])
    second = await asyncio.wait_for(anext(stream), 5)
    assert b'"percentComplete":50.0' in second
    await world.settle(delivery, State.SUCCEEDED, Answer(200, b"42"))
    last = await asyncio.wait_for(anext(stream), 5)
    assert b'"status":"Succeeded"' in last
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    seen = last.partition(b"\n")[0].removeprefix(b"id: ").decode()
    again = await world.ask(accept="text/event-stream", last_event_id=seen)
    assert (again.status, again.stream) == (204, None)


async def test_cancelling(world: World) -> None:
    await world.put(running=False)
    done = await world.ask("DELETE")
    assert (done.status, body(done)["status"]) == (200, "Canceled")
    assert await refused(world, "DELETE") == 409
    result = await world.ask("GET", f"{PATH}/result")
    assert (result.status, body(result)["code"]) == (409, "cancelled")


async def test_cancelling_what_runs_is_a_request(world: World) -> None:
    await world.put()
    asked = await world.ask("DELETE")
    assert (asked.status, body(asked)["status"]) == (202, "Running")


async def test_unknown_old_and_foreign_ids(world: World) -> None:
    assert await refused(world) == 404
    assert await refused(world, "DELETE") == 404
    assert await refused(world, "GET", PATH, accept="text/event-stream") == 404
    assert await refused(world, "GET", f"{PATH}/nothing") == 404
    assert await refused(world, "GET", f"{PATH}/") == 404
    assert await refused(world, "GET", "/tickets/") == 404
    assert await refused(world, "GET", "/tickets/..%2Fx") == 404
    old = ids.text(ids.uuid7(NOW_MS - KEEP_KEYED_S * 1000 - 1, 1))
    assert await refused(world, "GET", f"/tickets/{old}") == 410
    derived = ids.text(ids.derived("no", "time"))
    assert await refused(world, "GET", f"/tickets/{derived}") == 404


async def test_a_reservation_of_a_keyed_call_is_no_ticket(world: World) -> None:
    await world.put(kind=Kind.CALL)
    assert await refused(world) == 404
    assert await refused(world, "DELETE") == 404


async def test_methods(world: World) -> None:
    await world.put()
    assert (await world.ask("HEAD")).status == 200
    for path, allowed in ((PATH, "GET, HEAD, DELETE"), (f"{PATH}/result", "GET, HEAD")):
        response = await world.ask("PUT", path)
        assert (response.status, header(response, "Allow")) == (405, allowed)


async def test_a_wait_that_cant_be_read(world: World) -> None:
    await world.put()
    with pytest.raises(Exception, match="wait takes") as error:
        await world.ask(prefer="wait=long")
    assert failure(error.value).status == 400  # type: ignore[arg-type]
