"""A bank whose handlers work with an AsyncSession on the database of their store, and end as they are asked to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from sqlalchemy import String, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ringpost.sqlalchemy
from ringpost import Client, Context, Contract, Event, Operation, Outcome, Problem, Retry, Service, UsageError, serve

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
TWICE = Retry(attempts=2, first=0.01, longest=0.01)


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
    service.implements(Bank.pay, retry=TWICE)(work)
    service.implements(Bank.keyed, retry=TWICE)(work)

    @service.implements(Bank.lined, retry=TWICE)
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


def alchemy(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


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


class Lone(Contract):
    do = Operation(None)
    heard = Operation(None)


def lone(handler: Any, *provides: Any, resources: Sequence[Any] = ()) -> Service:
    service = Service(Lone, provides=provides, resources=resources)
    service.implements(Lone.do)(handler)

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None:
        HEARD.append("heard")

    return service
