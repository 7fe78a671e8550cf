"""What a relay needs of an outbox table, and the tables that there are."""

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Protocol, cast

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.relay.row import Row


class TableAway(Exception):
    """The table can't be reached now, or not be changed: try again later. Its text says why, without passwords."""


class Waiting(Struct, frozen=True):
    """What stands in a table. `oldest_ms`: when the oldest of those that wait was sent. `aside`: rows in trouble."""

    count: int
    oldest_ms: int | None
    aside: int


class Aside(Struct, frozen=True):
    """A row that is in trouble, and why."""

    seq: int
    id: str
    target: str
    sent_ms: int
    trouble: str


class Table(Protocol):
    """One outbox table, read from one event loop, one call at a time. It connects at first use, and anew after trouble.

    Everything raises TableAway; repeating it is safe. Several may read one table at once.
    """

    shown: str  # the URL without its password

    async def turn(self, done: Sequence[Row], after: int, without: Collection[str], now_ms: int) -> list[Row]:
        """Delete what is done, and give what comes next behind `after`, by its `seq`: at most ROWS_MAX rows or about
        BYTES_MAX of bodies, none for the targets in `without`, none that is aside.

        What it gives is marked as offered first, in the same commit as the deletion, which is durable: with it so is
        the commit that a row came with, whatever its program has set. A store must not know of what a power cut could
        still take back.
        """
        ...

    async def set_aside(self, rows: Sequence[tuple[Row, str]]) -> None:
        """Mark rows as in trouble, each with its reason; nobody relays them any more."""
        ...

    async def waiting(self) -> Waiting:
        """Count what is there."""
        ...

    async def aside(self, limit: int) -> list[Aside]:
        """Give rows that are in trouble, the oldest first."""
        ...

    async def make(self) -> None:
        """Make the table, if it isn't there."""
        ...

    async def close(self) -> None:
        """Disconnect. Repeating it is harmless."""
        ...


class _MakesTable(Protocol):
    def __call__(self, url: str, store_url: str | None, /) -> Table: ...


ROWS_MAX = 500
BYTES_MAX = 8 << 20
TROUBLE_MAX = 500  # characters
_TABLES = {
    "sqlite": "ringpost.relay.sqlite_table:SqliteTable",
    "postgresql": "ringpost.relay.postgres_table:PostgresTable",
}
FORMS = "'sqlite:///shop.db' for a file, 'postgresql://user@host/database'"


def table_for(url: str, store_url: str | None) -> Table:
    """Give the outbox table of the database that a URL names. Raises UsageError for a URL that names none, and for the
    store's own file."""
    scheme, _, rest = url.partition(":")
    dialect = scheme.partition("+")[0]  # as SQLAlchemy writes it: postgresql+asyncpg
    if dialect not in _TABLES:
        raise UsageError(f"the scheme {scheme[:30]!r} names no database with an outbox table. Write {FORMS}.")
    module, _, name = _TABLES[dialect].partition(":")
    make = cast(_MakesTable, getattr(import_module(module), name))  # drivers are loaded by who has a use for them
    return make(f"{dialect}:{rest}", store_url)
