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
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ringpost import Client, Contract, Event, Operation, UsageError, blocking
from ringpost.core import notes
from ringpost.core.message import Kind, Record
from ringpost.relay.port import table_for
from ringpost.relay.relay import Relay
from ringpost.settings import Settings
from ringpost.store.port import Filter, Note
from ringpost.store.sqlite.store import SqliteStore

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
    return await asyncio.to_thread(by_alchemy, url, store, commit, Session)


def by_alchemy(
    url: str,
    store: str | None,
    commit: bool,
    session_on: Callable[[sqlalchemy.Engine], Session | scoped_session[Session]],
) -> str:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    session = session_on(engine)
    with blocking.Client(store=store) as client:
        receipt = client.outbox(session).send(Mail.welcome, User("Ada"))
        session.execute(sqlalchemy.text(WRITE))
        if commit:
            session.commit()
        else:
            session.rollback()
    session.close()
    engine.dispose()
    return told(receipt)


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


async def by_scoped_session(url: str, store: str | None, commit: bool) -> str:
    return await asyncio.to_thread(by_alchemy, url, store, commit, lambda engine: scoped_session(sessionmaker(engine)))


SQLITE_WAYS: list[Way] = [by_sqlite3, by_aiosqlite, by_session, by_scoped_session, by_async_session]
POSTGRES_WAYS: list[Way] = [by_asyncpg, by_psycopg, by_session, by_async_session]


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


@pytest.mark.parametrize("told", [True, False], ids=["another store", "no store"])
def test_where_no_table_is_it_is_said_what_is_missing(told: bool, tmp_path: Path) -> None:
    client = blocking.Client(store=f"sqlite:///{tmp_path}/ringpost.db" if told else None)
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as connection, contextlib.closing(client):
        box = client.outbox(connection)
        with pytest.raises(UsageError, match="no table ringpost_outbox in the session's database") as raised:
            box.send(Mail.welcome, User("Ada"))
    said = str(raised.value)
    assert ("another database than the client's store" in said) is told
    assert ("is told of no store" in said and "RINGPOST_STORE" in said) is not told


# --- an event with a log


class Logged(Contract):
    told = Event(User, keep=3600)


async def test_an_event_with_a_log_is_logged_by_the_relay_too(on_file: Business, store: SqliteStore) -> None:
    name = notes.subscription(Logged.told.full_name, "late")
    async with aiosqlite.connect(path_of(on_file.url)) as connection, Client() as client:
        await client.outbox(connection).publish(Logged.told, User("Ada"))
        await connection.commit()
    await relayed(on_file, store)
    await store.note_put(Note(name, notes.encode(notes.Subscription("late", 1, 1, behind=True))))
    assert (await store.catch_up(Logged.told.full_name, "late")).given == 1


# --- the store's own file is refused: two SQLite libraries in one process would drop each other's locks


@pytest.fixture(params=["path", "symlink", "hard link"])
def own_file(request: pytest.FixtureRequest, tmp_path: Path, store: SqliteStore) -> str:
    """Give the URL of the store's file, by whichever name."""
    path, other = tmp_path / "ringpost.db", tmp_path / "other.db"
    if request.param == "symlink":
        other.symlink_to(path)
    elif request.param == "hard link":
        other.hardlink_to(path)
    return f"sqlite:///{path if request.param == 'path' else other}"


async def test_a_relay_refuses_the_store_s_file(own_file: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the file of a store"):
        table_for(own_file, f"sqlite:///{tmp_path}/ringpost.db")


async def test_a_relay_that_is_told_of_no_store_knows_its_file_by_its_tables(tmp_path: Path) -> None:
    closed = SqliteStore(tmp_path / "another.db", SETTINGS)
    await closed.open(create=True)
    await closed.close()
    table = table_for(f"sqlite:///{tmp_path}/another.db", None)
    with pytest.raises(UsageError, match="the file of a store"):
        await table.make()
    await table.close()


@pytest.mark.parametrize("told", [True, False], ids=["its client's store", "any store"])
def test_a_session_on_a_store_s_file_is_refused_before_it_writes(told: bool, tmp_path: Path) -> None:
    asyncio.run(_made(tmp_path / "ringpost.db"))  # closed again: a store that is open would be harmed by this very test
    (tmp_path / "other.db").symlink_to(tmp_path / "ringpost.db")
    url = f"sqlite:///{tmp_path}/ringpost.db" if told else None
    client = blocking.Client(store=url)  # it stays closed: a store isn't opened beside this connection
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection, contextlib.closing(client):
        for use in (lambda box: box.send(Mail.welcome, User("Ada")), lambda box: box.create_table()):
            with pytest.raises(UsageError, match="the file of a store"):
                use(client.outbox(connection))
        assert not connection.in_transaction


async def _made(path: Path) -> None:
    store = SqliteStore(path, SETTINGS)
    await store.open(create=True)
    await store.close()
