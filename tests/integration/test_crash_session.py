"""Kill -9 before, in and after the commit of a handler's AsyncSession: the handling takes effect once."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from servers.postgres import RealPostgres
from servers.programs import free_port
from session_payer import Ledger

from ringpost import Client
from ringpost.settings import Settings
from ringpost.store.postgres.store import PostgresStore

GUARD_S = 60
POINTS = ("handler", "settled", "committed")


@pytest.fixture
async def url(fast_postgres: RealPostgres, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RINGPOST_DURABILITY", "buffered")
    url = fast_postgres.url(fast_postgres.new_database())
    store = PostgresStore(url, Settings(durability="buffered"))
    await store.open(create=True)
    await store.close()
    await sql(url, "CREATE TABLE entry (number int)")
    return url


async def sql(url: str, statement: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(statement)]
    finally:
        await connection.close()


@asynccontextmanager
async def payer(url: str, port: int, point: str = "") -> AsyncIterator[Process]:
    environ = {**os.environ, "RINGPOST_LEASE": "1"}
    command = [str(Path(__file__).with_name("session_payer.py")), url, str(port), *([point] if point else [])]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, env=environ)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(GUARD_S):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def died(process: Process) -> None:
    assert await asyncio.wait_for(process.wait(), GUARD_S) == -signal.SIGKILL


async def sent(url: str, *points: str) -> list[int]:
    """Send while workers die one after the other, each at its point; give what is written once all is done."""
    port = free_port()
    async with Client(store=url) as client:
        ticket = await client.send(Ledger.write, 7)
        for point in points:
            async with payer(url, port, point) as process:
                await died(process)
        async with payer(url, port):
            assert await ticket.result(GUARD_S) == 7
            assert await (await client.send(Ledger.write, 8)).result(GUARD_S) == 8
    return await sql(url, "SELECT number FROM entry ORDER BY number")


async def test_a_message_takes_effect_once_wherever_its_workers_die(url: str) -> None:
    assert await sent(url, *POINTS) == [7, 8]


async def test_one_that_settles_in_a_second_commit_is_found(url: str) -> None:
    assert await sent(url, "between") == [7, 7, 8]


async def test_a_call_under_a_key_takes_effect_once_wherever_its_service_dies(url: str) -> None:
    port = free_port()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"Idempotency-Key": "k"}) as caller:
        for point in POINTS:
            async with payer(url, port, point) as process:
                with pytest.raises(httpx.TransportError):
                    await answered(caller)
                await died(process)
        async with payer(url, port):
            for _ in range(2):
                assert await answered(caller) == 7
    assert await sql(url, "SELECT number FROM entry") == [7]


async def answered(caller: httpx.AsyncClient) -> int:
    """Ask until the lease of a process that died over the same key has ended. Raises what breaks the connection."""
    async with asyncio.timeout(GUARD_S):
        while (answer := await caller.post("/ledger/write", json=7, timeout=GUARD_S)).status_code == 409:  # noqa: ASYNC110 (a lease ends)
            await asyncio.sleep(0.1)
    assert answer.status_code == 200, answer.text
    return int(answer.json())
