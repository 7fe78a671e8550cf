"""Empty stores on a real PostgreSQL for tests that want many, and a clock that they move by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
from msgspec import structs
from servers.postgres import RealPostgres

from ringpost.settings import Settings
from ringpost.store.postgres.store import PostgresStore

# The server's clock, and what a test has added to it.
_CLOCK = """
CREATE TABLE ringpost.passed (ms bigint);
INSERT INTO ringpost.passed VALUES (0);
CREATE OR REPLACE FUNCTION ringpost.now_ms() RETURNS bigint LANGUAGE sql STABLE AS
  'SELECT floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint + (SELECT ms FROM ringpost.passed)';
"""
# Emptying is quicker by far than making a database anew.
_EMPTY = """
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('ringpost', 'public') LOOP
    IF t.schemaname = 'public' THEN EXECUTE format('DROP TABLE public.%I', t.tablename);
    ELSIF t.tablename NOT IN ('meta', 'passed') THEN EXECUTE format('DELETE FROM ringpost.%I', t.tablename);
    END IF;
  END LOOP;
  UPDATE ringpost.passed SET ms = 0;
END $$
"""


BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"


async def until_it_waits(task: "asyncio.Future[Any]", looking: asyncpg.Connection, pid: int) -> None:
    """Wait until a task is done, or somebody waits for what a session of the server has locked. `looking` is in no
    transaction, where it would see the sessions of its first look."""
    async with asyncio.timeout(30):
        while not task.done() and not await looking.fetchval(BLOCKED, pid):
            await asyncio.wait([task], timeout=0.01)


class PostgresStores:
    """One database with the tables of a store. `url_of`: how stores reach it, where not as its tests do."""

    def __init__(self, server: RealPostgres, url_of: Callable[[str], str] | None = None) -> None:
        self._portal = server.portal
        self.database = server.new_database()
        self._url = server.url(self.database)
        self.url = self._url if url_of is None else url_of(self.database)
        self._portal.call(self._prepare())
        self._passed_ms = 0

    async def _prepare(self) -> None:
        store = PostgresStore(self._url, Settings(durability="buffered"))
        await store.open(create=True)
        await store.close()
        self._connection = await asyncpg.connect(self._url)
        await self._connection.execute(_CLOCK)

    def empty(self, settings: Settings) -> tuple[PostgresStore, Callable[[float], None]]:
        """Give an empty store that isn't open yet, and how to move its clock."""
        self._portal.call(self._connection.execute(_EMPTY))
        return PostgresStore(self.url, structs.replace(settings, durability="buffered")), self.advance

    def advance(self, seconds: float) -> None:
        moved = self._connection.execute("UPDATE ringpost.passed SET ms = ms + $1", round(seconds * 1000))
        self._portal.call(moved)

    def close(self) -> None:
        self._portal.call(asyncio.wait_for(self._connection.close(), 5))
