"""A service whose handlers write rows, senders who try again under the same key, and what is there in the end.

The store is reached through whatever breaks; the rows are counted past it. One sender has no keys, and sends
each number once. A handler writes its row by `execute` or by
`defer`, and sends a message whose handler writes one more: each number is there once in both tables, or the store has
lost or doubled something.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
from msgspec import Struct
from servers.postgres import RealPostgres

from ringpost import Client, Context, Contract, Operation, RingpostError, Service, Transaction
from ringpost.core.message import State
from ringpost.http.site import Site
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Filter

RESUMED_S = 10.0
GUARD_S = 45.0
_LOOK_S = 0.05
_PACE_S = 0.01
_SENDERS = 3
_TABLES = ("CREATE TABLE entry (number int, how text)", "CREATE TABLE noted (number int)")
_LEFT = (State.DEAD, State.FAILED, State.EXPIRED, State.CANCELLED)


class Books(Contract):
    write = Operation(int)
    note = Operation(int)


books = Service(Books)


@books.implements(Books.write)
async def write(number: int, ctx: Context, tx: Transaction) -> None:
    await ctx.send(Books.note, number)
    if number % 2:
        tx.defer("INSERT INTO entry VALUES (:number, 'defer')", {"number": number})
    else:
        await tx.execute("INSERT INTO entry VALUES (:number, 'execute')", {"number": number})


@books.implements(Books.note)
async def note(number: int, tx: Transaction) -> None:
    tx.defer("INSERT INTO noted VALUES (:number)", {"number": number})


class Counted(Struct):
    """What is there in the end: how many have a receipt, and the numbers of which it isn't right."""

    sent: int
    lost: list[int]
    doubled: list[int]
    ended_badly: int

    @property
    def faults(self) -> list[str]:
        found = [f"{name}: {numbers}" for name in ("lost", "doubled") if (numbers := getattr(self, name))]
        return found + ([f"{self.ended_badly} didn't end well"] if self.ended_badly else [])


class Load:
    """Senders and a worker in this process, which go on until they are told to end."""

    def __init__(self, server: RealPostgres, database: str, client: Client, other: Client) -> None:
        self._server = server
        self._database = database
        self._next = 0
        self._over = False
        self.receipted: set[int] = set()
        sending = [self._send(client, self._sent_under_key) for _ in range(_SENDERS)]
        self._senders = [asyncio.ensure_future(one) for one in (*sending, self._send(other, self._sent_once))]

    async def _send(self, client: Client, send: Callable[[Client, int], Awaitable[bool]]) -> None:
        while not self._over:
            self._next += 1
            number = self._next
            if await send(client, number):
                self.receipted.add(number)
            await asyncio.sleep(_PACE_S)

    async def _sent_under_key(self, client: Client, number: int) -> bool:
        """Send it until there is a receipt."""
        while True:
            try:
                await client.send(Books.write, number, idempotency_key=f"{number}")
            except RingpostError:
                await asyncio.sleep(_PACE_S)
            else:
                return True

    async def _sent_once(self, client: Client, number: int) -> bool:
        try:
            await client.send(Books.write, number)
        except RingpostError:
            return False  # nobody knows whether it is there
        return True

    # --- looking past what breaks

    async def rows(self, table: str) -> list[tuple[int, int]]:
        """Give the numbers of a table, each with how often it is there."""
        sql = f"SELECT number, count(*) FROM {table} GROUP BY number"
        found = await asyncio.to_thread(self._server.execute, self._database, sql)
        return [(row[0], row[1]) for row in found]

    async def goes_on(self, within_s: float = RESUMED_S) -> float:
        """Wait until both who send and who work have got on since now; says how long it took."""
        since_s = time.monotonic()
        receipts, rows = len(self.receipted) + 2 * _SENDERS, -1
        try:
            async with asyncio.timeout(within_s):
                while rows < 0:
                    rows = await self._noted()
                while len(self.receipted) <= receipts or await self._noted() <= rows + _SENDERS:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise AssertionError(
                f"within {within_s:g} s: {len(self.receipted) - receipts + 2 * _SENDERS} receipts, rows: {rows}, then"
                f" {await self._noted()}"
            ) from None
        return time.monotonic() - since_s

    async def _noted(self) -> int:
        """Count what has gone all the way; -1 while the server is away."""
        try:
            found = await asyncio.to_thread(self._server.execute, self._database, "SELECT count(*) FROM noted")
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(_LOOK_S)
            return -1
        return int(found[0][0])

    async def ended(self) -> Counted:
        """Send no more, wait until all is done, and count."""
        self._over = True
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*self._senders)
            while await self._live():  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(_LOOK_S)
        return await self._counted()

    async def _live(self) -> int:
        sql = "SELECT count(*) FROM ringpost.message WHERE state < 10"
        found = await asyncio.to_thread(self._server.execute, self._database, sql)
        return int(found[0][0])

    async def _counted(self) -> Counted:
        entries, noted = await self.rows("entry"), await self.rows("noted")
        missing = self.receipted - ({number for number, _ in entries} & {number for number, _ in noted})
        doubled = {number for number, often in entries + noted if often != 1}
        store = store_for(self._server.url(self._database), Settings())
        await store.open()
        bad = await store.find(Filter(states=_LEFT))
        await store.close()
        return Counted(len(self.receipted), sorted(missing), sorted(doubled), len(bad))

    def stop(self) -> None:
        for sender in self._senders:
            sender.cancel()


@asynccontextmanager
async def a_load(server: RealPostgres, url_of: Callable[[str], str], lease_s: float) -> AsyncIterator[Load]:
    """Run a load on a new database. `url_of`: the store's URL for a database, as service and senders have it."""
    database = server.new_database()
    for table in _TABLES:
        await asyncio.to_thread(server.execute, database, table)
    settings = Settings(store=url_of(database), http=None, lease_s=lease_s)
    site = Site([books], settings)
    await site.open(None, work=True)
    client, other = Client(store=url_of(database)), Client(store=url_of(database))
    load = Load(server, database, client, other)
    try:
        await load.goes_on()
        yield load
    finally:
        load.stop()
        await client.close()
        await other.close()
        await site.close(1.0)
