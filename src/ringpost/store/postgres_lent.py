"""A transaction that is somebody else's: what puts messages and ends of handlings into it, whichever library began it.

The statements are the store's own, with `$1`. asyncpg takes them as they are, psycopg 3 by its raw cursors; SQLAlchemy
and Django have one of these two beneath. Libraries are told apart by the session, so that none is loaded here that the
program doesn't use. Nothing is committed, rolled back or set on a connection that was lent.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core.message import Message, Settlement
from ringpost.store import postgres_handling, postgres_put, postgres_read
from ringpost.store.port import Put
from ringpost.store.postgres_db import Again, Db, Row, in_schema, is_lost
from ringpost.store.postgres_turn import Queues, Turn

ROWS_MAX = 1000  # of one statement
_OURS = "SELECT to_regclass('ringpost.meta') IS NOT NULL"
_STORE_ID = "SELECT value FROM ringpost.meta WHERE key = 'store_id'"
_NOT_BEGUN = (
    "this connection is in no transaction, so there is no commit that the message could leave with: {how}, or use "
    "client.send, which commits at once"
)


class Fetch(Protocol):
    """Run a statement in the transaction that was lent, and give its rows."""

    async def __call__(self, sql: str, /, *values: object) -> Sequence[Row]: ...


class Joined:
    """Messages for a store's tables, to be put in a transaction of somebody else. `queues` are known to the store."""

    def __init__(self, store_id: str, schema: str, queues: Queues, messages: Sequence[Message]) -> None:
        self._store_id = store_id
        self._schema = schema
        self._queues = queues
        self._messages = messages

    async def put(self, session: object, *, blocking: bool) -> list[Put]:
        """Put them, one answer each; they are there once the session commits. `blocking`: the session waits in its
        thread. Raises UsageError for a session of no use, StoreError where the transaction can't go on."""
        lent = _Lent(await _fetch_of(session, blocking=blocking), self._schema)
        if not await _has_store(lent, self._store_id):
            raise UsageError(
                "this session is on another database than the store: one commit can't be over both. Keep the store "
                f"(schema {self._schema}) in the session's database, or use client.send after the commit"
            )
        turn = Turn(cast(Db, lent), self._queues)  # to put is to fetch
        try:
            puts: list[Put] = []
            for at in range(0, len(self._messages), ROWS_MAX):
                puts += await postgres_put.put_all(turn, self._messages[at : at + ROWS_MAX], None)
            if turn.missed:
                await postgres_read.count_gaps(turn)
        except Again as exc:
            raise StoreError("others were in the way of this transaction: roll it back, and take it again") from exc
        return puts


class JoinedEnd:
    """See `port.JoinedEnd`. `queues` are known to the store; `told` hears what a commit brought."""

    def __init__(
        self,
        schema: str,
        queues: Queues,
        settlement: Settlement | None,
        staged: Sequence[Message],
        told: Callable[[Turn], None],
    ) -> None:
        self._schema = schema
        self._queues = queues
        self._settlement = settlement
        self._staged = staged
        self._told = told
        self._turn: Turn | None = None

    async def settle(self, session: object) -> bool:
        lent = _Lent(await _fetch_of(session, blocking=False), self._schema)
        self._turn = turn = Turn(cast(Db, lent), self._queues)  # to end is to fetch
        try:
            return await postgres_handling.end(turn, self._settlement, self._staged)
        except Again as exc:
            raise StoreError("others were in the way of this commit; nothing of it was kept") from exc
        except Exception as exc:
            if not is_lost(exc):
                raise
            raise StoreError(f"the database did not answer: {exc}") from exc

    def committed(self) -> None:
        assert self._turn is not None
        self._told(self._turn)


async def is_on_store(session: object, store_id: str, schema: str) -> bool:
    """Ask a session's server whether a store is in its database."""
    return await _has_store(_Lent(await _fetch_of(session, blocking=False), schema), store_id)


async def _has_store(lent: "_Lent", store_id: str) -> bool:
    """Look before the first write: a statement that fails would spoil the transaction."""
    there = (await lent.fetch(_OURS))[0][0]
    return bool(there) and (await lent.fetch(_STORE_ID))[0][0] == store_id


class _Lent:
    """A lent connection, as the store's SQL is written for."""

    def __init__(self, fetch: Fetch, schema: str) -> None:
        self._fetch = fetch
        self._schema = schema

    async def fetch(self, sql: str, *values: object) -> Sequence[Row]:
        return await self._fetch(in_schema(sql, self._schema), *values)


async def _fetch_of(session: Any, *, blocking: bool) -> Fetch:
    match _library(session):
        case "sqlalchemy":
            return await _of_sqlalchemy(session, blocking=blocking)
        case "django":
            return _of_django(session, blocking=blocking)
        case _:
            return _of_driver(session, blocking=blocking)


async def _of_sqlalchemy(session: Any, *, blocking: bool) -> Fetch:
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


def _of_django(session: Any, *, blocking: bool) -> Fetch:
    _check_kind(waits=False, blocking=blocking)
    if not session.in_atomic_block and session.get_autocommit():
        raise UsageError(_NOT_BEGUN.format(how="send within `with transaction.atomic():`"))
    session.ensure_connection()
    return _of_driver(session.connection, blocking=blocking)


def _of_driver(connection: Any, *, blocking: bool) -> Fetch:
    library = _library(connection)
    if library == "asyncpg":
        return _of_asyncpg(connection, blocking=blocking)
    if library == "psycopg":
        return _of_psycopg(connection, blocking=blocking)
    raise UsageError(
        f"client.outbox takes a session or connection of SQLAlchemy, Django, asyncpg or psycopg 3 on PostgreSQL, not "
        f"{type(connection).__module__}.{type(connection).__qualname__}"
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

    async def fetch(sql: str, /, *values: object) -> Sequence[Row]:
        if blocking:
            with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(sql.encode(), values)
                return cursor.fetchall() if cursor.description else []
        async with psycopg.AsyncRawCursor(connection, row_factory=tuple_row) as waiting:
            await waiting.execute(sql.encode(), values)
            return await waiting.fetchall() if waiting.description else []

    return fetch


def _check_kind(*, waits: bool, blocking: bool) -> None:
    if waits and blocking:
        raise UsageError("this session is awaited: take ringpost.Client and `await client.outbox(session).send(…)`")
    if not waits and not blocking:
        raise UsageError("this session would keep the event loop waiting: take ringpost.blocking.Client in its thread")


def _library(session: object) -> str:
    """Give the library that a session is of; a subclass of the program's own counts as what it is derived from."""
    for kind in type(session).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in ("asyncpg", "django", "psycopg", "sqlalchemy"):
            return name
    return ""
