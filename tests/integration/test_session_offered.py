"""What may provide a handler's AsyncSession: makers, resources and fakes; all else is refused before it runs."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from servers.postgres import RealPostgres
from session_bank import KEPT, Bank, Lone, Pay, Payment, Payments, alchemy, bank, lone, names, payments, town
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

import ringpost.sqlalchemy
from ringpost import Service, Transaction, UsageError, serve
from ringpost.testing import Harness


class Session(AsyncSession):
    """A session class of the program's own."""


async def test_a_session_makers_class_is_the_type_to_take(bank_url: str, engine: AsyncEngine) -> None:
    maker = async_sessionmaker(engine, class_=Session, autoflush=False, info={"of": "maker"})
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(maker)])

    @service.implements(Lone.do)
    async def do(nothing: None, session: Session) -> None:
        KEPT.append((type(session).__name__, session.sync_session.autoflush, session.info["of"]))
        session.add(Payment(name="a"))

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None: ...

    async with town(bank_url, engine, service) as client:
        await client.call(Lone.do, None)
    assert (KEPT, await names(bank_url)) == ([("Session", False, "maker")], ["a"])


async def test_an_engine_that_is_a_resource_is_made_and_ended_with_the_service(bank_url: str) -> None:
    async def engine() -> AsyncIterator[AsyncEngine]:
        made = create_async_engine(alchemy(bank_url, "psycopg"))
        yield made
        await made.dispose()

    async def do(nothing: None, session: AsyncSession) -> None:
        session.add(Payment(name=f"{len(KEPT)}"))
        KEPT.append(session)

    service = lone(do, ringpost.sqlalchemy.session(), resources=[engine])
    for _ in range(2):
        async with serve(service, store=bank_url, http=None) as client:
            await client.call(Lone.do, None)
    assert await names(bank_url) == ["0", "1"]


async def starting(service: Service, store: str) -> str:
    with pytest.raises(UsageError) as caught:
        async with serve(service, store=store, http=None):
            pass
    return str(caught.value)


async def takes(nothing: None, session: AsyncSession) -> None: ...


async def test_a_store_elsewhere_is_refused_at_start(bank_url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    provided = lone(takes, ringpost.sqlalchemy.session(engine))
    said = await starting(provided, f"sqlite:///{tmp_path / 'store.db'}")
    assert re.search(r"takes, which handles lone\.do, takes AsyncSession.*store\.db is in no PostgreSQL", said)
    assert "take a Transaction" in said
    assert "Harness(provides=[…])" in await starting(provided, "memory:")


async def test_another_database_is_refused_at_start(bank_url: str, fast_postgres: RealPostgres) -> None:
    other = fast_postgres.url(fast_postgres.new_database())
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(alchemy(other, driver))
        said = await starting(lone(takes, ringpost.sqlalchemy.session(engine)), bank_url)
        assert "is on another database than the store" in said
        assert f"session(postgresql+{driver}://" in said
        await engine.dispose()


async def test_an_engine_that_commits_each_statement_is_refused_at_start(bank_url: str, engine: AsyncEngine) -> None:
    loose = engine.execution_options(isolation_level="AUTOCOMMIT")
    said = await starting(lone(takes, ringpost.sqlalchemy.session(loose)), bank_url)
    assert "can't be a handler's transaction" in said


async def test_two_transactions_in_one_handler_are_refused_at_start(bank_url: str, lone_engine: AsyncEngine) -> None:
    async def both(nothing: None, payments: Payments, tx: Transaction) -> None: ...

    provided = lone(both, ringpost.sqlalchemy.session(lone_engine), payments)
    assert "takes AsyncSession and Transaction" in await starting(provided, bank_url)
    another = ringpost.sqlalchemy.session(async_sessionmaker(lone_engine, class_=Session))

    async def two(nothing: None, session: AsyncSession, other: Session) -> None: ...

    said = await starting(lone(two, ringpost.sqlalchemy.session(lone_engine), another), bank_url)
    assert "one handling has one transaction" in said


async def test_a_handler_in_a_thread_is_refused_at_start(bank_url: str, lone_engine: AsyncEngine) -> None:
    def threaded(nothing: None, session: AsyncSession) -> None: ...

    said = await starting(lone(threaded, ringpost.sqlalchemy.session(lone_engine)), bank_url)
    assert "make it `async def`" in said


async def test_a_session_without_an_engine_is_refused_at_start(bank_url: str, lone_engine: AsyncEngine) -> None:
    def each_time() -> AsyncEngine:
        return lone_engine

    assert "Nothing provides the parameter engine" in str(
        await starting(lone(takes, ringpost.sqlalchemy.session()), bank_url)
    )
    assert "Service(resources=[…])" in await starting(lone(takes, ringpost.sqlalchemy.session(), each_time), bank_url)


async def test_what_gives_no_such_session_is_refused_at_once(bank_url: str, lone_engine: AsyncEngine) -> None:
    blocking_engine = create_engine(alchemy(bank_url, "psycopg"))
    several = async_sessionmaker(lone_engine, binds={Payment: lone_engine})
    for bind, why in (
        (blocking_engine, "AsyncEngine"),
        (async_sessionmaker(), "needs an AsyncEngine"),
        (several, "over several"),
        (async_sessionmaker(AsyncConnection(lone_engine)), "has AsyncConnection"),
    ):
        with pytest.raises(UsageError, match=why):
            ringpost.sqlalchemy.session(bind)  # type: ignore[arg-type]


class FakeSession(AsyncSession):
    """One that remembers what was added."""

    def add(self, instance: object, _warn: bool = True) -> None:
        KEPT.append(instance)


async def test_a_harness_takes_what_a_test_gives_in_its_place(bank_url: str, lone_engine: AsyncEngine) -> None:
    def fake() -> AsyncSession:
        return FakeSession()

    provided = bank(ringpost.sqlalchemy.session(lone_engine))
    async with Harness(provided, provides=[fake]) as harness:
        assert await harness.client.call(Bank.pay, Pay("a")) == 1
        await harness.settle()
        assert [one.name for one in KEPT] == ["a"]
        assert harness.sent(Bank.paid) == [Pay("a")]
    with pytest.raises(UsageError, match=r"give Harness\(provides=\[…\]\) a function that returns the AsyncSession"):
        async with Harness(provided) as harness:
            await harness.client.call(Bank.pay, Pay("a"))
