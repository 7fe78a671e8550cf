"""Handling: handlers against what they implement. Each line marked `wrong` must be refused, and no other."""

from datetime import timedelta
from typing import assert_type

from shop import Accounts, Circle, EmailTaken, Filter, NewUser, OutOfStock, Square, User
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import ringpost.sqlalchemy
from ringpost import Context, DeadLetter, Outcome, Retry, Service, Tick


class Database:
    """Stands for what a service provides."""


async def database() -> Database:
    return Database()


accounts = Service(Accounts, name="accounts", provides=[database], limiter="fixed", call_queue=10)


@accounts.implements(Accounts.register, concurrency=20, retry=Retry(attempts=3), max_run=timedelta(minutes=1))
async def register(new: NewUser, ctx: Context, db: Database) -> User:
    await ctx.send(Accounts.welcome, User("1", new.email))
    return User("1", new.email)


@accounts.implements(Accounts.register)
async def register_or_not(new: NewUser) -> User | EmailTaken:
    return EmailTaken(new.email)


@accounts.implements(Accounts.register)
def register_in_a_thread(new: NewUser) -> User:
    return User("1", new.email)


stored = Service(
    Accounts,
    provides=[ringpost.sqlalchemy.session(create_async_engine("postgresql+asyncpg://")), ringpost.sqlalchemy.session()],
)
made = Service(Accounts, provides=[ringpost.sqlalchemy.session(async_sessionmaker[AsyncSession]())])


@stored.implements(Accounts.register)
async def register_in_a_session(new: NewUser, session: AsyncSession, ctx: Context) -> User:
    return User("1", new.email)


@accounts.implements(Accounts.find, retry={ConnectionError: Retry(attempts=5)})
async def find(wanted: Filter) -> User | None:
    return None


@accounts.implements(Accounts.area, limiter="gradient", call_queue=0)
async def area(shape: Circle | Square) -> float:
    return 1.0


@accounts.implements(Accounts.ping)
async def ping(nothing: None) -> int:
    return 1


@accounts.implements(Accounts.welcome)
async def welcome(user: User) -> None:
    pass


@accounts.implements(Accounts.registered_outcome)
async def registered(outcome: Outcome[NewUser, User]) -> None:
    outcome.result()


@accounts.on(Accounts.registered, name="count", from_beginning=True, concurrency=2)
async def count(user: User, ctx: Context) -> None:
    pass


@accounts.schedule("0 3 * * *", tz="Europe/Berlin", overlap=True)
async def nightly(tick: Tick) -> None:
    pass


@accounts.schedule(every=60, name="minute")
def each_minute(tick: Tick) -> None:
    pass


@accounts.on_failure
async def failed(letter: DeadLetter) -> None:
    pass


async def direct(ctx: Context, db: Database) -> None:
    # The decorator gives the function back as it is.
    assert_type(await register(NewUser("a", "b"), ctx, db), User)
    assert_type(register_in_a_thread(NewUser("a", "b")), User)


async def takes_user(user: User) -> User:
    return user


async def replies_str(new: NewUser) -> str:
    return new.email


async def replies_nothing(new: NewUser) -> None:
    pass


async def takes_nothing() -> User:
    return User("1", "a")


def replies_str_in_a_thread(new: NewUser) -> str:
    return new.email


async def problem_or_str(new: NewUser) -> str | OutOfStock:
    return new.email


accounts.implements(Accounts.register)(takes_user)  # wrong
accounts.implements(Accounts.register)(replies_str)  # wrong
accounts.implements(Accounts.register)(replies_nothing)  # wrong
accounts.implements(Accounts.register)(takes_nothing)  # wrong
accounts.implements(Accounts.register)(replies_str_in_a_thread)  # wrong
accounts.implements(Accounts.register)(problem_or_str)  # wrong
accounts.implements(Accounts.registered)  # wrong
accounts.implements(Accounts.register, timeout=2)  # wrong
accounts.implements(Accounts.register, concurrency="many")  # wrong
accounts.implements(Accounts.register, limiter="vegas")  # wrong
accounts.on(Accounts.register)  # wrong
accounts.on(Accounts.registered)(register)  # wrong
accounts.schedule()  # wrong
accounts.schedule("* * * * *", every=5)  # wrong
accounts.schedule(every=60)(welcome)  # wrong
accounts.on_failure(welcome)  # wrong
ringpost.sqlalchemy.session("postgresql://")  # wrong
ringpost.sqlalchemy.session(create_engine("postgresql+psycopg://"))  # wrong
Service(Accounts.register)  # wrong
Service(Accounts())  # wrong
Service(Accounts, limiter=3)  # wrong
