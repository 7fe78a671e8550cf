"""Messages leave with the commit of the program's own session: a roll-back leaves nothing, a commit exactly one."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import django
import psycopg
import pytest
import sqlalchemy
from django.conf import settings as django_settings
from django.db import connection as django_connection
from django.db import transaction as django_transaction
from postgres_stores import PostgresStores
from servers.postgres import RealPostgres
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ringpost import Client, Contract, Event, Operation, UsageError, blocking
from ringpost.contract.errors import StoreError
from ringpost.core import notes
from ringpost.core.message import Kind, Record
from ringpost.settings import Settings
from ringpost.store.port import Filter, Note
from ringpost.store.postgres import lent as postgres_lent
from ringpost.store.postgres.store import PostgresStore

SETTINGS = Settings(durability="buffered")
COUNT_OF_ORDERS = "SELECT count(*) FROM orders"
WRITE = "INSERT INTO orders VALUES (7)"


@dataclass
class User:
    name: str


class Mail(Contract):
    welcome = Operation(User)
    joined = Event(User)


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPOST_DURABILITY", "buffered")


@pytest.fixture
async def store(stores: PostgresStores) -> AsyncIterator[PostgresStore]:
    made, _ = stores.empty(SETTINGS)
    await made.open()
    await stores_execute(stores.url, "CREATE TABLE IF NOT EXISTS orders (no int)")
    yield made
    await made.close()


async def stores_execute(url: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def kept(store: PostgresStore) -> list[Record]:
    return [one for one in await store.find(Filter(kind=Kind.MESSAGE))]


async def orders(stores: PostgresStores) -> int:
    return int((await stores_execute(stores.url, COUNT_OF_ORDERS))[0][0])


def alchemy(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


# --- each library: one way to write an order and send in one transaction, which then commits or rolls back

Way = Callable[[str, bool], Awaitable[str]]


async def by_asyncpg(url: str, commit: bool) -> str:
    connection = await asyncpg.connect(url)
    async with Client(store=url) as client:
        work = connection.transaction()
        await work.start()
        await connection.execute(WRITE)
        receipt = await client.outbox(connection).send(Mail.welcome, User("Ada"))
        await (work.commit() if commit else work.rollback())
    await connection.close()
    return told(receipt)


async def by_psycopg(url: str, commit: bool) -> str:
    async with await psycopg.AsyncConnection.connect(url) as connection, Client(store=url) as client:
        receipt = await client.outbox(connection).send(Mail.welcome, User("Ada"))
        await connection.execute(WRITE)
        await (connection.commit() if commit else connection.rollback())
    return told(receipt)


async def by_async_session(url: str, commit: bool, driver: str) -> str:
    engine: AsyncEngine = create_async_engine(alchemy(url, driver))
    async with Client(store=url) as client, AsyncSession(engine) as session:
        receipt = await client.outbox(session).send(Mail.welcome, User("Ada"))  # before anything else is done
        await session.execute(sqlalchemy.text(WRITE))
        await (session.commit() if commit else session.rollback())
    await engine.dispose()
    return told(receipt)


async def by_session_on_asyncpg(url: str, commit: bool) -> str:
    return await by_async_session(url, commit, "asyncpg")


async def by_session_on_psycopg(url: str, commit: bool) -> str:
    return await by_async_session(url, commit, "psycopg")


async def by_blocking_psycopg(url: str, commit: bool) -> str:
    def work() -> str:
        with psycopg.connect(url) as connection, blocking.Client(store=url) as client:
            connection.execute(WRITE)
            receipt = client.outbox(connection).send(Mail.welcome, User("Ada"))
            if commit:
                connection.commit()
            else:
                connection.rollback()
        return told(receipt)

    return await asyncio.to_thread(work)


async def by_blocking_session(url: str, commit: bool) -> str:
    def work() -> str:
        engine = sqlalchemy.create_engine(alchemy(url, "psycopg"))
        with blocking.Client(store=url) as client, Session(engine) as session:
            receipt = client.outbox(session).send(Mail.welcome, User("Ada"))
            session.execute(sqlalchemy.text(WRITE))
            if commit:
                session.commit()
            else:
                session.rollback()
        engine.dispose()
        return told(receipt)

    return await asyncio.to_thread(work)


class RolledBack(Exception):
    pass


def set_up_django(url: str) -> None:
    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": dict(one.split("=", 1) for one in parts.query.split("&") if one),
    }
    if not django_settings.configured:
        django_settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[], USE_TZ=True)
        django.setup()


async def by_django(url: str, commit: bool) -> str:
    def work() -> str:
        set_up_django(url)
        said = ""
        try:
            with blocking.Client(store=url) as client, django_transaction.atomic():
                with django_connection.cursor() as cursor:
                    cursor.execute(WRITE)
                said = told(client.outbox(django_connection).send(Mail.welcome, User("Ada")))
                if not commit:
                    raise RolledBack
        except RolledBack:
            pass
        finally:
            django_connection.close()
        return said

    return await asyncio.to_thread(work)


def told(receipt: Any) -> str:
    assert receipt.level == "staged"
    return str(receipt.id)


WAYS: list[Way] = [
    by_asyncpg,
    by_psycopg,
    by_session_on_asyncpg,
    by_session_on_psycopg,
    by_blocking_psycopg,
    by_blocking_session,
    by_django,
]


def name_of(way: Any) -> str:
    return str(way.__name__)


@pytest.mark.parametrize("way", WAYS, ids=name_of)
async def test_a_commit_leaves_exactly_one(way: Way, store: PostgresStore, stores: PostgresStores) -> None:
    id = await way(stores.url, True)
    claimed = await store.claim({"mail.welcome": 5}, 1, 30)  # which compares the checksum
    assert [(one.id.hex(), one.body) for one in claimed.deliveries] == [(id.replace("-", ""), b'{"name":"Ada"}')]
    assert await orders(stores) == 1


@pytest.mark.parametrize("way", WAYS, ids=name_of)
async def test_a_roll_back_leaves_nothing(way: Way, store: PostgresStore, stores: PostgresStores) -> None:
    await way(stores.url, False)
    assert (await kept(store), await orders(stores)) == ([], 0)


async def hasty(self: postgres_lent.Joined, fetch: object) -> Any:
    """Put as if there were no session: in a commit of its own."""
    return await HASTY[0].put(self._messages)


HASTY: list[PostgresStore] = []


async def test_one_that_does_not_wait_for_the_commit_is_found(
    store: PostgresStore, stores: PostgresStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    HASTY[:] = [store]
    monkeypatch.setattr(postgres_lent.Joined, "put", hasty)
    with pytest.raises(AssertionError):
        await test_a_roll_back_leaves_nothing(by_asyncpg, store, stores)


# --- what else is sent

Send = Callable[[Any], Awaitable[Any]]


@pytest.fixture
async def client(store: PostgresStore, stores: PostgresStores) -> AsyncIterator[Client]:
    async with Client(store=stores.url) as made:
        yield made


@pytest.fixture
async def connection(stores: PostgresStores) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(stores.url) as made:
        yield made


async def test_many_with_every_option(
    client: Client, connection: psycopg.AsyncConnection[Any], store: PostgresStore
) -> None:
    outbox = client.outbox(connection)
    receipts = await outbox.send_all(Mail.welcome, [User(f"u{n}") for n in range(3)], ordering_key="a", ttl=60)
    assert [one.level for one in receipts] == ["staged"] * 3
    await outbox.send(Mail.welcome, User("late"), delay=3600, priority="high")
    assert await kept(store) == []
    await connection.commit()
    states = [record.state.name for record in await kept(store)]
    assert states == ["READY", "WAITING", "WAITING", "SCHEDULED"]


async def test_a_key_is_known_within_the_session_and_after_it(
    client: Client, connection: psycopg.AsyncConnection[Any], store: PostgresStore
) -> None:
    outbox = client.outbox(connection)
    first = await outbox.send(Mail.welcome, User("Ada"), idempotency_key="k")
    again = await outbox.send(Mail.welcome, User("Ada"), idempotency_key="k")
    await connection.commit()
    later = await client.send(Mail.welcome, User("Ada"), idempotency_key="k")
    assert (again.id, again.duplicate, later.id, later.duplicate) == (first.id, True, first.id, True)
    with pytest.raises(UsageError, match="used before"):
        await outbox.send(Mail.welcome, User("Bob"), idempotency_key="k")
    assert len(await kept(store)) == 1


async def test_events_reach_who_subscribed_and_are_counted_for_who_is_suspended(
    client: Client, connection: psycopg.AsyncConnection[Any], store: PostgresStore
) -> None:
    for queue, suspended in (("desk.joined", False), ("away.joined", True)):
        value = notes.encode(notes.Subscription(suspended=suspended))
        await store.note_put(Note(notes.subscription("mail.joined", queue), value))
    receipt = await client.outbox(connection).publish(Mail.joined, User("Ada"))
    assert (receipt.receivers, await kept(store)) == (1, [])
    await connection.commit()
    assert [one.queue for one in await kept(store)] == ["desk.joined"]
    (away,) = await store.notes(notes.subscription("mail.joined", "away.joined"))
    assert notes.decode_subscription(away.value).gap_count == 1


# --- what is refused, before anything is written


async def test_without_a_transaction_it_is_refused(client: Client, stores: PostgresStores) -> None:
    loose = await asyncpg.connect(stores.url)
    with pytest.raises(UsageError, match="in no transaction"):
        await client.outbox(loose).send(Mail.welcome, User("Ada"))
    await loose.close()
    async with await psycopg.AsyncConnection.connect(stores.url, autocommit=True) as hasty_one:
        with pytest.raises(UsageError, match="in no transaction"):
            await client.outbox(hasty_one).send(Mail.welcome, User("Ada"))
        async with hasty_one.transaction():
            await client.outbox(hasty_one).send(Mail.welcome, User("Ada"))


async def test_django_outside_of_atomic_is_refused(store: PostgresStore, stores: PostgresStores) -> None:
    def work() -> None:
        set_up_django(stores.url)
        with blocking.Client(store=stores.url) as sender, pytest.raises(UsageError, match="atomic"):
            sender.outbox(django_connection).send(Mail.welcome, User("Ada"))
        django_connection.close()

    await asyncio.to_thread(work)


async def test_another_database_is_refused_and_the_transaction_goes_on(
    client: Client, fast_postgres: RealPostgres, store: PostgresStore
) -> None:
    plain = fast_postgres.url(fast_postgres.new_database())
    other = fast_postgres.url(fast_postgres.new_database())
    another = PostgresStore(other, SETTINGS)
    await another.open(create=True)
    await another.close()
    for url in (plain, other):
        async with await psycopg.AsyncConnection.connect(url) as elsewhere:
            with pytest.raises(UsageError, match="another database"):
                await client.outbox(elsewhere).send(Mail.welcome, User("Ada"))
            assert await (await elsewhere.execute("SELECT 1")).fetchone() == (1,)
    assert await kept(store) == []


async def test_sessions_of_the_other_kind_are_refused(
    client: Client, connection: psycopg.AsyncConnection[Any], stores: PostgresStores
) -> None:
    with psycopg.connect(stores.url) as waiting, pytest.raises(UsageError, match=r"blocking\.Client"):
        await client.outbox(waiting).send(Mail.welcome, User("Ada"))  # type: ignore[arg-type]

    def work() -> None:
        with blocking.Client(store=stores.url) as sender, pytest.raises(UsageError, match=r"ringpost\.Client"):
            sender.outbox(connection).send(Mail.welcome, User("Ada"))  # type: ignore[arg-type]

    await asyncio.to_thread(work)


async def test_what_is_no_session_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match=r"not builtins\.object"):
        await client.outbox(object()).send(Mail.welcome, User("Ada"))  # type: ignore[arg-type]


async def test_a_store_in_a_file_is_refused(tmp_path: Path, connection: psycopg.AsyncConnection[Any]) -> None:
    async with Client(store="memory:") as sender:
        with pytest.raises((UsageError, StoreError), match="PostgreSQL"):
            await sender.outbox(connection).send(Mail.welcome, User("Ada"))


async def test_connections_that_libraries_wrap_are_taken(
    client: Client, stores: PostgresStores, store: PostgresStore
) -> None:
    pools = asyncpg.create_pool(stores.url, min_size=1, max_size=1)
    async with pools as pool, pool.acquire() as pooled, pooled.transaction():
        await client.outbox(pooled).send(Mail.welcome, User("pool"))
    engine = create_async_engine(alchemy(stores.url, "asyncpg"))
    async with engine.begin() as begun:
        await client.outbox(begun).send(Mail.welcome, User("connection"))
    scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    await client.outbox(scoped).send(Mail.welcome, User("scoped"))
    await scoped.commit()
    await scoped.remove()
    loose = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with loose.connect() as autocommit:
        with pytest.raises(UsageError, match="in no transaction"):
            await client.outbox(autocommit).send(Mail.welcome, User("never"))
    await engine.dispose()
    assert len(await kept(store)) == 3


async def test_blocking_connections_that_libraries_wrap_are_taken(store: PostgresStore, stores: PostgresStores) -> None:
    def work() -> None:
        engine = sqlalchemy.create_engine(alchemy(stores.url, "psycopg"))
        with blocking.Client(store=stores.url) as sender:
            with engine.begin() as begun:
                sender.outbox(begun).send(Mail.welcome, User("connection"))
            scoped = scoped_session(sessionmaker(engine))
            sender.outbox(scoped).send(Mail.welcome, User("scoped"))
            scoped.commit()
            scoped.remove()
            loose = engine.execution_options(isolation_level="AUTOCOMMIT")
            with loose.connect() as autocommit, pytest.raises(UsageError, match="in no transaction"):
                sender.outbox(autocommit).send(Mail.welcome, User("never"))
        engine.dispose()

    await asyncio.to_thread(work)
    assert len(await kept(store)) == 2


# --- processes that die

DYING = """
import asyncio, os, signal, sys, psycopg
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_outbox_mail import Mail, User
from ringpost import blocking
url, when = sys.argv[2:]
connection = psycopg.connect(url)
client = blocking.Client(store=url)
connection.execute("INSERT INTO orders VALUES (7)")
client.outbox(connection).send(Mail.welcome, User("Ada"))
if when == "after":
    connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
