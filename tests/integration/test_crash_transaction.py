"""Kill -9 and SIGSTOP of workers whose handlers write: each message's rows are there once, none twice, none missing."""

import asyncio
import os
import random
import signal
import sys
from abc import ABC, abstractmethod
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import apsw
import pytest
from payer import Books
from servers.postgres import RealPostgres

from ringpost import Client
from ringpost.core.message import State
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Filter

CYCLES = 20
MESSAGES = 3000
LEASE_S = 1.0
GUARD_S = 60


class Ledger(ABC):
    """Where the store is, and the rows that handlers wrote beside it."""

    url: str

    @abstractmethod
    def entries(self) -> list[int]: ...


class InFile(Ledger):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "store.db"
        self.url = f"sqlite:///{self._path}"

    def entries(self) -> list[int]:
        db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return [row[0] for row in db.execute("SELECT number FROM entry ORDER BY number")]
        finally:
            db.close()


class OnServer(Ledger):
    def __init__(self, server: RealPostgres) -> None:
        self._server = server
        self._database = server.new_database()
        self.url = server.url(self._database)

    def entries(self) -> list[int]:
        rows = self._server.execute(self._database, "SELECT number FROM entry ORDER BY number")
        return [row[0] for row in rows]


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "sqlite":
        return InFile(tmp_path)
    return OnServer(request.getfixturevalue("postgres"))


async def started(ledger: Ledger, *arguments: object) -> Process:
    environ = {**os.environ, "RINGPOST_LEASE": str(LEASE_S)}
    command = [str(Path(__file__).with_name("payer.py")), ledger.url, str(LEASE_S), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, env=environ)
    await said(process, "ready")
    return process


async def said(process: Process, word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(GUARD_S):
        while (line := await process.stdout.readline()).decode().strip() != word:
            assert line, f"it ended before it said {word}"


async def ended(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def until_drained(ledger: Ledger, done: int) -> None:
    store = store_for(ledger.url, Settings())
    await store.open()
    try:
        async with asyncio.timeout(GUARD_S):
            while sum(depth.ends for depth in await store.depths()) < done:  # noqa: ASYNC110 (another process does it)
                await asyncio.sleep(0.05)
        assert not await store.find(Filter(states=(State.DEAD, State.FAILED)))
    finally:
        await store.close()


async def test_each_message_writes_once_whoever_is_killed_whenever(ledger: Ledger) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    process = await started(ledger)
    async with Client(store=ledger.url) as client:
        sending = asyncio.ensure_future(sent(client))
        for _ in range(CYCLES):
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            await ended(process)
            process = await started(ledger)
        try:
            await sending
            await until_drained(ledger, MESSAGES)
        finally:
            await ended(process)
    assert ledger.entries() == list(range(MESSAGES))


async def sent(client: Client) -> None:
    """Send all, spread over the time in which workers are killed."""
    for first in range(0, MESSAGES, 50):
        await client.send_all(Books.write, range(first, first + 50))
        await asyncio.sleep(0.1)


async def test_who_was_stopped_past_its_lease_commits_nothing(ledger: Ledger) -> None:
    stale = await started(ledger, 1.0)
    other: Process | None = None
    try:
        async with Client(store=ledger.url) as client:
            await client.send(Books.slow, 7)
            await said(stale, "began 7")
            stale.send_signal(signal.SIGSTOP)
            other = await started(ledger)
            await said(other, "wrote 7")
            await until_drained(ledger, 1)
            stale.send_signal(signal.SIGCONT)
            await client.send_all(Books.noted, range(20))
            await until_drained(ledger, 21)
            stale.terminate()
            await asyncio.wait_for(stale.wait(), GUARD_S)
        assert ledger.entries() == [7]
    finally:
        await ended(stale)
        if other is not None:
            await ended(other)
