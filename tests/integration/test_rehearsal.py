"""Rehearsals on real stores: a handler's Transaction, or its AsyncSession, is undone where it would commit; and
`ringpost dead replay --dry-run --service`, from end to end."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner, Result
from postgres_stores import PostgresStores
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import ringpost.sqlalchemy
from ringpost import Contract, Operation, Service, Transaction, blocking
from ringpost.cli.main import ringpost as command
from ringpost.client.posting import new_id
from ringpost.core import ids
from ringpost.core.message import Cause, Failure, Message, Record, Settlement, State
from ringpost.service.rehearsal import Rehearsal, Rehearsed
from ringpost.service.undone_store import UndoneStore, UndoneTransaction
from ringpost.settings import Settings
from ringpost.sqlalchemy import _Handling
from ringpost.store import store_for
from ringpost.store.port import Filter, Store

GUARD_S = 60
TABLES = (
    "CREATE TABLE account (name VARCHAR(80) PRIMARY KEY)",
    "CREATE TABLE entry (name VARCHAR(80) PRIMARY KEY, account VARCHAR(80)"
    " REFERENCES account(name) DEFERRABLE INITIALLY DEFERRED)",
)


class Books(Contract):
    write = Operation(str, int)
    threaded = Operation(str, int)
    session = Operation(str, int)
    written = Operation(str)


class Ledger:
    """What a handler is given to work with."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx

    async def add(self, sql: str, *values: str) -> None:
        await self.tx.execute(sql, values)


def ledger(tx: Transaction) -> Ledger:
    return Ledger(tx)


ENTRY = "INSERT INTO entry(name, account) VALUES ($1, $2)"


def books(sessions: Any = None) -> Service:
    """Make a service whose handlers do what their request says."""
    service = Service(Books, provides=[ledger, *([sessions] if sessions else [])])

    @service.implements(Books.write, dry_run=True)
    async def write(how: str, ctx: ringpost.Context, tx: Transaction, ledger: Ledger) -> int:
        await ctx.send(Books.written, how)
        match how:
            case "defer":
                tx.defer("INSERT INTO account(name) VALUES ($1)", (how,))
            case "defer wrong":
                tx.defer("INSERT INTO account(name) VALUES ($1)", ("there",))
            case "write and defer wrong":
                await ledger.add("INSERT INTO account(name) VALUES ($1)", how)
                tx.defer("INSERT INTO account(name) VALUES ($1)", (how,))
            case "orphan":
                await ledger.add(ENTRY, how, "nobody")
            case "orphan deferred":
                tx.defer(ENTRY, (how, "nobody"))
            case "raise":
                await ledger.add("INSERT INTO account(name) VALUES ($1)", how)
                raise ValueError(how)
            case _:
                await ledger.add("INSERT INTO account(name) VALUES ($1)", how)
        return len(await tx.execute("SELECT name FROM account"))

    @service.implements(Books.threaded, dry_run=True)
    def threaded(how: str, tx: blocking.Transaction) -> int:
        tx.execute("INSERT INTO account(name) VALUES ($1)", (how,))
        return len(tx.execute("SELECT name FROM account"))

    @service.implements(Books.written)
    async def written(how: str) -> None: ...

    if sessions is None:

        @service.implements(Books.session)
        async def nothing(how: str) -> int:
            return 0

    else:

        @service.implements(Books.session, dry_run=True)
        async def session(how: str, ctx: ringpost.Context, session: AsyncSession) -> int:
            await ctx.send(Books.written, how)
            if how == "orphan":
                await session.execute(text("INSERT INTO entry(name, account) VALUES ('a', 'nobody')"))
            else:
                await session.execute(text("INSERT INTO account(name) VALUES ('session')"))
            if how == "commit":
                await session.commit()
            return int(await session.scalar(text("SELECT count(*) FROM account")) or 0)

    return service


