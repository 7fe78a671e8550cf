"""The relay: what stands in an outbox table is in the store once, in order, whatever is in the way meanwhile."""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiosqlite
import asyncpg
import pytest
from business import Business, path_of
from postgres_stores import until_it_waits
from servers.postgres import RealPostgres
from tcp_proxy import TcpProxy

from ringpost import Client, Contract, Event, Operation, UsageError
from ringpost.client.posting import new_id
from ringpost.core import ids, notes
from ringpost.core.message import Kind, Message, Record, Settlement, State
from ringpost.relay import offer, postgres_table, sqlite_table
from ringpost.relay.port import Table, TableAway, table_for
from ringpost.relay.relay import Relay
from ringpost.relay.row import FOR_SURE_S, Row, message_of, row_of
from ringpost.relay.sqlite_table import SqliteTable
from ringpost.settings import Settings
from ringpost.store import users_sql
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Filter, Note, Put
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.sqlite.store import SqliteStore

SETTINGS = Settings(durability="buffered")
UNTIL_S = 60.0


@dataclass
class User:
    name: str


class Mail(Contract):
    welcome = Operation(User)
    goodbye = Operation(User)
    joined = Event(User)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "ringpost.db", SETTINGS)
    await made.open(create=True)
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sqlite_table, postgres_table):
        monkeypatch.setattr(module, "ROWS_MAX", 4)


async def kept(store: SqliteStore) -> list[Record]:
    return list(await store.find(Filter(kind=Kind.MESSAGE)))


async def bodies(store: SqliteStore) -> list[str]:
    return [record.body.decode() for record in await kept(store)]


async def emptied(relay: Relay) -> None:
    """Relay all that can be moved, and delete it."""
    while await relay.round():
        pass


async def relayed(business: Business, store: SqliteStore, relay_class: type[Relay] = Relay) -> None:
    relay = relay_class(business.table(), store)
    await emptied(relay)
    await relay._leave()


def message(number: int, *, queue: str = "mail.welcome", line: bytes | None = None) -> Message:
    return Message(number.to_bytes(16, "big"), queue, b'"%d"' % number, line=line)


async def write(business: Business, *messages: Message) -> None:
    await business.write([row_of(one, wall_ms()) for one in messages])


# --- rows


async def test_a_row_gives_its_message_again() -> None:
    sent = Message(
        ids.uuid7(5, 7), "a.b", b'"x"', due_ms=9_000, ttl_s=2.0, line=b"l" * 16, dedup=b"d" * 16, digest=b"g" * 16
    )
    row = row_of(sent, 1_000)
    back = message_of(row, 2_000)
    assert (back.id, back.queue, back.body, back.headers) == (sent.id, sent.queue, sent.body, sent.headers)
    assert (back.due_ms, back.ttl_s, back.line, back.dedup, back.digest) == (
        9_000,
        1.0,
        *(b"l" * 16, b"d" * 16, b"g" * 16),
    )
    assert message_of(row_of(Message(sent.id, "", b"1", event="a.happened"), 0), 0).event == "a.happened"
    late = message_of(row_of(Message(sent.id, "a.b", b"1", delay_s=3.0), 1_000), 9_000)
    assert (late.due_ms, late.delay_s, late.dedup is not None) == (4_000, 0.0, True)


# --- once, and in order


async def test_pages_keep_their_order(business: Business, store: SqliteStore) -> None:
    async with asyncio.timeout(UNTIL_S):
        await write(business, *(message(number) for number in range(11)))
        await relayed(business, store)
    assert await bodies(store) == [f'"{number}"' for number in range(11)]
    assert await business.count("ringpost_outbox") == 0


class Meeting:
    """A table whose readers all have their first page before any of them goes on."""

    def __init__(self, table: Table, met: asyncio.Barrier) -> None:
        self._table = table
        self._met: asyncio.Barrier | None = met
        self.shown, self.close = table.shown, table.close

    async def turn(self, done: Sequence[Row], after: int, without: Collection[str], now_ms: int) -> list[Row]:
        rows = await self._table.turn(done, after, without, now_ms)
        if self._met is not None:
            met, self._met = self._met, None
            await met.wait()
        return rows


