"""The PostgreSQL server ends and comes back under load: everything goes on by itself, nothing is lost or doubled."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_town import Town, wait_until_ready
from servers.postgres import RealPostgres
from written_rows import a_load

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message, Settlement, State
from ringpost.store.port import Note
from ringpost.store.postgres.store import PostgresStore
from ringpost.testing.conformance.suite import LEASE_S, QUEUE, message

RESUMED_S = 10.0


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[RealPostgres]:
    """A server that a test may end."""
    server = RealPostgres(fsync=True)
    server.start()
    yield server
    server.stop()


class Load:
    """Somebody who sends and somebody who works, for as long as it takes, each repeating what raised."""

    def __init__(self, sender: PostgresStore, worker: PostgresStore) -> None:
        self._sender = sender
        self._worker = worker
        self.receipted: list[Message] = []
        self.handled: Counter[bytes] = Counter()
        self.settled: set[bytes] = set()
        self.over = False
        self.moved = asyncio.Event()

    async def send(self) -> None:
        while not self.over:
            one = message()
            while not await self._put(one):
                pass
            self.receipted.append(one)
            self.moved.set()

    async def _put(self, one: Message) -> bool:
        try:
            return not (await self._sender.put([one]))[0].refused
        except StoreError:
            return False

    async def work(self) -> None:
        settlements: list[Settlement] = []
        holder = 1
        while not self.over or len(self.settled) < len(self.receipted):
            try:
                claimed = await self._worker.claim({QUEUE: 50}, holder, LEASE_S, settlements)
            except StoreError:
                holder += 1  # as a worker does: what it may hold unknowingly isn't renewed
                continue
            self.settled |= {one.delivery.id for one in settlements}  # how they ended is read at the end
            settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]
            self.handled.update(one.id for one in claimed.deliveries)

    async def goes_on(self) -> None:
        """Wait until something more was acknowledged."""
        self.moved.clear()
        await self.moved.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
async def test_it_goes_on_after_a_restart(how: signal.Signals, own_postgres: RealPostgres) -> None:
    server = own_postgres
    url = server.url(server.new_database())
    sender, worker = PostgresStore(url), PostgresStore(url)
    await sender.open(create=True)
    await worker.open()
    load = Load(sender, worker)
    tasks = [asyncio.create_task(load.send()), asyncio.create_task(load.work())]
    try:
        await load.goes_on()
        await load.goes_on()
        if how is signal.SIGTERM:  # a smart shutdown waits for every session: those that are idle are cut here
            server.execute("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                           " WHERE datname <> 'postgres'")  # fmt: skip
        else:
            await asyncio.to_thread(server.end, how)
            await asyncio.to_thread(server.relaunch)
        back_s = time.monotonic()
        async with asyncio.timeout(RESUMED_S):
            await load.goes_on()
            await load.goes_on()
        assert await worker.note_put(Note("here", b"1"))
        assert worker.renew(1, LEASE_S).held >= 0, "the connection that renews comes back too"
        assert time.monotonic() - back_s < RESUMED_S
        load.over = True
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        records = await sender.read([one.id for one in load.receipted])
        await sender.close()
        await worker.close()
    states = Counter(record and record.state for record in records)
    assert states == {State.SUCCEEDED: len(load.receipted)}, "what was acknowledged is there, and has ended"
    assert set(load.handled.values()) == {1}, "and was claimed once: what a lost answer claimed was given back unseen"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
async def test_what_handlers_write_is_there_once_after_a_restart(
    how: signal.Signals, own_postgres: RealPostgres
) -> None:
    async with a_load(own_postgres, own_postgres.url, 2.0) as load:
        await asyncio.to_thread(own_postgres.end, how)
        await asyncio.to_thread(own_postgres.relaunch)
        print(f"went on within {await load.goes_on(RESUMED_S):.1f} s")
        counted = await load.ended()
    assert counted.faults == []


async def test_a_replica_is_refused(own_postgres: RealPostgres) -> None:
    url = own_postgres.url(own_postgres.new_database())
    store = PostgresStore(url)
    await store.open(create=True)
    await store.close()
    standby = own_postgres.folder / "data" / "standby.signal"
    own_postgres.end(signal.SIGINT)
    standby.touch()
    own_postgres.relaunch()
    with pytest.raises(StoreError, match=r"is a replica .* name the primary"):
        await PostgresStore(url).open()
    own_postgres.end(signal.SIGINT)
    standby.unlink()
    own_postgres.relaunch()
    store = PostgresStore(url)
    await store.open()
    await store.close()


def test_a_worker_that_dies_while_the_server_is_away_comes_back_with_it(
    own_postgres: RealPostgres, tmp_path: Path
) -> None:
    url = own_postgres.url(own_postgres.new_database())
    arguments = ("services:jobs", "--http", "127.0.0.1:0", "--workers", "2")
    town = Town(tmp_path / "town", *arguments, toml=f'store = "{url}"\n')
    try:
        wait_until_ready(town)
        workers = Path(f"/proc/{town.process.pid}/task/{town.process.pid}/children").read_text().split()
        own_postgres.end(signal.SIGINT)
        os.kill(int(workers[0]), signal.SIGKILL)
        town.until("ended with code 4; another starts in")
        own_postgres.relaunch()
        sent = town.ran("send", "jobs.once", '"back"', "--watch")
        assert sent.stdout == '"BACK"\n', sent.stderr
    finally:
        assert town.stop() == 0, town.heard