MAIL = """
from dataclasses import dataclass
from ringpost import Contract, Operation

@dataclass
class User:
    name: str

class Mail(Contract):
    welcome = Operation(User)
"""


@pytest.mark.parametrize(("when", "count"), [("before", 0), ("after", 1)])
async def test_killed_beside_its_commit(
    when: str, count: int, store: PostgresStore, stores: PostgresStores, tmp_path: Path
) -> None:
    mail = tmp_path / "test_outbox_mail.py"
    mail.write_text(MAIL)

    def work() -> int:
        command = [sys.executable, "-c", DYING, str(mail), stores.url, when]
        return subprocess.run(command, timeout=60, check=False, env=os.environ).returncode

    assert await asyncio.to_thread(work) == -signal.SIGKILL
    assert (len(await kept(store)), await orders(stores)) == (count, count)


WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_who_waits_for_a_line_keeps_only_its_own_thread(store: PostgresStore, stores: PostgresStores) -> None:
    """The one that waits would else stop the client of the one that it waits for, for ever."""

    def second(sender: blocking.Client) -> None:
        with psycopg.connect(stores.url) as own:
            sender.outbox(own).send(Mail.welcome, User("second"), ordering_key="a")

    def work() -> None:
        with blocking.Client(store=stores.url) as sender, psycopg.connect(stores.url) as own:
            sender.outbox(own).send(Mail.welcome, User("first"), ordering_key="a")
            other = threading.Thread(target=second, args=(sender,))
            other.start()
            with psycopg.connect(stores.url, autocommit=True) as looking:
                while looking.execute(WAITING).fetchone() == (0,):
                    time.sleep(0.01)
            sender.outbox(own).send(Mail.welcome, User("first again"), ordering_key="a")
            own.commit()
            other.join()

    async with asyncio.timeout(60):
        await asyncio.to_thread(work)
    assert [one.state.name for one in await kept(store)] == ["READY", "WAITING", "WAITING"]
    assert [b"first" in one.body for one in await kept(store)] == [True, True, False]
