"""Opening a PostgreSQL store: what the server is worth, what is refused, and that no password gets out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from postgres_stores import PostgresStores, until_it_waits
from servers.postgres import RealPostgres

from ringpost import Contract, Operation, Service, Transaction
from ringpost.contract.errors import StoreError, TransactionHeldTooLong
from ringpost.core.message import Message
from ringpost.http.run import serve
from ringpost.settings import Settings
from ringpost.store import store_for, users_sql
from ringpost.store.migration import Step
from ringpost.store.postgres import alarm as postgres_alarm
from ringpost.store.postgres import schema as postgres_schema
from ringpost.store.postgres.store import PostgresStore
from ringpost.testing.conformance.suite import message

URL = "postgresql://clerk:s3cret@127.0.0.1:1/shop"


async def refusal(store: PostgresStore, *, create: bool = True) -> str:
    with pytest.raises(StoreError) as raised:
        await store.open(create=create)
    await store.close()
    return str(raised.value)


async def test_a_server_that_syncs_is_durable(postgres: RealPostgres) -> None:
    store = PostgresStore(postgres.url(postgres.new_database()))
    facts = await store.open(create=True)
    assert (facts.level, len(facts.store_id)) == ("durable", 16)
    await store.close()
    assert (await store_again(postgres, store)).store_id == facts.store_id


async def store_again(postgres: RealPostgres, store: PostgresStore) -> "object":
    again = PostgresStore(postgres.url(f"test_{postgres._databases}"))
    facts = await again.open()
    await again.close()
    return facts


async def test_each_connection_has_a_name_that_begins_as_the_url_says(fast_postgres: RealPostgres) -> None:
    database = fast_postgres.new_database()
    store = PostgresStore(fast_postgres.url(database) + "&application_name=billing", Settings(durability="buffered"))
    await store.open(create=True)
    await store.put([Message(bytes(16), "a.b", b"1")])
    sql = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name <> ''"
    names = [row[0] for row in fast_postgres.execute(database, sql)]
    await store.close()
    assert len(set(names)) == len(names) > 1
    assert all(name.startswith("billing-") for name in names)


async def test_a_server_that_does_not_sync_is_refused_by_name(fast_postgres: RealPostgres) -> None:
    url = fast_postgres.url(fast_postgres.new_database())
    said = await refusal(PostgresStore(url))
    assert "fsync = off" in said
    assert 'durability = "buffered"' in said
    store = PostgresStore(url, Settings(durability="buffered"))
    assert (await store.open(create=True)).level == "buffered"
    await store.close()


async def test_asynchronous_commits_are_refused_by_name(postgres: RealPostgres) -> None:
    database = postgres.new_database()
    postgres.execute("postgres", f"ALTER DATABASE {database} SET synchronous_commit = off")
    assert "synchronous_commit = off" in await refusal(PostgresStore(postgres.url(database)))


async def test_what_can_not_be_written_is_refused(postgres: RealPostgres) -> None:
    database = postgres.new_database()
    postgres.execute("postgres", f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert "read only" in await refusal(PostgresStore(postgres.url(database)))


async def test_only_who_may_create_creates(postgres: RealPostgres) -> None:
    url = postgres.url(postgres.new_database())
    assert "`ringpost run` with this URL creates it" in await refusal(PostgresStore(url), create=False)


async def test_a_schema_of_newer_code_is_refused(postgres: RealPostgres) -> None:
    database = postgres.new_database()
    store = PostgresStore(postgres.url(database))
    await store.open(create=True)
    await store.close()
    postgres.execute(database, "UPDATE ringpost.meta SET value = '99' WHERE key IN ('schema', 'needs')")
    assert "newer Ringpost" in await refusal(PostgresStore(postgres.url(database)))


async def test_old_code_goes_on_after_an_expansion_and_is_told_after_a_contraction(
    postgres: RealPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(postgres.new_database())
    await put_one(url, b"1", create=True)
    released = postgres_schema.STEPS
    expand = Step(
        "ALTER TABLE ringpost.note ADD COLUMN later int NOT NULL DEFAULT 7; CREATE TABLE ringpost.later (x int)"
    )
    broken = Step(f"{expand.sql}; SELECT no_such_function()")
    monkeypatch.setattr(postgres_schema, "STEPS", (*released, broken))
    with pytest.raises(Exception, match="no_such_function"):
        await PostgresStore(url).open()
    monkeypatch.setattr(postgres_schema, "STEPS", (*released, expand))  # it finds nothing half-made
    await put_one(url, b"2")
    monkeypatch.setattr(postgres_schema, "STEPS", released)
    await put_one(url, b"3")
    contract = Step("DROP TABLE ringpost.later", needs=len(released) + 1)
    monkeypatch.setattr(postgres_schema, "STEPS", (*released, expand, contract))
    await put_one(url, b"4")
    monkeypatch.setattr(postgres_schema, "STEPS", released)
    assert "newer Ringpost" in await refusal(PostgresStore(url))


async def put_one(url: str, body: bytes, *, create: bool = False) -> None:
    """Open a store with the code of this moment, and see that it works."""
    store = PostgresStore(url)
    await store.open(create=create)
    try:
        sent = message(body)
        await store.put([sent])
        assert await store.read([sent.id]) != [None]
    finally:
        await store.close()


async def test_two_schemas_are_two_stores(postgres: RealPostgres) -> None:
    url = postgres.url(postgres.new_database())
    one, other = PostgresStore(url), PostgresStore(f"{url}&schema=other")
    ids = {(await store.open(create=True)).store_id for store in (one, other)}
    assert len(ids) == 2
    sent: Message = message(b"1")
    await one.put([sent])
    assert [await store.read([sent.id]) == [None] for store in (one, other)] == [False, True]
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    "url",
    [URL, URL.replace(":1/", ":x/"), URL.replace("/shop", ""), URL + "?schema=Not%20a%20name", URL + "?sslmode=often"],
)
async def test_no_password_is_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StoreError) as raised:
        await store_for(url, Settings()).open()
    told = [str(raised.value), repr(raised.value), caplog.text]
    assert not any("s3cret" in text for text in told)


async def test_a_transaction_that_stays_open_raises_an_alarm(
    fast_postgres: RealPostgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = PostgresStores(fast_postgres)
    store, _ = stores.empty(Settings())
    await store.open()
    other = PostgresStore(stores.url, Settings(durability="buffered"))
    await other.open()
    transaction = other.begin(lambda: "here")
    await transaction.lock()
    end_it = f"pg_terminate_backend({transaction.connection.get_server_pid()})"  # others are at work here, too
    assert await store._read(lambda db: postgres_alarm.alarms(db, 3600.0)) == []
    assert any(end_it in alarm for alarm in await store._read(lambda db: postgres_alarm.alarms(db, 0.0)))
    await transaction.rollback()
    assert not any(end_it in alarm for alarm in await store._read(lambda db: postgres_alarm.alarms(db, 0.0)))
    monkeypatch.setattr(store, "alarms", _something)
    await store.tend()
    assert "something is wrong" in caplog.text
    await other.close()
    await store.close()
    stores.close()


async def test_a_transaction_that_stands_idle_is_ended(fast_postgres: RealPostgres) -> None:
    stores = PostgresStores(fast_postgres)
    store, _ = stores.empty(Settings())
    await store.open()
    assert store._opened is not None
    store._opened.pool.idle_s = 0.05
    transaction = store.begin(lambda: "at orders.py:7")
    await transaction.execute(("CREATE TABLE idled (n int)", ()))
    ended = asyncio.Event()
    transaction.connection.add_termination_listener(lambda _: ended.set())
    await ended.wait()
    with pytest.raises(TransactionHeldTooLong, match=r"idle for 0.05 s.*orders.py:7"):
        await transaction.execute(("INSERT INTO idled VALUES (1)", ()))
    await transaction.rollback()
    assert fast_postgres.execute(stores.database, "SELECT to_regclass('idled')")[0][0] is None
    await store.close()
    stores.close()


async def _something() -> list[str]:
    return ["something is wrong"]


class Till(Contract):
    pay = Operation(int)


class Tables:
    """What a program makes at its start."""


@pytest.mark.parametrize("twin", [False, True])
async def test_processes_that_start_together_make_the_same_tables(
    fast_postgres: RealPostgres, monkeypatch: pytest.MonkeyPatch, twin: bool
) -> None:
    """The server lets CREATE TABLE IF NOT EXISTS fail where another transaction has made that table and still runs."""
    if twin:
        monkeypatch.setattr(users_sql, "ALONE", "SELECT 1")
    url = fast_postgres.url(fast_postgres.new_database())
    made: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    go_on = asyncio.Event()

    async def slowly(tx: Transaction) -> Tables:
        await tx.execute(MAKE)
        made.set_result((await tx.execute("SELECT pg_backend_pid()"))[0][0])
        await go_on.wait()
        return Tables()

    async def at_once(tx: Transaction) -> Tables:
        await tx.execute(MAKE)
        return Tables()

    first, second = asyncio.ensure_future(served(url, slowly)), None
    looking = await asyncpg.connect(url)
    try:
        await asyncio.wait([first, made], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        second = asyncio.ensure_future(served(url, at_once))
        await until_it_waits(second, looking, made.result())
        go_on.set()
        await first
        if twin:
            with pytest.raises(asyncpg.UniqueViolationError):
                await second
        else:
            await second
    finally:
        go_on.set()
        await looking.close()
        await asyncio.gather(first, *([] if second is None else [second]), return_exceptions=True)


MAKE = "CREATE TABLE IF NOT EXISTS payment (amount bigint)"


async def served(url: str, make: Callable[[Transaction], Awaitable[Tables]]) -> None:
    """Start a program that makes its tables, and stop it."""
    till = Service(Till, resources=[make])

    @till.implements(Till.pay)
    async def pay(amount: int, tx: Transaction) -> None: ...

    async with serve(till, store=url, durability="buffered", http=None):
        pass
