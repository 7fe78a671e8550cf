"""`call_or_send` waits for as long as it was told, whoever is silent at the other end; and who isn't says in time that
it goes on."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from two_stores import FORWARD, SOON_S, Billing, Receiver, a_client, looking_into, told

from ringpost import Client, Unavailable, UsageError, deadline
from ringpost.client.asking import Asking
from ringpost.core import deadline as core_deadline
from ringpost.store.port import Filter

PATIENCE_S = 4.0  # the twin waits for 5 s more than it was told


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[str, list[int]]]:
    """Listen, and never answer; gives the address and how long, in ms, each request said that it waits."""
    waits_ms: list[int] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        waits_ms.extend(int(found) for found in re.findall(rb"request-timeout: (\d+)ms", head))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"http://127.0.0.1:{port}", waits_ms


async def check_it_waits_no_longer() -> None:
    async with silence() as (url, waits_ms), Client(store=None, addresses={"billing": url}) as client:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Unavailable, match="no store: with one"):
                await client.call_or_send(Billing.charge, "a", wait=0.2)
        assert waits_ms
        assert max(waits_ms) <= 200
        async with asyncio.timeout(PATIENCE_S):
            with deadline(0.3), pytest.raises(Unavailable):
                await client.call_or_send(Billing.charge, "a", wait=30)
        assert max(waits_ms) <= 300


async def test_without_a_store_it_waits_no_longer() -> None:
    await check_it_waits_no_longer()


async def test_who_allows_for_the_way_beyond_the_wait_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    posted = Asking._posted

    async def patient(self: Asking, operation: object, call: object) -> object:
        call.deadline_s += 5.0  # type: ignore[attr-defined]
        return await posted(self, operation, call)  # type: ignore[arg-type]

    monkeypatch.setattr(Asking, "_posted", patient)
    with pytest.raises((TimeoutError, AssertionError)):
        await check_it_waits_no_longer()


async def test_with_a_store_it_is_kept_at_the_end_of_the_wait(tmp_path: Path) -> None:
    async with silence() as (url, waits_ms), a_client(tmp_path, url) as client:
        with deadline(0.3):
            ticket = told(await client.call_or_send(Billing.charge, "a", wait=30))
        assert ticket.level == "durable"
        assert max(waits_ms) <= 300
    async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
        assert len(await store.find(Filter(FORWARD))) == 1


async def kept_here(tmp_path: Path, receiver: Receiver) -> int:
    """Ask what takes longer than the wait; gives how many messages were kept here for want of an answer in time."""
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        ticket = told(await client.call_or_send(Billing.charge, "slow", wait=2))
        receiver.gate.set()
        assert await ticket.result(timeout=SOON_S) == "slow is charged"
    async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
        return len(await store.find(Filter(FORWARD)))


async def test_the_other_side_says_in_time_that_it_goes_on(tmp_path: Path, receiver: Receiver) -> None:
    assert await kept_here(tmp_path, receiver) == 0


async def test_one_that_uses_all_of_the_time_is_too_late(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_deadline, "_WAY_BACK_SHARE", -1.0)
    assert await kept_here(tmp_path, receiver) == 1


async def test_to_wait_for_nothing_is_to_send(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        with pytest.raises(UsageError, match=r"wait=0 waits for no reply: send it"):
            await client.call_or_send(Billing.charge, "a", wait=0)
