"""A handler's AsyncSession on PostgreSQL: its writes, messages, outcome and settlement are one commit, its own."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from postgres_stores import PostgresStores
from servers.postgres import RealPostgres
from sqlalchemy import String, create_engine, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ringpost.sqlalchemy
from ringpost import (
    Client,
    Context,
    Contract,
    DeadlineExceeded,
    Event,
    Operation,
    OperationFailed,
    Outcome,
    Problem,
    Retry,
    Service,
    StateError,
    Transaction,
    Unavailable,
    UsageError,
    serve,
)
from ringpost.core.message import Message, Settlement
from ringpost.settings import Settings
from ringpost.testing import Harness

GUARD_S = 30


class Base(DeclarativeBase):
    pass


class Payment(Base):
    __tablename__ = "payment"
    name: Mapped[str] = mapped_column(String(80), primary_key=True)


class TooMuch(Problem, status=409):
    left: int = 0


@dataclass
class Pay:
    name: str
    how: str = "add"


class Bank(Contract):
    pay = Operation(Pay, int, raises=[TooMuch], timeout=10)
    keyed = Operation(Pay, int, raises=[TooMuch], timeout=10, idempotency_key=lambda pay: pay.name)
    stored = Operation(Pay, int, timeout=10)
    look = Operation(str, int, timeout=10)
    lined = Operation(Pay, int, ordering_key=lambda pay: pay.name)
    told = Operation(Outcome[Pay, int])
    paid = Operation(Pay)
    seen = Operation(Pay, int)
    counted = Event(Pay)


class Payments:
    """What a handler is given to work with."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, name: str) -> int:
        self.session.add(Payment(name=name))
        await self.session.flush()
        return (await self.session.scalar(select(func.count()).select_from(Payment))) or 0


def payments(session: AsyncSession) -> Payments:
    return Payments(session)


HEARD: list[str] = []  # what handlers without a session say
KEPT: list[Any] = []  # what a handler left behind
_TWICE = Retry(attempts=2, first=0.01, longest=0.01)


async def commit_by_block(session: AsyncSession) -> None:
    await session.rollback()
    async with session.begin():
        session.add(Payment(name="block"))


async def commit_by_connection(session: AsyncSession) -> None:
    await (await session.connection()).commit()


COMMITS: dict[str, Callable[[AsyncSession], Awaitable[object]]] = {
    "commit": lambda session: session.commit(),
    "block": commit_by_block,
    "connection": commit_by_connection,
    "text": lambda session: session.execute(text("COMMIT")),
    "text after": lambda session: session.execute(text("SELECT ';'; COMMIT")),
    "sync": lambda session: session.run_sync(lambda sync: sync.commit()),
}


async def work(pay: Pay, ctx: Context, session: AsyncSession) -> int | TooMuch:
    """Write and send, and end as asked for."""
    await ctx.send(Bank.paid, pay)
    if pay.how == "call after a look":
        await session.scalar(select(func.count()).select_from(Payment))
        await ctx.call(Bank.seen, pay)
    session.add(Payment(name=pay.name))
    if pay.how == "twice at the end":
        session.add(Payment(name="there"))  # found at the flush before the commit
        return 1
    if pay.how == "add":
        return 1
    await session.flush()
    if pay.how in COMMITS:
        await COMMITS[pay.how](session)
    match pay.how:
        case "raise":
            raise ValueError(pay.name)
        case "problem":
            raise TooMuch(left=1)
        case "return":
            return TooMuch(left=2)
        case "call":
            return await ctx.call(Bank.seen, pay)
        case "call_or_send":
            await ctx.call_or_send(Bank.seen, pay)
        case "swallow":
            with pytest.raises(UsageError, match="not for handlers"):
                await session.commit()
        case "savepoint":
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    await session.execute(insert(Payment).values(name=pay.name))
            async with session.begin_nested():
                await session.execute(insert(Payment).values(name=f"{pay.name}, nested"))
        case "undo":
            await session.rollback()
            await ctx.call(Bank.seen, pay)  # nobody waits for it any more
            session.add(Payment(name=f"{pay.name}, anew"))
        case "events":
            await ctx.publish(Bank.counted, pay)
        case _:
            pass
    return 1


