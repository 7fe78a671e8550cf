"""`serve`: services in a loop that is there already, with a client in their middle."""

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from ringpost import Client, Contract, Operation, Service, serve
from ringpost.contract.errors import StoreError
from ringpost.core.notes import INSTANCE
from ringpost.http.ports import bind
from ringpost.http.server import Server
from ringpost.http.site import Site
from ringpost.settings import Settings

PATIENCE_S = 10.0


class Served(Contract):
    double = Operation(int, int)
    nap = Operation(float, int, timeout=30)
    note = Operation(int)


def service(noted: list[int] | None = None, began: asyncio.Event | None = None) -> Service:
    served = Service(Served)

    @served.implements(Served.double)
    async def double(number: int) -> int:
        return 2 * number

    @served.implements(Served.nap)
    async def nap(length_s: float) -> int:
        if began is not None:
            began.set()
        await asyncio.sleep(length_s)
        return 1

    @served.implements(Served.note)
    async def note(number: int) -> None:
        if noted is not None:
            noted.append(number)

    return served


async def test_a_client_in_the_middle_calls_and_sends(tmp_path: Path) -> None:
    noted: list[int] = []
    async with serve(service(noted), store=f"sqlite:///{tmp_path}/x.db", http=None) as client:
        assert await client.call(Served.double, 21) == 42
        ticket = await client.send(Served.note, 7)
        await ticket.result(PATIENCE_S)
    assert noted == [7]


async def test_others_reach_it_over_http_by_the_store_or_by_address(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/x.db"
    async with serve(service(), store=store, http="127.0.0.1:0"), Client(store=store) as neighbour:
        assert await neighbour.call(Served.double, 21, timeout=PATIENCE_S) == 42


async def test_a_default_port_that_is_taken_is_left_to_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with serve(service(), store="memory:"), serve(service(), store="memory:"):
        said = capsys.readouterr().err
    assert "is taken, the door is at http://127.0.0.1:" in said


async def test_at_the_end_what_runs_is_finished(tmp_path: Path) -> None:
    began = asyncio.Event()
    async with serve(service(began=began), store="memory:", http="127.0.0.1:0") as client:
        calling = asyncio.create_task(client.call(Served.nap, 0.2))
        await began.wait()
    assert await calling == 1


async def test_a_store_that_cant_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        async with serve(service(), store=f"sqlite:///{tmp_path}/no/folder/x.db", http="127.0.0.1:0"):
            pytest.fail("it must not open")


async def test_who_is_answered_by_the_door_finds_it_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    listen = Server.listen

    async def looking(server: Server, listener: socket.socket) -> None:
        assert site.store is not None
        noted.append(len(await site.store.notes(INSTANCE)))
        await listen(server, listener)

    monkeypatch.setattr(Server, "listen", looking)
    bound = bind(Settings(http="127.0.0.1:0", http_given=True))
    assert bound is not None
    site = Site([service()], Settings(store="memory:"))
    await site.open(bound, work=True)
    await site.close(0.0)
    bound.close()
    assert noted == [1]


async def test_from_the_signal_on_no_message_is_claimed(tmp_path: Path) -> None:
    noted: list[int] = []
    settings = Settings(store=f"sqlite:///{tmp_path}/x.db", http=None)
    site = Site([service(noted)], settings)
    await site.open(None, work=True)
    try:
        async with site.client() as client:
            await (await client.send(Served.note, 1)).result(PATIENCE_S)
            site.retire()
            ticket = await client.send(Served.note, 2)
            await asyncio.sleep(0.3)  # nothing tells that nothing happens
            assert (await ticket.status()).state == "accepted"
            assert await client.call(Served.double, 1) == 2
    finally:
        await site.close(1.0)
    assert noted == [1]


async def test_stopping_that_fails_in_part_still_closes_the_store(caplog: pytest.LogCaptureFixture) -> None:
    site = Site([service()], Settings(store="memory:", http=None))
    await site.open(None, work=True)
    closed: list[bool] = []
    store: Any = site.store
    close = store.close

    async def closing() -> None:
        closed.append(True)
        await close()

    async def failing(grace_s: float = 0.0) -> None:
        await stop(0.0)
        raise RuntimeError("half done")

    stop = site.host.stop
    store.close = closing
    site.host.stop = failing  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        await site.close(0.0)
    assert closed == [True]
    assert "stopping failed in part" in caplog.text


async def test_while_stopping_new_calls_are_refused_and_may_be_repeated(tmp_path: Path) -> None:
    began = asyncio.Event()

    bound = bind(Settings(http="127.0.0.1:0", http_given=True))
    assert bound is not None
    site = Site([service(began=began)], Settings(store="memory:"))
    await site.open(bound, work=True)
    async with httpx.AsyncClient(base_url=bound.url) as http:
        napping = asyncio.create_task(http.post("/served/nap", content="0.3"))
        await began.wait()
        closing = asyncio.create_task(site.close(PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(httpx.TransportError):
            await http.post("/served/double", content="1")
        assert (await napping).json() == 1
        await closing
    bound.close()