class Desk:
    """A store with tables beside its own, one account in them, and a rehearsal of its dead letters."""

    def __init__(self, store: Store, rehearsal: Rehearsal) -> None:
        self.store = store
        self.rehearsal = rehearsal

    async def of(self, how: str, operation: str = "write") -> Rehearsed:
        """Rehearse a dead letter, and see that nothing has changed by it."""
        record = await dead(self.store, f"books.{operation}", json.dumps(how).encode())
        before = await self.everything()
        async with asyncio.timeout(GUARD_S):
            found = await self.rehearsal.of(record)
        assert await self.everything() == before, "a rehearsal leaves nothing"
        return found

    async def everything(self) -> Any:
        tx = self.store.begin(lambda: "a test")
        rows = [await tx.execute((f"SELECT * FROM {table}", ())) for table in ("account", "entry")]
        await tx.rollback()
        return rows, await self.store.find(Filter(kind=None)), await self.store.notes()


async def dead(store: Store, queue: str, body: bytes) -> Record:
    id = new_id()
    await store.put([Message(id, queue, body, b'{"operation":"%s"}' % queue.encode())])
    (delivery,) = (await store.claim({queue: 1}, 1, 30.0)).deliveries
    failure = Failure("ValueError", "no", "", 1, 1, "h")
    await store.settle([Settlement(delivery, State.DEAD, cause=Cause.HANDLER_ERROR, failure=failure)])
    (record,) = await store.read([id], bodies=True)
    assert record is not None
    return record


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/books.db"
    stores: PostgresStores = request.getfixturevalue("stores")
    stores.empty(Settings())
    return stores.url


@asynccontextmanager
async def desk(url: str, service: Service) -> AsyncIterator[Desk]:
    settings = Settings(store=url, durability="buffered")
    store = store_for(url, settings)
    await store.open(create=True)
    try:
        tx = store.begin(lambda: "a test")
        for table in (*TABLES, "INSERT INTO account(name) VALUES ('there')"):
            await tx.execute((table, ()))
        assert await tx.commit(None)
        async with Rehearsal([service], store, settings) as rehearsal:
            yield Desk(store, rehearsal)
        for table in ("entry", "account"):  # in this order: what empties the database for the next knows none
            tx = store.begin(lambda: "a test")
            await tx.execute((f"DROP TABLE {table}", ()))
            assert await tx.commit(None)
    finally:
        await store.close()


async def test_what_a_transaction_writes_is_undone_where_it_would_commit(url: str) -> None:
    async with desk(url, books()) as at:
        for how in ("write", "write", "defer"):
            found = await at.of(how)
            assert (found.foretold, [one.queue for one in found.sends]) == ("succeeds", ["books.written"]), found
        assert found.answer is not None
        assert found.answer.body == b"1"
        threaded = await at.of("threaded", "threaded")
        assert (threaded.foretold, threaded.answer and threaded.answer.body) == ("succeeds", b"2"), threaded


async def test_what_only_the_commit_would_have_found_is_found(url: str) -> None:
    async with desk(url, books()) as at:
        for how in ("raise", "there", "defer wrong", "write and defer wrong", "orphan", "orphan deferred"):
            found = await at.of(how)
            assert (found.foretold, found.sends) == ("fails", ()), how
            assert found.failure is not None
        assert "foreign key" in found.failure.message.lower()


