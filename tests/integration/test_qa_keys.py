"""Keys made of what users type: any text makes one, and what makes none is the sender's fault, never a 5xx."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ringpost import Client, Contract, Event, Operation, Service, serve
from ringpost.contract.errors import InvalidRequest

PATIENCE_S = 10.0
ODD = 'Jürg\r\n"\\🐙\0'


class Keyed(Contract):
    once = Operation(str, int, idempotency_key=lambda name: name)
    in_line = Operation(str, int, ordering_key=lambda name: name)
    raising = Operation(dict[str, str], int, ordering_key=lambda given: given["name"])
    heard = Event(str)


def service(runs: list[Any]) -> Service:
    keyed = Service(Keyed, name="keyed")

    @keyed.implements(Keyed.once)
    @keyed.implements(Keyed.in_line)
    async def take(name: str) -> int:
        runs.append(name)
        return len(runs)

    @keyed.implements(Keyed.raising)
    async def take_all(given: dict[str, str]) -> int:
        return 0

    @keyed.on(Keyed.heard)
    async def hear(name: str) -> None:
        runs.append(name)

    return keyed


@pytest.fixture
def runs() -> list[Any]:
    return []


@pytest.fixture
async def client(tmp_path: Path, runs: list[Any]) -> AsyncIterator[Client]:
    """A client over HTTP, with the same store."""
    store = f"sqlite:///{tmp_path}/x.db"
    async with serve(service(runs), store=store, http="127.0.0.1:0"), Client(store=store) as client:
        yield client


@pytest.fixture
async def web(tmp_path: Path, runs: list[Any]) -> AsyncIterator[httpx.AsyncClient]:
    from ringpost.http.asgi import asgi

    app = asgi(service(runs), store=f"sqlite:///{tmp_path}/web.db")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop") as web:
        yield web
    await app.close()


async def test_a_declared_key_may_be_any_text_and_calls_repeat_as_sends_do(client: Client, runs: list[Any]) -> None:
    assert await client.call(Keyed.once, ODD, timeout=PATIENCE_S) == 1
    assert await client.call(Keyed.once, ODD, timeout=PATIENCE_S) == 1
    again = await client.send(Keyed.once, ODD)
    assert again.duplicate
    assert runs == [ODD]


async def test_an_ordering_key_may_be_in_any_script(client: Client, runs: list[Any]) -> None:
    ticket = await client.send(Keyed.in_line, "a", ordering_key="Jürg 🐙")
    assert await ticket.result(PATIENCE_S) == 1
    assert await client.call(Keyed.in_line, ODD, timeout=PATIENCE_S) == 2


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_a_request_that_makes_no_key_is_refused(client: Client, name: str) -> None:
    for operation in (Keyed.once, Keyed.in_line):
        with pytest.raises(InvalidRequest, match="_key of keyed"):
            await client.send(operation, name)
    with pytest.raises(InvalidRequest):
        await client.call(Keyed.once, name)


@pytest.mark.parametrize("body", ['""', f'"{"x" * 256}"'])
@pytest.mark.parametrize("prefer", ["respond-async", "handling=strict"])
async def test_and_over_http_with_a_400(web: httpx.AsyncClient, body: str, prefer: str) -> None:
    answer = await web.post("/keyed/once", content=body, headers={"Prefer": prefer})
    assert answer.status_code == 400, answer.text
    later = await web.post("/keyed/in_line", content=body, headers={"Prefer": "respond-async"})
    assert later.status_code == 400, later.text


async def test_a_partition_key_of_an_event_may_be_any_text(web: httpx.AsyncClient) -> None:
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/me", "ce-type": "keyed.heard"}
    taken = await web.post("/events", content='"x"', headers={**event, "ce-partitionkey": "J%C3%BCrg%F0%9F%90%99"})
    assert taken.status_code == 202, taken.text
    long = await web.post("/events", content='"x"', headers={**event, "ce-id": "2", "ce-partitionkey": "x" * 256})
    assert long.status_code == 400
    assert "ce-partitionkey" in long.text


async def test_a_key_function_that_raises_is_told_to_the_log(
    web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await web.post("/keyed/raising", content="{}", headers={"Prefer": "respond-async"})
    assert answer.status_code == 500
    assert answer.json()["code"] == "handler_error"
    assert "KeyError" in caplog.text