async def two_at_once(business: Business, store: SqliteStore) -> list[str]:
    await write(business, *(message(number) for number in range(11)))
    met = asyncio.Barrier(2)
    relays = [Relay(cast(Table, Meeting(business.table(), met)), store) for _ in range(2)]
    async with asyncio.timeout(UNTIL_S):
        await asyncio.gather(*map(emptied, relays))
    for relay in relays:
        await relay._leave()
    return await bodies(store)


async def test_two_at_once_bring_each_once_in_order(business: Business, store: SqliteStore) -> None:
    assert await two_at_once(business, store) == [f'"{number}"' for number in range(11)]
    assert await business.count("ringpost_outbox") == 0


async def test_one_that_gives_new_ids_is_found(
    on_file: Business, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew(row: Row, now_ms: int) -> Message:
        made = message_of(row, now_ms)
        made.id, made.dedup = new_id(), None
        return made

    monkeypatch.setattr(offer, "message_of", anew)
    assert len(await two_at_once(on_file, store)) > 11


class ByPosition(Relay):
    """Reads on from where it was."""

    reached = 0

    async def round(self) -> bool:
        rows = await self._table.turn([], self.reached, (), 0)
        for row in rows:
            await self._store.put([message_of(row, 0)])
            self.reached = row.seq
        return bool(rows)


async def passed_over(server: RealPostgres, store: SqliteStore, relay_class: type[Relay]) -> list[str]:
    """Begin a transaction before another one, and commit it after that one was relayed."""
    business = await Business(server.url(server.new_database())).prepare()
    slow = await asyncpg.connect(business.url)
    async with Client() as client:
        work = slow.transaction()
        await work.start()
        await client.outbox(slow).send(Mail.welcome, User("slow"))
        await write(business, message(1))
        relay = relay_class(business.table(), store)
        await emptied(relay)
        await work.commit()
        await emptied(relay)
        await relay._leave()
    await slow.close()
    return await bodies(store)


async def test_a_late_commit_is_not_passed_over(fast_postgres: RealPostgres, store: SqliteStore) -> None:
    assert await passed_over(fast_postgres, store, Relay) == ['"1"', '{"name":"slow"}']


async def test_one_that_reads_on_from_a_position_is_found(fast_postgres: RealPostgres, store: SqliteStore) -> None:
    assert await passed_over(fast_postgres, store, ByPosition) == ['"1"']


# --- what can't be relayed stops nothing else


async def test_a_row_that_cannot_be_read_is_set_aside(business: Business, store: SqliteStore) -> None:
    await write(business, *(message(number) for number in range(3)))
    await business.execute(
        "UPDATE ringpost_outbox SET terms = '{' WHERE body = (SELECT body FROM ringpost_outbox WHERE id LIKE '%1')"
    )
    await relayed(business, store)
    assert await bodies(store) == ['"0"', '"2"']
    table = business.table()
    ((aside,), waiting) = await table.aside(9), await table.waiting()
    await table.close()
    assert aside.trouble.startswith("it can't be read") and aside.id.endswith("1")
    assert (waiting.count, waiting.aside) == (0, 1)


async def test_what_no_store_takes_is_set_aside(on_file: Business, store: SqliteStore) -> None:
    big = message(1)
    big.body = b'"' + b"x" * (5 << 20) + b'"'
    await write(on_file, message(0), big, message(2))
    await relayed(on_file, store)
    assert await bodies(store) == ['"0"', '"2"']
    assert "UsageError" in str(await on_file.execute("SELECT trouble FROM ringpost_outbox"))


async def test_a_reused_key_is_set_aside(on_file: Business, store: SqliteStore) -> None:
    async with Client() as client, aiosqlite.connect(path_of(on_file.url)) as db:
        for name in ("Ada", "Ada", "Bob"):
            await client.outbox(db).send(Mail.welcome, User(name), idempotency_key="k")
        await db.commit()
    await relayed(on_file, store)
    assert await bodies(store) == ['{"name":"Ada"}']
    assert "was used before" in str(await on_file.execute("SELECT trouble FROM ringpost_outbox"))


async def without_room(on_file: Business, folder: Path) -> None:
    """The queue of welcomes takes 2. A goodbye in the line of a welcome that waits must not go before it."""
    full = SqliteStore(folder / "small.db", Settings(durability="buffered", depth_max=2))
    await full.open(create=True)
    line = b"l" * 16
    await write(
        on_file,
        message(0),
        message(1),
        message(2, line=line),
        message(3, queue="mail.goodbye", line=line),
        message(4, queue="mail.goodbye"),
        *(message(number) for number in range(5, 12)),
        message(12, queue="mail.goodbye"),
    )
    relay = Relay(on_file.table(), full)
    try:
        await emptied(relay)
        assert await bodies(full) == ['"0"', '"1"', '"4"', '"12"']
        claimed = await full.claim({"mail.welcome": 2, "mail.goodbye": 2}, 1, 30)
        await full.settle([Settlement(one, State.SUCCEEDED) for one in claimed.deliveries])
        await emptied(relay)
        assert (await bodies(full))[4:] == ['"2"', '"3"', '"5"']
    finally:
        await relay._leave()
        await full.close()


async def test_what_finds_no_room_waits_and_holds_its_line(on_file: Business, tmp_path: Path) -> None:
    await without_room(on_file, tmp_path)


async def test_one_that_offers_a_line_in_two_queues_at_once_is_found(
    on_file: Business, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer, "_parts", lambda ready: [ready])
    with pytest.raises(AssertionError):
        await without_room(on_file, tmp_path)


async def test_what_was_offered_long_ago_is_looked_up(business: Business, store: SqliteStore) -> None:
    """Only the store can tell whether it took it; if it can't, nobody may find out by an effect."""
    old_ms = wall_ms() - (FOR_SURE_S + 60) * 1000
    await write(business, message(1), message(2), message(3))
    await store.put([message_of(row_of(message(1), 0), 0)])
    await business.execute(f"UPDATE ringpost_outbox SET offered_ms = {old_ms} WHERE NOT id LIKE '%3'")
    await relayed(business, store)
    assert await bodies(store) == ['"1"', '"3"']
    ((id, trouble),) = await business.execute("SELECT id, trouble FROM ringpost_outbox")
    assert id.endswith("2") and "7 days ago" in trouble


# --- what is in the way, and goes again


async def until(so: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(UNTIL_S):
        while not await so():  # noqa: ASYNC110 (other tasks and processes bring it about)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.ensure_future(relay.run()) for relay in relays]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_one_of_two_relays_and_the_other_follows(on_file: Business, store: SqliteStore) -> None:
    first, second = (Relay(on_file.table(), store, lease_s=0.5) for _ in range(2))

    async def relayed(count: int) -> None:
        async def so() -> bool:
            return first.relayed + second.relayed == count

        await until(so)

    async with running(first, second) as tasks:
        await write(on_file, message(0))
        await relayed(1)
        leader = first if first.relayed else second
        ((note),) = await store.notes(notes.RELAY)
        assert notes.decode_relay(note.value).pid == os.getpid()
        tasks[0 if leader is first else 1].cancel()
        await write(on_file, *(message(number) for number in range(1, 4)))
        await relayed(4)
        assert len(await kept(store)) == 4
        assert {first.relayed, second.relayed} == {1, 3}
    assert await store.notes(notes.RELAY) == []  # who goes leaves at once


async def test_a_table_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    business = Business(f"sqlite:///{tmp_path}/late.db")
    async with running(Relay(business.table(), store)):

        async def said() -> bool:
            (note, *_) = await store.notes(notes.RELAY) or (Note("", b""),)
            return "unable to open" in caplog.text and bool(notes.decode_relay(note.value).pid)

        await until(said)
        sqlite3.connect(path_of(business.url)).close()
        await business.execute("CREATE TABLE orders (no int)")

        async def hinted() -> bool:
            return "ringpost outbox ddl" in caplog.text

        await until(hinted)
        table = business.table()
        await table.make()
        await table.close()
        await write(business, message(1))
        await until(lambda: kept(store))
    assert caplog.text.count("unable to open") == 1  # once, however often it was tried


async def relayed_from_another_file(
    on_file: Business, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> list[str]:
    """Relay from a file, put another one with other rows in its place, and relay on."""
    path = Path(path_of(on_file.url))
    relay = Relay(on_file.table(), store)
    await write(on_file, message(1))
    await emptied(relay)
    copy = path.with_name("backup.db")
    with contextlib.closing(sqlite3.connect(path)) as db, contextlib.closing(sqlite3.connect(copy)) as other:
        db.backup(other)
    copy.replace(path)
    await write(on_file, message(2))
    with caplog.at_level(logging.WARNING, "ringpost.relay"):
        await emptied(relay)
    await relay._table.close()
    return await bodies(store)


async def test_another_file_in_its_place_is_relayed_from(
    on_file: Business, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert await relayed_from_another_file(on_file, store, caplog) == ['"1"', '"2"']
    (said,) = caplog.messages
    assert "is another file now" in said


async def test_one_that_is_replaced_while_it_is_opened_is_noticed(
    on_file: Business, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(path_of(on_file.url))
    shutil.copyfile(path, path.with_name("backup.db"))
    connect = sqlite3.connect

    def connected(name: str, **options: Any) -> sqlite3.Connection:
        monkeypatch.setattr(sqlite3, "connect", connect)
        db: sqlite3.Connection = connect(name, **options)
        db.execute("SELECT * FROM sqlite_master").fetchall()
        path.with_name("backup.db").replace(path)
        return db

    monkeypatch.setattr(sqlite3, "connect", connected)
    relay = Relay(on_file.table(), store)
    assert not await relay.round()
    await write(on_file, message(1))
    await emptied(relay)
    await relay._table.close()
    assert await bodies(store) == ['"1"']


async def test_a_file_that_is_gone_is_waited_for(
    on_file: Business, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(path_of(on_file.url))
    async with running(Relay(on_file.table(), store)):
        await write(on_file, message(1))
        await until(lambda: kept(store))
        away = path.with_name("away.db")
        shutil.move(path, away)

        async def said() -> bool:
            return "unable to open" in caplog.text

        await until(said)
        shutil.move(away, path)
        await write(on_file, message(2))

        async def both() -> bool:
            return len(await kept(store)) == 2

        await until(both)
    assert caplog.text.count("another file now, or gone") == 1  # once, however often it was tried
    assert caplog.text.count("unable to open") == 1


async def test_who_keeps_to_the_old_file_is_found(
    on_file: Business, store: SqliteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_table, "file_at", lambda path: (1, 1))
    assert await relayed_from_another_file(on_file, store, caplog) == ['"1"']


async def test_a_store_that_is_away_is_waited_for(
    on_file: Business, fast_postgres: RealPostgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringpost.store.postgres.writer.PATIENCE_S", 0.5)  # the store itself waits no longer
    caplog.set_level(logging.INFO, "ringpost.relay")
    database = fast_postgres.new_database()
    async with TcpProxy("127.0.0.1", fast_postgres.port) as proxy:
        url = fast_postgres.url(database, tcp=True).replace(str(fast_postgres.port), str(proxy.port))
        away = PostgresStore(url, SETTINGS)
        await away.open(create=True)
        async with running(Relay(on_file.table(), away)):
            await write(on_file, message(0))

            async def there() -> bool:
                return len(await away.find(Filter())) == 1

            await until(there)
            proxy.refuse()
            proxy.reset()
            await write(on_file, message(1))

            async def told() -> bool:
                return "nothing can be relayed" in caplog.text

            await until(told)
            assert await on_file.count("ringpost_outbox") == 1
            proxy.listen()

            async def back() -> bool:
                return "goes on" in caplog.text and await on_file.count("ringpost_outbox") == 0

            await until(back)
            assert [record.body for record in await away.find(Filter())] == [b'"0"', b'"1"']
        await away.close()


async def test_what_the_store_is_told_of_is_on_the_disk(on_file: Business, fast_postgres: RealPostgres) -> None:
    """A session may have left its commit unsynced: the relay's own comes before the store hears of it, and syncs."""
    table = SqliteTable(on_file.url, None)
    assert await table._run(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)
    await table.close()
    business = await Business(fast_postgres.url(fast_postgres.new_database())).prepare()
    weak = postgres_table.PostgresTable(f"{business.url}&synchronous_commit=off", None)
    seen: list[str] = []

    async def look(driver: postgres_table.Driver) -> None:
        async with postgres_table._transaction(driver):
            seen.append((await driver.fetch("SHOW synchronous_commit"))[0][0])
        seen.append((await driver.fetch("SHOW synchronous_commit"))[0][0])

    await weak._run(look)
    await weak.close()
    assert seen == ["on", "off"]


async def test_rows_are_marked_before_they_are_offered(business: Business, store: SqliteStore) -> None:
    await write(business, message(1))
    marked: list[object] = []

    class Looking:
        facts = store.facts

        async def put(self, messages: Sequence[Message]) -> list[Put]:
            marked.extend(await business.execute("SELECT offered_ms IS NOT NULL FROM ringpost_outbox"))
            return await store.put(messages)

    relay = Relay(business.table(), Looking())  # type: ignore[arg-type]
    await emptied(relay)
    await relay._table.close()
    assert [bool(one[0]) for one in marked] == [True]


# --- what is refused


async def test_without_a_table_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    async with Client() as client, aiosqlite.connect(tmp_path / "bare.db") as db:
        with pytest.raises(UsageError, match="ringpost outbox ddl --dialect sqlite"):
            await client.outbox(db).send(Mail.welcome, User("Ada"))
        await client.outbox(db).create_table()
        await client.outbox(db).create_table()
        await client.outbox(db).publish(Mail.joined, User("Ada"))
        await db.commit()


@pytest.mark.parametrize("twin", [False, True])
async def test_several_make_the_table_at_once(
    fast_postgres: RealPostgres, monkeypatch: pytest.MonkeyPatch, twin: bool
) -> None:
    """As programs do at their start: the server lets CREATE TABLE IF NOT EXISTS fail where another makes that table."""
    if twin:
        monkeypatch.setattr(users_sql, "ALONE", "SELECT 1")
    url = fast_postgres.url(fast_postgres.new_database(), tcp=True)
    by_session, by_command = await asyncpg.connect(url), table_for(url, None)
    async with Client() as client:
        begun = by_session.transaction()
        await begun.start()
        await client.outbox(by_session).create_table()
        making = asyncio.ensure_future(by_command.make())
        looking = await asyncpg.connect(url)
        await until_it_waits(making, looking, by_session.get_server_pid())
        await begun.commit()
        if twin:
            with pytest.raises(TableAway, match="already exists"):
                await making
        else:
            await making
            assert (await by_command.waiting()).count == 0
    for one in (by_session, looking, by_command):
        await one.close()


async def test_what_would_commit_at_once_is_refused(on_file: Business) -> None:
    async with Client() as client, aiosqlite.connect(path_of(on_file.url), isolation_level=None) as db:
        with pytest.raises(UsageError, match="in no transaction"):
            await client.outbox(db).send(Mail.welcome, User("Ada"))
        await db.execute("BEGIN")
        await client.outbox(db).send(Mail.welcome, User("Ada"))
        await db.execute("ROLLBACK")
    assert await on_file.count("ringpost_outbox") == 0


@pytest.mark.parametrize("url", ["shop.db", "mysql://host/shop", "sqlite:shop.db", "postgresql://host"])
def test_a_url_that_names_no_outbox_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="Write"):
        table_for(url, None)


def test_no_password_is_shown() -> None:
    assert table_for("postgresql+asyncpg://me:secret@host/shop", None).shown == "postgresql://me@host/shop"
