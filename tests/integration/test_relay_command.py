"""`ringpost relay` by itself, killed and started again: what was committed with a session is in the store, once."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from business import Business
from servers.postgres import RealPostgres

from ringpost.core.message import Message, Settlement, State
from ringpost.relay.row import row_of
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Store

GUARD_S = 60
COUNT = 4_000
LIVES = 2  # that are cut short
QUEUE = "mail.welcome"


@pytest.fixture(params=["sqlite to sqlite", "postgresql to another postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Give the business database and the store."""
    if request.param.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/store.db"
    server: RealPostgres = request.getfixturevalue("fast_postgres")
    return server.url(server.new_database()), server.url(server.new_database())


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = store_for(url, Settings(durability="buffered"))
    await store.open(create=True)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def relay(business: str, store: str, folder: Path) -> AsyncIterator[Process]:
    """Run the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ringpost", "relay", "--outbox", business, "--store", store),
        cwd=folder,
        env={**os.environ, "RINGPOST_LEASE": "1", "RINGPOST_DURABILITY": "buffered"},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def fewer(business: Business, than: int) -> int:
    """Wait until fewer rows are in the table; gives how many."""
    async with asyncio.timeout(GUARD_S):
        while (left := await business.count("ringpost_outbox")) >= than:  # noqa: ASYNC110 (a process does it)
            await asyncio.sleep(0.005)
    return left


async def bodies(store: Store) -> list[str]:
    """Take all that is in the store, in its order."""
    found: list[str] = []
    while claimed := (await store.claim({QUEUE: 500}, 1, 30)).deliveries:
        found += [one.body.decode() for one in claimed]
        await store.settle([Settlement(one, State.SUCCEEDED) for one in claimed])
    return found


async def test_all_is_relayed_once_and_in_order_however_often_it_is_killed(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    business, store = await Business(urls[0]).prepare(), urls[1]
    messages = [Message(number.to_bytes(16, "big"), QUEUE, b"%d" % number) for number in range(COUNT)]
    await business.write([row_of(one, wall_ms()) for one in messages])
    async with opened(store) as kept:
        left = COUNT
        for _ in range(LIVES):
            async with relay(*urls, tmp_path) as process:
                left = await fewer(business, left or 1)
                process.kill()
        async with relay(*urls, tmp_path) as process:
            await fewer(business, 1)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), GUARD_S) == 0
        assert await bodies(kept) == [str(number) for number in range(COUNT)]
