"""One connection to PostgreSQL: SQL that names the schema `ringpost` goes to whichever schema the store has.

Nothing that matters is kept in a session: behind a pooler each transaction may meet another one. There, a statement of
its own is a transaction too, as its parts must not reach two sessions.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import asyncpg

from ringpost.contract.errors import StoreError
from ringpost.store.users_sql import may_leave

Row = Sequence[Any]

IDLE_S = 5.0  # a turn that stands idle for so long is undone by the server: others may wait for what it has locked

_LOST: tuple[type[BaseException], ...] = (
    OSError,  # among them TimeoutError: an answer that took too long
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # the server stops, has crashed, or starts
    asyncpg.InternalClientError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ProtocolViolationError,  # how a pooler says that it has lost the server
    asyncpg.IdleInTransactionSessionTimeoutError,
)


class Lost(Exception):
    """The connection is gone or of no use: whether a commit under way took place is not known."""


def is_lost(exc: BaseException) -> bool:
    """Say whether an error means that, and not that a statement was wrong."""
    if isinstance(exc, asyncpg.InterfaceError):
        return not isinstance(exc, asyncpg.DataError)
    return isinstance(exc, _LOST)


class Again(Exception):
    """Others were in the way at this very moment: roll back, and take the transaction again."""


class Forbidden(StoreError):
    """The role may not do what the store needs."""


def in_the_way() -> StoreError:
    """Say that others were in the way, however often it was tried."""
    return StoreError("others were in the way, several times over; nothing of this was kept. Repeating it is safe")


class Driver(Protocol):
    """What of an asyncpg connection is used."""

    async def fetch(self, query: str, *args: Any) -> list[Row]: ...
    async def execute(self, query: str, *args: Any) -> str: ...
    async def executemany(self, command: str, args: Sequence[Sequence[Any]]) -> None: ...
    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...
    async def close(self, *, timeout: float) -> None: ...
    def terminate(self) -> None: ...
    def is_closed(self) -> bool: ...
    def is_in_transaction(self) -> bool: ...


async def open_driver(
    dsn: str, *, connect_s: float, statement_s: float, cached: int, name: str | None = None
) -> Driver:
    """Connect; `name` is the session's on the server. Raises what asyncpg raises; the text of a ValueError may repeat
    the URL."""
    async with asyncio.timeout(connect_s + 1):
        found: Driver = await cast(Any, asyncpg).connect(
            dsn,
            timeout=connect_s,
            command_timeout=statement_s,
            statement_cache_size=cached,
            max_cached_statement_lifetime=0,
            server_settings=None if name is None else {"application_name": name},
        )
    return found


def is_said(exc: BaseException | None) -> bool:
    """Say whether the server itself raised an error."""
    return isinstance(exc, asyncpg.PostgresError)


def stood_idle(exc: BaseException | None) -> bool:
    """Say whether the server ended a transaction that nobody went on with."""
    return isinstance(exc, asyncpg.IdleInTransactionSessionTimeoutError)


def not_free(exc: BaseException) -> bool:
    """Say whether a lock was waited for as long as was allowed."""
    return isinstance(exc, asyncpg.LockNotAvailableError)


def idle_ms() -> int:
    """Give IDLE_S as the server takes it."""
    return round(IDLE_S * 1000)


def would_write(exc: BaseException) -> bool:
    """Say whether a statement was refused because it writes where only reading is allowed."""
    return isinstance(exc, asyncpg.ReadOnlySQLTransactionError)


def lost_fence(exc: BaseException) -> bool:
    """Say whether a settlement was refused because others have the row."""
    return is_said(exc) and getattr(exc, "sqlstate", "") == "RP001"


# A commit is worth what the server says, whatever a handler has set.
_WORTH = "SET LOCAL synchronous_commit = DEFAULT"
# What SQL may leave behind in its session: settings, roles, locks, cursors, temporary tables. Prepared statements stay.
_TIDY = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP"
)


class Db:
    """A connection. Once a statement was given up half-way or the server has gone, it is closed for good.

    `session`: its name on the server, where it is the same one for as long as it lasts. `asked_s`: since when a
    statement waits for its answer, by the monotonic clock. `untidy`: a handler may have changed the session in this
    transaction, whose end puts that in order. `gone` is told the name of a session that wasn't ended
    properly: it may live on there.
    """

    def __init__(
        self, driver: Driver, schema: str, *, pooled: bool, session: str | None, gone: Callable[[str], None]
    ) -> None:
        self.driver = driver
        self.session = session
        self._gone = gone
        self.asked_s: float | None = None
        self.untidy = False
        self._schema = schema
        self._pooled = pooled
        # Without a pooler it is set once for the session.
        self._begin = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {idle_ms()}" if pooled else "BEGIN"
        self._tidy = "" if pooled else f"; {_TIDY}; SET idle_in_transaction_session_timeout = {idle_ms()}"
        self._texts: dict[str, str] = {}

    @property
    def closed(self) -> bool:
        return self.driver.is_closed()

    @property
    def in_transaction(self) -> bool:
        return self.driver.is_in_transaction()

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        """Run one statement; a transaction of its own unless one is open."""
        if self._pooled and not self.driver.is_in_transaction():
            await self.begin()
            rows: list[Row] = await self._guarded(self.driver.fetch, sql, *values)
            await self.commit()
            return rows
        found: list[Row] = await self._guarded(self.driver.fetch, sql, *values)
        return found

    async def user_fetch(self, sql: str, *values: Any) -> list[Row]:
        """Run a handler's statement, as it stands."""
        self.untidy = self.untidy or may_leave(sql)
        found: list[Row] = await self._guarded_as_is(self.driver.fetch, sql, *values)
        return found

    async def user_repeat(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a handler's statement for many rows of values, in one go."""
        self.untidy = self.untidy or may_leave(sql)
        await self._guarded_as_is(self.driver.executemany, sql, rows)

    async def execute(self, sql: str) -> None:
        """Run statements without values."""
        await self._guarded(self.driver.execute, sql)

    async def begin(self) -> None:
        await self._guarded(self.driver.execute, self._begin)

    async def commit(self, last: str = "") -> None:
        """Commit, after a last statement, as it stands, in the same round trip."""
        end = f"{_WORTH}; COMMIT{self._tidy}" if self.untidy else "COMMIT"
        await self._colliding(self.driver.execute, f"{last}; {end}" if last else end)
        self.untidy = False

    async def roll_back(self) -> None:
        """Undo what is open. Where that can't be, the connection goes, and the server undoes it."""
        if self.driver.is_closed() or not self.driver.is_in_transaction():
            return
        self.asked_s = time.monotonic()
        try:
            await self.driver.execute(f"ROLLBACK{self._tidy}" if self.untidy else "ROLLBACK")
            self.untidy = False
        except BaseException as exc:
            self.terminate()
            if not isinstance(exc, Exception):
                raise
        finally:
            self.asked_s = None

    def terminate(self) -> None:
        if self.session is not None:
            self._gone(self.session)
        self.driver.terminate()

    async def close(self, timeout_s: float) -> None:
        try:
            await self.driver.close(timeout=timeout_s)
        except Exception as exc:
            if not is_lost(exc):
                raise
            self.terminate()

    async def _guarded(self, run: Callable[..., Any], sql: str, *values: Any) -> Any:
        """Run the store's own SQL. (A COMMIT isn't: what is refused there are checks of tables of handlers.)"""
        try:
            return await self._colliding(run, self.text(sql), *values)
        except asyncpg.InsufficientPrivilegeError as exc:
            raise Forbidden(
                f"the store's role may not do this: {exc}. It owns the store's schema, or makes one: GRANT CREATE ON"
                " DATABASE … TO …; docs/postgresql.md has all that it needs"
            ) from exc

    async def _colliding(self, run: Callable[..., Any], sql: str, *values: Any) -> Any:
        try:
            return await self._guarded_as_is(run, sql, *values)
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as exc:
            raise Again(str(exc)) from exc

    async def _guarded_as_is(self, run: Callable[..., Any], sql: str, *values: Any) -> Any:
        self.asked_s = time.monotonic()
        try:
            return await run(sql, *values)
        except asyncio.CancelledError:
            self.terminate()  # its answer may still come: nobody else may read it
            raise
        except Exception as exc:
            if not is_lost(exc):
                raise
            self.terminate()
            raise Lost(str(exc) or type(exc).__name__) from exc
        finally:
            self.asked_s = None

    def text(self, sql: str) -> str:
        """Put the store's schema into SQL."""
        text = self._texts.get(sql)
        if text is None:
            if len(self._texts) >= 1000:  # some SQL is made as it is needed
                self._texts.clear()
            text = self._texts[sql] = in_schema(sql, self._schema)
        return text


def in_schema(sql: str, schema: str) -> str:
    """Give SQL of the store for the schema that it is in."""
    return sql.replace("ringpost.", f'"{schema}".')


def refused(exc: BaseException, where: str) -> StoreError:
    """Say that the server can't be reached or doesn't do as asked, without what a URL may carry."""
    what = str(exc).strip() or type(exc).__name__
    error = StoreError(f"the store {where} is not there: {what}")
    error.__cause__ = exc
    return error
