"""A business database of a test's own, on SQLite or PostgreSQL, with an outbox table in it."""

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any

import asyncpg

from ringpost.relay import table
from ringpost.relay.port import Table, table_for
from ringpost.relay.row import Row


def path_of(url: str) -> str:
    return url.removeprefix("sqlite:///")


class Business:
    """One database. `url` as the settings have it."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def execute(self, sql: str) -> list[Any]:
        if self.url.startswith("sqlite"):
            with contextlib.closing(sqlite3.connect(path_of(self.url))) as connection, connection:
                return connection.execute(sql).fetchall()
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def write(self, rows: Sequence[Row]) -> None:
        """Write rows of the outbox table, and commit."""
        if self.url.startswith("sqlite"):
            with contextlib.closing(sqlite3.connect(path_of(self.url))) as connection, connection:
                for sql, values in table.inserts("sqlite", rows):
                    connection.execute(sql, values)
            return
        connection = await asyncpg.connect(self.url)
        try:
            for sql, values in table.inserts("postgresql", rows):
                await connection.execute(sql, *values)
        finally:
            await connection.close()

    async def prepare(self) -> "Business":
        await self.execute("CREATE TABLE IF NOT EXISTS orders (no int)")
        made = self.table()
        await made.make()
        await made.close()
        return self

    def table(self, store: str | None = None) -> Table:
        return table_for(self.url, store)

    async def count(self, table: str) -> int:
        return int((await self.execute(f"SELECT count(*) FROM {table}"))[0][0])