def bank(provider: Any) -> Service:
    """Make the service on an engine."""
    service = Service(Bank, provides=[provider, payments])
    service.implements(Bank.pay, retry=_TWICE)(work)
    service.implements(Bank.keyed, retry=_TWICE)(work)

    @service.implements(Bank.lined, retry=_TWICE)
    async def lined(pay: Pay, session: AsyncSession) -> int:
        session.add(Payment(name=f"{pay.name}, {pay.how}"))
        return 1

    @service.implements(Bank.stored)
    async def stored(pay: Pay, payments: Payments) -> int:
        return await payments.add(pay.name)

    @service.implements(Bank.look)
    async def look(name: str, session: AsyncSession) -> int:
        return len((await session.scalars(select(Payment).where(Payment.name == name))).all())

    @service.implements(Bank.told)
    async def told(outcome: Outcome[Pay, int]) -> None:
        HEARD.append(f"told {outcome.request.name} {outcome.result()}")

    @service.implements(Bank.paid)
    async def paid(pay: Pay) -> None:
        HEARD.append(f"paid {pay.name}")

    @service.implements(Bank.seen)
    async def seen(pay: Pay) -> int:
        return 1

    @service.on(Bank.counted)
    async def count(pay: Pay) -> None:
        HEARD.append(f"counted {pay.name}")

    return service


@pytest.fixture
async def url(stores: PostgresStores, monkeypatch: pytest.MonkeyPatch) -> str:
    stores.empty(Settings(durability="buffered"))
    monkeypatch.setenv("RINGPOST_DURABILITY", "buffered")
    HEARD.clear()
    KEPT.clear()
    await sql(stores.url, "CREATE TABLE payment (name text PRIMARY KEY)")
    return stores.url