async def test_a_rehearsal_that_commits_is_found_out(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit(self: UndoneTransaction, settlement: Any, staged: Any = (), sql: Any = ()) -> bool:
        return await self._transaction.commit(None, staged, sql if settlement is None else settlement.sql)

    monkeypatch.setattr(UndoneTransaction, "commit", commit)
    async with desk(url, books()) as at:
        for how in ("write", "defer"):
            with pytest.raises(AssertionError, match="leaves nothing"):
                await at.of(how)


async def test_a_rehearsal_that_doesnt_look_at_what_was_deferred_is_found_out(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rehearse(self: UndoneTransaction, sql: Any = ()) -> None:
        await self._transaction.rollback()

    monkeypatch.setattr(UndoneTransaction, "rehearse", rehearse)
    async with desk(url, books()) as at:
        assert (await at.of("defer wrong")).foretold == "succeeds"
        assert (await at.of("orphan")).foretold == "succeeds"


# --- a session of another library


@pytest.fixture(params=["asyncpg", "psycopg"])
async def sessions(request: pytest.FixtureRequest, stores: PostgresStores) -> AsyncIterator[Any]:
    stores.empty(Settings())
    engine = create_async_engine(stores.url.replace("postgresql://", f"postgresql+{request.param}://", 1))
    yield ringpost.sqlalchemy.session(engine)
    await engine.dispose()


async def test_what_a_session_writes_is_undone_where_it_would_commit(sessions: Any, stores: PostgresStores) -> None:
    async with desk(stores.url, books(sessions)) as at:
        for _ in range(2):
            found = await at.of("write", "session")
            assert (found.foretold, [one.queue for one in found.sends]) == ("succeeds", ["books.written"]), found
            assert found.answer is not None
            assert found.answer.body == b"2"
        orphan = await at.of("orphan", "session")
        assert orphan.foretold == "fails"
        assert orphan.failure is not None
        assert "foreign key" in orphan.failure.message
        refused = await at.of("commit", "session")
        assert refused.failure is not None
        assert "is not for handlers" in refused.failure.message


async def test_a_session_that_commits_in_a_rehearsal_is_found_out(
    sessions: Any, stores: PostgresStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def commit(self: _Handling, *_: Any) -> bool:
        self._phase = "committing"
        await self.session.commit()
        await self._rollback()
        return True

    monkeypatch.setattr(_Handling, "_commit", commit)
    async with desk(stores.url, books(sessions)) as at:
        with pytest.raises(AssertionError, match="leaves nothing"):
            await at.of("write", "session")


# --- the command

CODE = """
from dataclasses import dataclass

from ringpost import Context, Contract, Event, Operation, Secret, Service, Transaction


@dataclass
class Order:
    item: str
    password: Secret[str] = ""


class Shop(Contract):
    order = Operation(Order, int)
    charge = Operation(str)
    ordered = Event(Order)


class Plain(Contract):
    order = Operation(str)


class Tables: ...


async def tables(tx: Transaction) -> Tables:
    await tx.execute("CREATE TABLE IF NOT EXISTS orders (item TEXT)")
    return Tables()


shop, plain = Service(Shop, resources=[tables]), Service(Plain)


@shop.implements(Shop.order, dry_run=True)
async def order(order: Order, ctx: Context, tx: Transaction) -> int:
    assert ctx.dry_run
    if order.item == "moon":
        raise ValueError("no such item")
    if order.item == "charged":
        await ctx.call(Shop.charge, order.item)
    await tx.execute("INSERT INTO orders VALUES (?)", [order.item])
    await ctx.publish(Shop.ordered, order)
    await ctx.send(Shop.charge, order.item)
    return 5


@shop.implements(Shop.charge)
async def charge(item: str) -> None: ...


@plain.implements(Plain.order)
async def plainly(item: str) -> None:
    raise AssertionError("never run")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ringpost.toml").write_text('store = "sqlite:///books.db"\ndurability = "buffered"\n')
    (tmp_path / "rehearsed_shop.py").write_text(dedent(CODE))
    yield tmp_path
    sys.modules.pop("rehearsed_shop", None)


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def put_dead(*letters: tuple[str, bytes]) -> list[str]:
    async def work() -> list[str]:
        store = store_for("sqlite:///books.db", Settings(durability="buffered"))
        await store.open(create=True)
        try:
            tx = store.begin(lambda: "a test")
            await tx.execute(("CREATE TABLE orders (item TEXT)", ()))
            assert await tx.commit(None)
            return [ids.text((await dead(store, queue, body)).id) for queue, body in letters]
        finally:
            await store.close()

    return asyncio.run(work())


def rows() -> Any:
    """Give all that is in the store."""

    async def work() -> Any:
        store = store_for("sqlite:///books.db", Settings(durability="buffered"))
        await store.open()
        try:
            found = await store.find(Filter(kind=None))
            return found, [await store.audit(row.id) for row in found], await store.notes()
        finally:
            await store.close()

    return asyncio.run(work())


TEA, MOON = b'{"item":"tea","password":"p4ss"}', b'{"item":"moon"}'
SHOP, PLAIN = ("--service", "rehearsed_shop:shop"), ("--service", "rehearsed_shop:plain")
ASKED = ("dead", "replay", "--all", "--dry-run", *SHOP, *PLAIN)


def test_a_dry_run_with_a_service_says_what_would_become_of_each_letter(folder: Path) -> None:
    tea, moon, charged, unfit, _, _ = put_dead(
        ("shop.order", TEA),
        ("shop.order", MOON),
        ("shop.order", b'{"item":"charged"}'),
        ("shop.order", b'{"item":7}'),
        ("plain.order", b'"x"'),
        ("gone.order", b'"x"'),
    )
    before = rows()
    result = ran(*ASKED)
    assert rows() == before
    assert result.exit_code == 1, result.output
    shown = result.stdout.splitlines()
    assert shown[:5] == [
        f"{tea} shop.order: would succeed, 5",
        '  would publish shop.ordered {"item":"tea","password":"***"}',
        '  would send shop.charge "tea"',
        f"{moon} shop.order: would fail, and be tried again: ValueError: no such item",
        f"{charged} shop.order: can't be foretold: ctx.call(shop.charge) in a dry run: nothing would undo what it does"
        ' there. Only what is declared with effect="read" is called.',
    ]
    assert shown[5:10] == [
        "gone.order: 1, only read: none of these services handles it",
        "plain.order: 1, only read: its handler doesn't say dry_run=True",
        "shop.order: 4",
        "3 rehearsed: 1 would succeed, 1 would fail, and be tried again, 1 can't be foretold",
        "4 fit, 1 don't, 1 of which nobody noted what they must be; nothing was replayed",
    ]
    assert shown[10:] == [f"  {unfit}: at /item: it doesn't fit"]
    assert result.stderr == ""
    found = json.loads(ran(*ASKED, "--json").stdout)
    assert [(one["id"], one["foretold"]) for one in found["letters"]] == [
        (tea, "succeeds"),
        (moon, "fails"),
        (charged, "unsure"),
    ]
    assert found["letters"][0]["sends"] == [
        {"verb": "publish", "name": "shop.ordered", "body": {"item": "tea", "password": "***"}},
        {"verb": "send", "name": "shop.charge", "body": "tea"},
    ]
    assert found["rehearsed"] == {"succeeds": 1, "fails": 1, "unsure": 1}


def test_one_letter_is_rehearsed_by_its_id(folder: Path) -> None:
    tea, _ = put_dead(("shop.order", TEA), ("shop.order", MOON))
    result = ran("dead", "replay", tea, "--dry-run", *SHOP)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert "1 rehearsed: 1 would succeed\n1 fit, 0 don't; nothing was replayed" in result.stdout
    assert ran("dead", "list", "--json").stdout.count('"cause"') == 2


def test_the_code_of_services_is_asked_for_where_it_is_of_use(folder: Path) -> None:
    put_dead(("shop.order", TEA))
    without = ran("dead", "replay", "--all", "--dry-run")
    assert "--service MODULE:SERVICE runs those that allow it" in without.stderr
    refused = ran("dead", "replay", "--all", *SHOP)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--service is for --dry-run" in refused.stderr
    assert "there is no module" in ran("dead", "replay", "--all", "--dry-run", "--service", "no_such:shop").stderr


def test_a_command_that_lets_a_verb_through_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = Rehearsal.of

    async def through(self: Rehearsal, record: Record) -> Rehearsed:
        found = await of(self, record)
        assert isinstance(self._store, UndoneStore)
        await self._store._store.put(found.sends)
        return found

    monkeypatch.setattr(Rehearsal, "of", through)
    put_dead(("shop.order", TEA))
    before = rows()
    assert "would send shop.charge" in ran(*ASKED).stdout
    assert rows() != before
