"""Sessions that `client.outbox` takes: of each library with types, awaited or not. Each line marked `wrong` must be
refused, and no other."""

import sqlite3
from collections.abc import Sequence
from typing import Any, assert_type

import aiosqlite
import psycopg
from shop import Accounts, NewUser, User
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from ringpost import Client, Receipt, blocking

NEW = NewUser("ada@example.org", "Ada")
USER = User("1", "ada@example.org")


class OwnSession(AsyncSession):
    """One of the program's own."""


async def awaited(
    client: Client,
    session: AsyncSession,
    own: OwnSession,
    scoped: async_scoped_session[AsyncSession],
    connection: AsyncConnection,
    of_psycopg: psycopg.AsyncConnection[Any],
    of_aiosqlite: aiosqlite.Connection,
) -> None:
    assert_type(await client.outbox(session).send(Accounts.register, NEW), Receipt)
    assert_type(await client.outbox(own).send_all(Accounts.register, [NEW]), Sequence[Receipt])
    assert_type(await client.outbox(scoped).publish(Accounts.registered, USER), Receipt)
    await client.outbox(connection).send(Accounts.register, NEW, ordering_key="ada")
    await client.outbox(of_psycopg).send(Accounts.register, NEW)
    await client.outbox(of_aiosqlite).create_table()
    await client.outbox(session).send(Accounts.register, USER)  # wrong


def waiting(
    client: blocking.Client,
    session: Session,
    scoped: scoped_session[Session],
    connection: Connection,
    of_psycopg: psycopg.Connection[Any],
    of_sqlite3: sqlite3.Connection,
) -> None:
    assert_type(client.outbox(session).send(Accounts.register, NEW), blocking.Receipt)
    client.outbox(scoped).send(Accounts.register, NEW)
    client.outbox(connection).publish(Accounts.registered, USER)
    client.outbox(of_psycopg).send(Accounts.register, NEW, idempotency_key="k")
    client.outbox(of_sqlite3).create_table()
    client.outbox(session).send(Accounts.register, USER)  # wrong


async def wrong(
    client: Client,
    waits: blocking.Client,
    awaited: AsyncSession,
    waiting: Session,
    engine: AsyncEngine,
    blocking_engine: Engine,
    of_sqlite3: sqlite3.Connection,
    of_aiosqlite: aiosqlite.Connection,
) -> None:
    client.outbox(waiting)  # wrong
    client.outbox(of_sqlite3)  # wrong
    client.outbox(engine)  # wrong
    waits.outbox(awaited)  # wrong
    waits.outbox(of_aiosqlite)  # wrong
    waits.outbox(blocking_engine)  # wrong
    waits.outbox("sqlite:///shop.db")  # wrong
