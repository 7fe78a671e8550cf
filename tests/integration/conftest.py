"""What several of these tests begin with."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from business import Business
from postgres_stores import PostgresStores
from servers.postgres import RealPostgres
from session_bank import HEARD, KEPT, alchemy, sql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from two_stores import Receiver

from ringpost.core import call_retry
from ringpost.settings import Settings


@pytest.fixture(scope="module")
def stores(fast_postgres: RealPostgres) -> Iterator[PostgresStores]:
    """A database with the tables of a store."""
    made = PostgresStores(fast_postgres)
    yield made
    made.close()


@pytest.fixture
async def on_file(tmp_path: Path) -> Business:
    """A business database in a SQLite file."""
    return await Business(f"sqlite:///{tmp_path}/shop.db").prepare()


@pytest.fixture(params=["sqlite", "postgresql"])
async def business(request: pytest.FixtureRequest, tmp_path: Path) -> Business:
    """A business database of each kind."""
    if request.param == "sqlite":
        return await Business(f"sqlite:///{tmp_path}/shop.db").prepare()
    server: RealPostgres = request.getfixturevalue("fast_postgres")
    return await Business(server.url(server.new_database())).prepare()


@pytest.fixture
async def bank_url(stores: PostgresStores, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bank, of which nothing has been heard."""
    stores.empty(Settings(durability="buffered"))
    monkeypatch.setenv("RINGPOST_DURABILITY", "buffered")
    HEARD.clear()
    KEPT.clear()
    await sql(stores.url, "CREATE TABLE payment (name text PRIMARY KEY)")
    return stores.url


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request: pytest.FixtureRequest, bank_url: str) -> AsyncIterator[AsyncEngine]:
    """On the bank's database, by each driver."""
    made = create_async_engine(alchemy(bank_url, request.param))
    yield made
    await made.dispose()


@pytest.fixture
async def lone_engine(bank_url: str) -> AsyncIterator[AsyncEngine]:
    """On the bank's database by one driver, where it says nothing of drivers."""
    made = create_async_engine(alchemy(bank_url, "asyncpg"))
    yield made
    await made.dispose()


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    """A service on a store of its own, which isn't up yet."""
    return Receiver(tmp_path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance is kind: no backoff of a call is waited for."""
    monkeypatch.setattr(call_retry, "backoff_s", lambda number, chance: 0.0)
