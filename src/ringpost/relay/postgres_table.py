"""An outbox table in a PostgreSQL database that isn't the store's."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg

from ringpost.contract.errors import UsageError
from ringpost.relay import table
from ringpost.relay.port import BYTES_MAX, FORMS, ROWS_MAX, TROUBLE_MAX, Aside, TableAway, Waiting
from ringpost.relay.row import Row
from ringpost.relay.table import COLUMNS, WAITING
from ringpost.store import users_sql
from ringpost.store.postgres.db import Driver, is_lost, open_driver

CONNECT_S = 5.0
STATEMENT_S = 20.0
_NEXT = (
    f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, sum(length(body)) OVER (ORDER BY seq) - length(body) AS before"
    f" FROM (SELECT {COLUMNS} FROM ringpost_outbox WHERE seq > $1 AND trouble IS NULL AND target <> ALL ($2::text[])"
    " ORDER BY seq LIMIT $3) AS next) AS measured WHERE before < $4 ORDER BY seq"
)
_ROWS = "(SELECT * FROM unnest({}::bigint[], {}::text[]))"
_DELETE = f"DELETE FROM ringpost_outbox WHERE (seq, id) IN {_ROWS.format('$1', '$2')}"
_OFFER = (
    f"UPDATE ringpost_outbox SET offered_ms = $3 WHERE offered_ms IS NULL AND (seq, id) IN {_ROWS.format('$1', '$2')}"
)
_SET_ASIDE = "UPDATE ringpost_outbox SET trouble = $3 WHERE seq = $1 AND id = $2"
_ASIDE = "SELECT seq, id, target, sent_ms, trouble FROM ringpost_outbox WHERE trouble IS NOT NULL ORDER BY seq LIMIT $1"

# What a session may have left unsynced is on the disk after the next commit that waits for it.
_BEGIN = (
    "BEGIN; SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
Found = TypeVar("Found")


class PostgresTable:
    """Read the outbox table of a database, by one connection."""

    def __init__(self, url: str, store_url: str | None) -> None:
        parts = urlsplit(url)
        if not url.startswith("postgresql://") or not parts.path.strip("/"):
            raise UsageError(f"the URL of the outbox names no database. Write {FORMS}.")
        self._url = url
        user = f"{unquote(parts.username)}@" if parts.username else ""
        host = parts.hostname or ""
        self.shown = f"postgresql://{user}{host}{parts.path}"
        self._driver: Driver | None = None

    async def turn(self, done: Sequence[Row], after: int, without: Collection[str], now_ms: int) -> list[Row]:
        async def work(driver: Driver) -> list[Row]:
            if not done and not await _next(driver, after, without):
                return []
            async with _transaction(driver):
                await driver.fetch(_DELETE, *_keys(done))
                rows = await _next(driver, after, without)
                await driver.fetch(_OFFER, *_keys(rows), now_ms)
            return rows

        return await self._run(work)

    async def set_aside(self, rows: Sequence[tuple[Row, str]]) -> None:
        async def work(driver: Driver) -> None:
            async with _transaction(driver):
                for row, why in rows:
                    await driver.fetch(_SET_ASIDE, row.seq, row.id, why[:TROUBLE_MAX])

        await self._run(work)

    async def waiting(self) -> Waiting:
        async def work(driver: Driver) -> Waiting:
            return Waiting(*(await driver.fetch(WAITING))[0])

        return await self._run(work)

    async def aside(self, limit: int) -> list[Aside]:
        async def work(driver: Driver) -> list[Aside]:
            return [Aside(*row) for row in await driver.fetch(_ASIDE, limit)]

        return await self._run(work)

    async def make(self) -> None:
        async def work(driver: Driver) -> None:
            # Sent as one, so it is one transaction.
            await driver.execute(f"{users_sql.ALONE}; {table.ddl('postgresql')}")

        await self._run(work)

    async def close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                await driver.close(timeout=1.0)
            except Exception as error:
                if not is_lost(error):
                    raise
                driver.terminate()

    async def _run(self, work: Callable[[Driver], Awaitable[Found]]) -> Found:
        try:
            if self._driver is None or self._driver.is_closed():
                self._driver = await open_driver(self._url, connect_s=CONNECT_S, statement_s=STATEMENT_S, cached=0)
            return await work(self._driver)
        except asyncio.CancelledError:
            self._drop()  # the answer may still come
            raise
        except asyncpg.UndefinedTableError as error:
            raise TableAway(f"{error}: {table.HOW_TO_MAKE}") from error
        except ValueError as error:  # its text may repeat the URL
            raise TableAway("its URL can't be read") from error
        except Exception as error:
            if not is_lost(error) and not isinstance(error, asyncpg.PostgresError):
                raise
            self._drop()
            raise TableAway(str(error) or type(error).__name__) from error

    def _drop(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.terminate()


async def _next(driver: Driver, after: int, without: Collection[str]) -> list[Row]:
    found = await driver.fetch(_NEXT, after, list(without), ROWS_MAX, BYTES_MAX)
    return [Row(*row) for row in found]


def _keys(rows: Sequence[Row]) -> tuple[list[int], list[str]]:
    return [row.seq for row in rows], [row.id for row in rows]


@asynccontextmanager
async def _transaction(driver: Driver) -> AsyncGenerator[None]:
    await driver.execute(_BEGIN)
    try:
        yield
        await driver.execute("COMMIT")
    except BaseException:
        if not driver.is_closed():
            await driver.execute("ROLLBACK")
        raise
