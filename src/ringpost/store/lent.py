"""A transaction that is somebody else's, lent for some statements: whichever library it was begun with, on PostgreSQL
and SQLite.

Statements go in as the database has them: with `$1` to PostgreSQL, which asyncpg takes as they are and psycopg 3 by its
raw cursors; with `?` to SQLite, which sqlite3 and aiosqlite take. SQLAlchemy and Django have one of these four beneath.
Libraries are told apart by the session, so that none is loaded here that the program doesn't use. Nothing is committed,
rolled back or set on a connection that was lent.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.store.port import Fetch

Dialect = Literal["postgresql", "sqlite"]

_NOT_BEGUN = (
    "this connection is in no transaction, so there is no commit that the message could leave with: {how}, or use "
    "client.send, which commits at once"
)
_LIBRARIES = ("aiosqlite", "asyncpg", "django", "psycopg", "sqlalchemy", "sqlite3")
_LOST_STATES = ("08", "57P", "25P03")  # of the connection, the server's end, a transaction that stood idle for too long
_LEGACY = -1  # sqlite3.LEGACY_TRANSACTION_CONTROL, which Python 3.11 hasn't


class Lent(Struct, frozen=True):
    """What is lent: the database's kind, and what runs a statement in its transaction."""

    dialect: Dialect
    fetch: Fetch


async def borrow(session: Any, *, blocking: bool) -> Lent:
    """Borrow the transaction of a session or connection. `blocking`: it waits in its thread, and so does this then,
    without ever waiting for an event loop. Raises UsageError for one of no use, before anything is written."""
    match _library(session):
        case "sqlalchemy":
            return await _of_sqlalchemy(session, blocking=blocking)
        case "django":
            return _of_django(session, blocking=blocking)
        case _:
            return _of_driver(session, blocking=blocking)


def lost_connection(error: BaseException) -> bool:
    """Say whether a driver's error, or SQLAlchemy's of one, means that its connection to PostgreSQL is of no use, and
    not that a statement was wrong. psycopg has no SQLSTATE for what it finds out by itself."""
    error = getattr(error, "orig", None) or error
    state = getattr(error, "sqlstate", None)
    if state:
        return str(state).startswith(_LOST_STATES)
    is_operational = any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)
    return isinstance(error, OSError) or (is_operational and _library(error) == "psycopg")


async def _of_sqlalchemy(session: Any, *, blocking: bool) -> Lent:
    if any(kind.__module__.startswith("sqlalchemy.ext.asyncio") for kind in type(session).__mro__):
        _check_kind(waits=True, blocking=blocking)
        connection = session if hasattr(session, "sync_connection") else await session.connection()
        raw = await connection.get_raw_connection()
        if _library(raw.driver_connection) == "asyncpg" and not raw.driver_connection.is_in_transaction():
            await connection.exec_driver_sql("SELECT 1")  # with asyncpg it begins at its first statement
    else:
        _check_kind(waits=False, blocking=blocking)
        connection = session.connection() if callable(getattr(session, "connection", None)) else session
        connection.exec_driver_sql("SELECT 1")
        raw = connection.connection
    return _of_driver(raw.driver_connection, blocking=blocking)


def _of_django(session: Any, *, blocking: bool) -> Lent:
    _check_kind(waits=False, blocking=blocking)
    if not session.in_atomic_block and session.get_autocommit():
        raise UsageError(_NOT_BEGUN.format(how="send within `with transaction.atomic():`"))
    session.ensure_connection()
    return _of_driver(session.connection, blocking=blocking)


def _of_driver(connection: Any, *, blocking: bool) -> Lent:
    match _library(connection):
        case "asyncpg":
            return Lent("postgresql", _of_asyncpg(connection, blocking=blocking))
        case "psycopg":
            return Lent("postgresql", _of_psycopg(connection, blocking=blocking))
        case "sqlite3":
            return Lent("sqlite", _of_sqlite3(connection, blocking=blocking))
        case "aiosqlite":
            return Lent("sqlite", _of_aiosqlite(connection, blocking=blocking))
        case _:
            raise UsageError(
                "client.outbox takes a session or connection of SQLAlchemy, Django, asyncpg, psycopg 3, sqlite3 or "
                f"aiosqlite, on PostgreSQL or SQLite, not {type(connection).__module__}."
                f"{type(connection).__qualname__}"
            )


def _of_asyncpg(connection: Any, *, blocking: bool) -> Fetch:
    _check_kind(waits=True, blocking=blocking)
    if not connection.is_in_transaction():
        raise UsageError(_NOT_BEGUN.format(how="send within `async with connection.transaction():`"))
    return cast(Fetch, connection.fetch)


def _of_psycopg(connection: Any, *, blocking: bool) -> Fetch:
    import psycopg
    from psycopg.pq import TransactionStatus
    from psycopg.rows import tuple_row

    _check_kind(waits=isinstance(connection, psycopg.AsyncConnection), blocking=blocking)
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise UsageError(_NOT_BEGUN.format(how="send within `with connection.transaction():`"))

    async def fetch(sql: str, /, *values: object) -> Sequence[Sequence[Any]]:
        if blocking:
            with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(sql.encode(), values)
                return cursor.fetchall() if cursor.description else []
        async with psycopg.AsyncRawCursor(connection, row_factory=tuple_row) as waiting:
            await waiting.execute(sql.encode(), values)
            return await waiting.fetchall() if waiting.description else []

    return fetch


def _of_sqlite3(connection: Any, *, blocking: bool) -> Fetch:
    _check_kind(waits=False, blocking=blocking)
    _check_begins(connection)

    async def fetch(sql: str, /, *values: object) -> Sequence[Sequence[Any]]:
        cursor = connection.cursor()
        cursor.row_factory = None  # the connection may have one of the program's
        try:
            return cast(Sequence[Sequence[Any]], cursor.execute(sql, values).fetchall())
        finally:
            cursor.close()

    return fetch


def _of_aiosqlite(connection: Any, *, blocking: bool) -> Fetch:
    _check_kind(waits=True, blocking=blocking)
    _check_begins(connection)

    async def fetch(sql: str, /, *values: object) -> Sequence[Sequence[Any]]:
        async with connection.cursor() as cursor:
            cursor.row_factory = None
            await cursor.execute(sql, values)
            return cast(Sequence[Sequence[Any]], await cursor.fetchall())

    return fetch


def _check_begins(connection: Any) -> None:
    """See that on SQLite what is written waits for a commit: one is open, or Python begins one by itself."""
    autocommit = getattr(connection, "autocommit", _LEGACY)
    begins = connection.isolation_level is not None if autocommit == _LEGACY else not autocommit
    if not begins and not connection.in_transaction:
        raise UsageError(_NOT_BEGUN.format(how='execute "BEGIN" first'))


def _check_kind(*, waits: bool, blocking: bool) -> None:
    if waits and blocking:
        raise UsageError("this session is awaited: take ringpost.Client and `await client.outbox(session).send(…)`")
    if not waits and not blocking:
        raise UsageError("this session would keep the event loop waiting: take ringpost.blocking.Client in its thread")


def _library(session: object) -> str:
    """Give the library that a session is of; a subclass of the program's own counts as what it is derived from."""
    for kind in type(session).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _LIBRARIES:
            return name
    return ""