def alchemy(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request: pytest.FixtureRequest, url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(alchemy(url, request.param))
    yield made
    await made.dispose()


@pytest.fixture
async def lone_engine(url: str) -> AsyncIterator[AsyncEngine]:
    """By one driver, where it says nothing of drivers."""
    made = create_async_engine(alchemy(url, "asyncpg"))
    yield made
    await made.dispose()


@asynccontextmanager
async def town(url: str, engine: AsyncEngine, *services: Service) -> AsyncIterator[Client]:
    running = services or (bank(ringpost.sqlalchemy.session(engine)),)
    async with asyncio.timeout(GUARD_S * 2), serve(*running, store=url, http=None) as client:
        yield client


async def sql(url: str, statement: str, *values: object) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


async def names(url: str) -> list[str]:
    """Give what is committed."""
    return [row[0] for row in await sql(url, "SELECT name FROM payment ORDER BY name")]


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not so():  # noqa: ASYNC110 (a handler says it)
            await asyncio.sleep(0.01)


OPERATIONS = [Bank.pay, Bank.keyed]


async def test_writes_and_sends_leave_together(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        for number, operation in enumerate(OPERATIONS):
            assert await client.call(operation, Pay(f"call{number}")) == 1
            assert await (await client.send(operation, Pay(f"sent{number}"))).result(GUARD_S) == 1
        assert await client.call(Bank.stored, Pay("provided")) == 5
        assert await client.call(Bank.look, "call0") == 1
        await until(lambda: len(HEARD) == 4)
    assert await names(url) == ["call0", "call1", "provided", "sent0", "sent1"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_raised_problem_undoes_and_a_returned_one_keeps(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        for number, operation in enumerate(OPERATIONS):
            for how in ("problem", "return"):
                with pytest.raises(TooMuch):
                    await client.call(operation, Pay(f"{how} call {number}", how))
                with pytest.raises(TooMuch):
                    await (await client.send(operation, Pay(f"{how} sent {number}", how))).result(GUARD_S)
        await until(lambda: len(HEARD) == 4)
    kept = ["return call 0", "return call 1", "return sent 0", "return sent 1"]
    assert (await names(url), sorted(HEARD)) == (kept, [f"paid {name}" for name in kept])


FAILS = {**dict.fromkeys(COMMITS, "not for handlers"), "raise": "ValueError", "twice at the end": "payment_pkey"}
FAILS |= dict.fromkeys(["call", "call_or_send"], "Call before the first write")


async def test_what_fails_leaves_nothing_behind(
    url: str, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await sql(url, "INSERT INTO payment VALUES ('there')")
    async with town(url, engine) as client:
        for how, why in FAILS.items():
            caplog.clear()
            for number, operation in enumerate(OPERATIONS):
                with pytest.raises(OperationFailed):
                    await client.call(operation, Pay(f"a{number} {how}", how))
                with pytest.raises(OperationFailed) as caught:
                    await (await client.send(operation, Pay(f"b{number} {how}", how))).result(GUARD_S)
                assert caught.value.cause == "handler_error"
            assert caplog.text.count(why) >= 4, how
        assert (await names(url), HEARD) == (["there"], [])
        assert await client.call(Bank.keyed, Pay("a1 raise")) == 1  # its key is free again
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_commit_that_was_refused_and_swallowed_commits_nothing(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        with pytest.raises(OperationFailed):
            await client.call(Bank.pay, Pay("a", "swallow"))
    assert (await names(url), HEARD) == ([], [])


@pytest.mark.parametrize("how", ["commit", "connection"])
async def test_the_next_handling_commits_nothing_of_one_whose_commit_was_refused(
    url: str, engine: AsyncEngine, how: str
) -> None:
    async with town(url, engine) as client:
        with pytest.raises(OperationFailed):
            await client.call(Bank.pay, Pay("a", how))
        assert await client.call(Bank.pay, Pay("b")) == 1  # on the same connection, if it is there still
    assert await names(url) == ["b"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_part_is_undone_by_a_savepoint_and_all_of_it_by_a_roll_back(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        assert await client.call(Bank.pay, Pay("a", "savepoint")) == 1
        assert await (await client.send(Bank.pay, Pay("b", "undo"))).result(GUARD_S) == 1
        await until(lambda: len(HEARD) == 2)
    assert await names(url) == ["a", "a, nested", "b, anew"]


async def test_to_close_a_session_is_to_roll_it_back(url: str, engine: AsyncEngine) -> None:
    async def do(nothing: None, ctx: Context, session: AsyncSession) -> None:
        await ctx.send(Lone.heard, None)
        session.add(Payment(name="closed"))
        await session.flush()
        await session.close()
        async with session:
            session.add(Payment(name="in a block"))
            await session.flush()
        session.add(Payment(name="after"))

    async with town(url, engine, lone(do, ringpost.sqlalchemy.session(engine))) as client:
        await client.call(Lone.do, None)
        await until(lambda: HEARD == ["heard"])
    assert await names(url) == ["after"]


async def test_calls_are_made_until_the_first_write(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        assert await client.call(Bank.pay, Pay("a", "call after a look")) == 1
    assert await names(url) == ["a"]


async def test_a_repeat_under_a_key_gets_the_answer_and_writes_nothing(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        for _ in range(3):
            assert await client.call(Bank.keyed, Pay("a")) == 1
        await until(lambda: HEARD == ["paid a"])
    assert await names(url) == ["a"]


async def test_lines_replies_and_events_end_in_it_too(url: str, engine: AsyncEngine) -> None:
    async with town(url, engine) as client:
        for number in range(3):
            await client.send(Bank.lined, Pay("line", str(number)), reply_to=Bank.told)
        await client.send(Bank.pay, Pay("a", "events"))
        await until(lambda: len(HEARD) == 5)
    assert sorted(HEARD) == ["counted a", "paid a", *["told line 1"] * 3]
    assert await names(url) == ["a", "line, 0", "line, 1", "line, 2"]


async def test_a_caller_whose_time_is_over_leaves_nothing_behind(url: str, engine: AsyncEngine) -> None:
    async def slow(nothing: None, session: AsyncSession) -> None:
        session.add(Payment(name="slow"))
        await session.flush()
        await session.execute(text("SELECT pg_sleep(20)"))

    async with town(url, engine, lone(slow, ringpost.sqlalchemy.session(engine))) as client:
        with pytest.raises(DeadlineExceeded):
            await client.call(Lone.do, None, timeout=0.3)
    assert await names(url) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


# --- who has lost its message

STEAL = "UPDATE ringpost.message SET fence = fence + 1 WHERE state = 5 AND kind = 2"


def robbed(url: str, engine: AsyncEngine) -> Service:
    """Make a service whose handler loses its message after it has written, at its first attempt."""
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Lone.do)
    async def do(nothing: None, ctx: Context, session: AsyncSession) -> None:
        session.add(Payment(name=f"by {len(KEPT)}"))
        await session.flush()
        await ctx.send(Lone.heard, None)
        KEPT.append(ctx.fence)
        if len(KEPT) == 1:
            await sql(url, STEAL)

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None:
        HEARD.append("heard")

    return service


class Lone(Contract):
    do = Operation(None)
    heard = Operation(None)


async def test_who_has_lost_its_message_commits_nothing(
    url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGPOST_LEASE", "1")
    async with town(url, engine, robbed(url, engine)) as client:
        await client.send(Lone.do, None)
        await until(lambda: HEARD == ["heard"])
    assert await names(url) == ["by 1"]
    assert len(KEPT) == 2
    assert "LeaseLost" in caplog.text


async def hasty(self: Any, settlement: Settlement | None, staged: Sequence[Message] = ()) -> bool:
    """Commit what the session wrote, and settle after that."""
    self._phase = "committing"
    await self.session.commit()
    await self.session.close()
    (settled,) = await self._store.settle([settlement])
    return bool(settled)


async def test_one_that_settles_after_its_commit_is_found(
    url: str, lone_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ringpost.sqlalchemy._Handling, "_commit", hasty)
    with pytest.raises(AssertionError, match="by 0"):
        await test_who_has_lost_its_message_commits_nothing(url, lone_engine, monkeypatch, caplog)


async def test_a_connection_that_breaks_has_the_message_handled_again(url: str, engine: AsyncEngine) -> None:
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Lone.do, retry=_TWICE)
    async def do(nothing: None, session: AsyncSession) -> None:
        KEPT.append(await session.scalar(text("SELECT pg_backend_pid()")))
        session.add(Payment(name=f"by {len(KEPT)}"))
        await session.flush()
        if len(KEPT) == 1:
            await sql(url, "SELECT pg_terminate_backend($1, 10000)", KEPT[0])

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None: ...

    async with town(url, engine, service) as client:
        await (await client.send(Lone.do, None)).result(GUARD_S)
    assert await names(url) == ["by 2"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


BREAKS = ["write", "send", "flush at the end"]


@pytest.mark.parametrize("how", BREAKS)
async def test_a_connection_that_breaks_before_the_commit_makes_a_call_unavailable(
    how: str, url: str, engine: AsyncEngine
) -> None:
    async def do(nothing: None, ctx: Context, session: AsyncSession) -> None:
        process = await session.scalar(text("SELECT pg_backend_pid()"))
        session.add(Payment(name=how))
        if how != "flush at the end":
            await session.flush()
        if how == "send":
            await ctx.send(Lone.heard, None)
        await sql(url, "SELECT pg_terminate_backend($1, 10000)", process)

    async with town(url, engine, lone(do, ringpost.sqlalchemy.session(engine))) as client:
        with pytest.raises(Unavailable) as caught:
            await client.call(Lone.do, None, attempts=1)
        assert caught.value.processed == "maybe"
        with pytest.raises(Unavailable):
            await client.call(Lone.do, None, attempts=1, idempotency_key="key")
    assert await names(url) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_session_outlives_no_handler(url: str, engine: AsyncEngine) -> None:
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Lone.do)
    async def do(nothing: None, session: AsyncSession) -> None:
        KEPT.append(session)

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None: ...

    async with town(url, engine, service) as client:
        await client.call(Lone.do, None)
        with pytest.raises(StateError, match="handling is over"):
            await KEPT[0].execute(text("SELECT 1"))
        await KEPT[0].close()


# --- makers and their classes


class Session(AsyncSession):
    """A session class of the program's own."""


async def test_a_session_makers_class_is_the_type_to_take(url: str, engine: AsyncEngine) -> None:
    maker = async_sessionmaker(engine, class_=Session, autoflush=False, info={"of": "maker"})
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(maker)])

    @service.implements(Lone.do)
    async def do(nothing: None, session: Session) -> None:
        KEPT.append((type(session).__name__, session.sync_session.autoflush, session.info["of"]))
        session.add(Payment(name="a"))

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None: ...

    async with town(url, engine, service) as client:
        await client.call(Lone.do, None)
    assert (KEPT, await names(url)) == ([("Session", False, "maker")], ["a"])


async def test_an_engine_that_is_a_resource_is_made_and_ended_with_the_service(url: str) -> None:
    async def engine() -> AsyncIterator[AsyncEngine]:
        made = create_async_engine(alchemy(url, "psycopg"))
        yield made
        await made.dispose()

    async def do(nothing: None, session: AsyncSession) -> None:
        session.add(Payment(name=f"{len(KEPT)}"))
        KEPT.append(session)

    service = lone(do, ringpost.sqlalchemy.session(), resources=[engine])
    for _ in range(2):
        async with serve(service, store=url, http=None) as client:
            await client.call(Lone.do, None)
    assert await names(url) == ["0", "1"]


# --- refused


def lone(handler: Any, *provides: Any, resources: Sequence[Any] = ()) -> Service:
    service = Service(Lone, provides=provides, resources=resources)
    service.implements(Lone.do)(handler)

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None:
        HEARD.append("heard")

    return service


async def starting(service: Service, store: str) -> str:
    with pytest.raises(UsageError) as caught:
        async with serve(service, store=store, http=None):
            pass
    return str(caught.value)


async def takes(nothing: None, session: AsyncSession) -> None: ...


async def test_a_store_elsewhere_is_refused_at_start(url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    provided = lone(takes, ringpost.sqlalchemy.session(engine))
    said = await starting(provided, f"sqlite:///{tmp_path / 'store.db'}")
    assert re.search(r"takes, which handles lone\.do, takes AsyncSession.*store\.db is in no PostgreSQL", said)
    assert "take a Transaction" in said
    assert "Harness(provides=[…])" in await starting(provided, "memory:")


async def test_another_database_is_refused_at_start(url: str, fast_postgres: RealPostgres) -> None:
    other = fast_postgres.url(fast_postgres.new_database())
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(alchemy(other, driver))
        said = await starting(lone(takes, ringpost.sqlalchemy.session(engine)), url)
        assert "is on another database than the store" in said
        assert f"session(postgresql+{driver}://" in said
        await engine.dispose()


async def test_an_engine_that_commits_each_statement_is_refused_at_start(url: str, engine: AsyncEngine) -> None:
    loose = engine.execution_options(isolation_level="AUTOCOMMIT")
    said = await starting(lone(takes, ringpost.sqlalchemy.session(loose)), url)
    assert "can't be a handler's transaction" in said


async def test_two_transactions_in_one_handler_are_refused_at_start(url: str, lone_engine: AsyncEngine) -> None:
    async def both(nothing: None, payments: Payments, tx: Transaction) -> None: ...

    provided = lone(both, ringpost.sqlalchemy.session(lone_engine), payments)
    assert "takes AsyncSession and Transaction" in await starting(provided, url)
    another = ringpost.sqlalchemy.session(async_sessionmaker(lone_engine, class_=Session))

    async def two(nothing: None, session: AsyncSession, other: Session) -> None: ...

    said = await starting(lone(two, ringpost.sqlalchemy.session(lone_engine), another), url)
    assert "one handling has one transaction" in said


async def test_a_handler_in_a_thread_is_refused_at_start(url: str, lone_engine: AsyncEngine) -> None:
    def threaded(nothing: None, session: AsyncSession) -> None: ...

    said = await starting(lone(threaded, ringpost.sqlalchemy.session(lone_engine)), url)
    assert "make it `async def`" in said


async def test_a_session_without_an_engine_is_refused_at_start(url: str, lone_engine: AsyncEngine) -> None:
    def each_time() -> AsyncEngine:
        return lone_engine

    assert "Nothing provides the parameter engine" in str(
        await starting(lone(takes, ringpost.sqlalchemy.session()), url)
    )
    assert "Service(resources=[…])" in await starting(lone(takes, ringpost.sqlalchemy.session(), each_time), url)


async def test_what_gives_no_such_session_is_refused_at_once(url: str, lone_engine: AsyncEngine) -> None:
    blocking_engine = create_engine(alchemy(url, "psycopg"))
    several = async_sessionmaker(lone_engine, binds={Payment: lone_engine})
    for bind, why in (
        (blocking_engine, "AsyncEngine"),
        (async_sessionmaker(), "needs an AsyncEngine"),
        (several, "over several"),
        (async_sessionmaker(AsyncConnection(lone_engine)), "has AsyncConnection"),
    ):
        with pytest.raises(UsageError, match=why):
            ringpost.sqlalchemy.session(bind)  # type: ignore[arg-type]


# --- in a test of the user's


class FakeSession(AsyncSession):
    """One that remembers what was added."""

    def add(self, instance: object, _warn: bool = True) -> None:
        KEPT.append(instance)


async def test_a_harness_takes_what_a_test_gives_in_its_place(url: str, lone_engine: AsyncEngine) -> None:
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
