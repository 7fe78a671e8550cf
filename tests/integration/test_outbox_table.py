"""Messages leave by an outbox table with the commit of the program's own session, and a relay brings each to the store
once."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
import sqlalchemy
from business import Business, path_of
from servers.postgres import RealPostgres
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from ringpost import Client, Contract, Event, Operation, blocking
from ringpost.core.message import Kind, Record
from ringpost.relay.relay import Relay
from ringpost.settings import Settings
from ringpost.store.port import Filter
from ringpost.store.sqlite import SqliteStore

SETTINGS = Settings(durability="buffered")
WRITE = "INSERT INTO orders VALUES (7)"


@dataclass
class User:
    name: str


class Mail(Contract):
    welcome = Operation(User)
    joined = Event(User)


# --- each library: one way to write an order and send in one transaction, which then commits or rolls back

Way = Callable[[str, str | None, bool], Awaitable[str]]


def told(receipt: Any) -> str:
    assert receipt.level == "staged"
    return str(receipt.id)


async def by_sqlite3(url: str, store: str | None, commit: bool) -> str:
    def work() -> str:
        with contextlib.closing(sqlite3.connect(path_of(url))) as connection, blocking.Client(store=store) as client:
            connection.row_factory = sqlite3.Row
            connection.execute(WRITE)
            receipt = client.outbox(connection).send(Mail.welcome, User("Ada"))
            if commit:
                connection.commit()
            else:
                connection.rollback()
        return told(receipt)

    return await asyncio.to_thread(work)


async def by_aiosqlite(url: str, store: str | None, commit: bool) -> str:
    async with aiosqlite.connect(path_of(url)) as connection, Client(store=store) as client:
        receipt = await client.outbox(connection).send(Mail.welcome, User("Ada"))
        await connection.execute(WRITE)
        await (connection.commit() if commit else connection.rollback())
    return told(receipt)


async def by_session(url: str, store: str | None, commit: bool) -> str:
    def work() -> str:
        engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
        with blocking.Client(store=store) as client, Session(engine) as session:
            receipt = client.outbox(session).send(Mail.welcome, User("Ada"))
            session.execute(sqlalchemy.text(WRITE))
            if commit:
                session.commit()
            else:
                session.rollback()
        engine.dispose()
        return told(receipt)

    return await asyncio.to_thread(work)


async def by_async_session(url: str, store: str | None, commit: bool) -> str:
    drivers = {"sqlite:": "sqlite+aiosqlite:", "postgresql:": "postgresql+asyncpg:"}
    scheme = f"{url.partition(':')[0]}:"
    engine = create_async_engine(url.replace(scheme, drivers[scheme], 1))
    async with Client(store=store) as client, AsyncSession(engine) as session:
        receipt = await client.outbox(session).send(Mail.welcome, User("Ada"))  # before anything else is done
        await session.execute(sqlalchemy.text(WRITE))
        await (session.commit() if commit else session.rollback())
    await engine.dispose()
    return told(receipt)


async def by_asyncpg(url: str, store: str | None, commit: bool) -> str:
    connection = await asyncpg.connect(url)
    async with Client(store=store) as client:
        work = connection.transaction()
        await work.start()
        await connection.execute(WRITE)
        receipt = await client.outbox(connection).send(Mail.welcome, User("Ada"))
        await (work.commit() if commit else work.rollback())
    await connection.close()
    return told(receipt)


async def by_psycopg(url: str, store: str | None, commit: bool) -> str:
    async with await psycopg.AsyncConnection.connect(url) as connection, Client(store=store) as client:
        receipt = await client.outbox(connection).send(Mail.welcome, User("Ada"))
        await connection.execute(WRITE)
        await (connection.commit() if commit else connection.rollback())
    return told(receipt)


SQLITE_WAYS: list[Way] = [by_sqlite3, by_aiosqlite, by_session, by_async_session]
POSTGRES_WAYS: list[Way] = [by_asyncpg, by_psycopg, by_session, by_async_session]


@pytest.fixture(params=["sqlite", "postgresql"])
async def business(request: pytest.FixtureRequest, tmp_path: Path) -> Business:
    if request.param == "sqlite":
        return await Business(f"sqlite:///{tmp_path}/shop.db").prepare()
    server: RealPostgres = request.getfixturevalue("fast_postgres")
    return await Business(server.url(server.new_database())).prepare()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "ringpost.db", SETTINGS)
    await made.open(create=True)
    yield made
    await made.close()


async def kept(store: SqliteStore) -> list[Record]:
    return list(await store.find(Filter(kind=Kind.MESSAGE)))


async def relayed(business: Business, store: SqliteStore) -> None:
    """Relay all that is there, and delete it."""
    relay = Relay(business.table(), store)
    while await relay.round():
        pass
    await relay._leave()


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("way", SQLITE_WAYS, ids=lambda way: way.__name__)
async def test_on_sqlite_one_is_there_with_the_commit_only(
    way: Way, commit: bool, tmp_path: Path, store: SqliteStore
) -> None:
    business = await Business(f"sqlite:///{tmp_path}/shop.db").prepare()
    await sent_and_relayed(way, commit, business, store)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("way", POSTGRES_WAYS, ids=lambda way: way.__name__)
async def test_on_postgresql_one_is_there_with_the_commit_only(
    way: Way, commit: bool, fast_postgres: RealPostgres, store: SqliteStore
) -> None:
    business = await Business(fast_postgres.url(fast_postgres.new_database())).prepare()
    await sent_and_relayed(way, commit, business, store)


async def sent_and_relayed(way: Way, commit: bool, business: Business, store: SqliteStore) -> None:
    id = await way(business.url, None, commit)
    assert await business.count("orders") == commit
    await relayed(business, store)
    claimed = await store.claim({"mail.welcome": 5}, 1, 30)  # which compares the checksum
    expected = [(id.replace("-", ""), b'{"name":"Ada"}')] if commit else []
    assert [(one.id.hex(), one.body) for one in claimed.deliveries] == expected
    assert await business.count("ringpost_outbox") == 0
