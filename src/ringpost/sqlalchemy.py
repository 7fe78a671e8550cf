"""SQLAlchemy's AsyncSession as a handler's transaction, where the store is in the same PostgreSQL database.

    orders = Service(Orders, provides=[ringpost.sqlalchemy.session(engine)])

    @orders.implements(Orders.place)
    async def place(order: Order, session: AsyncSession, ctx: Context) -> int: ...

What the session wrote, what the handler sent, its outcome and its settlement are one commit, the session's own. Needs
`ringpost[sqlalchemy]`, and asyncpg or psycopg 3 as the engine's driver.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

try:
    from sqlalchemy import event, text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "ringpost.sqlalchemy needs SQLAlchemy: pip install 'ringpost[sqlalchemy]'", name=missing.name
    ) from missing

from ringpost.contract.errors import StateError, StoreError, UsageError
from ringpost.contract.vocabulary import Provider
from ringpost.core.message import Message, Settlement
from ringpost.service.context import Context
from ringpost.service.dry_run import DryRun
from ringpost.service.lender import Lender
from ringpost.store import users_sql
from ringpost.store.lent import lost_connection
from ringpost.store.port import Joining

__all__ = ["session"]

DRIVERS = ("asyncpg", "psycopg")

_ENGINES_MAX = 16
_HANDLING = "ringpost_handling"  # the execution option by which a connection knows whose it is
_LOOK = text("SET CONSTRAINTS ALL IMMEDIATE")  # as a commit looks at them
_LOG = logging.getLogger("ringpost.service")

Bind = AsyncEngine | async_sessionmaker[Any]


def session(bind: Bind | None = None, /) -> Provider:
    """Provide handlers with a session of an engine, or of an `async_sessionmaker`: give it to `Service(provides=[…])`.
    Without either, the engine is the service's resource of the type AsyncEngine.

    A handler that takes it, `session: AsyncSession`, ends in its transaction: what it wrote and sent, its outcome and
    its settlement commit together, under the fence, or nothing does. Each handling has a session of its own, which is
    flushed, committed and closed by Ringpost; the handler itself may roll back, also to a savepoint
    (`session.begin_nested()`), but not commit. A session maker's class is the type to take; sessions made from an
    engine don't expire what they hold at the commit.

    Raises UsageError for an engine that isn't on PostgreSQL by asyncpg or psycopg 3. Whether it is on the store's
    database is looked at when the service starts.
    """
    return _SessionsOfResource() if bind is None else _Sessions(bind)


class _Sessions(Lender):
    """The sessions that one engine lends to handlings."""

    def __init__(self, bind: Bind) -> None:
        if isinstance(bind, AsyncEngine):
            bind = async_sessionmaker(bind, expire_on_commit=False)
        if not isinstance(bind, async_sessionmaker):
            raise UsageError(
                "ringpost.sqlalchemy.session takes an AsyncEngine (of create_async_engine) or an async_sessionmaker, "
                f"not {type(bind).__name__}."
            )
        self._maker = bind
        self._engine = _watched(_engine_of(bind))
        self.provides = _class_of(bind)

    def __repr__(self) -> str:
        return f"ringpost.sqlalchemy.session({self._engine.url.render_as_string(hide_password=True)})"

    def __call__(self, ctx: Context) -> object:
        handling = _Handling(cast(Joining, ctx._store()), ctx._means.dry)  # it was looked at when the service started
        # An engine that shares the pool, and whose connections know their handling.
        made: AsyncSession = self._maker(bind=self._engine.execution_options(**{_HANDLING: handling}))
        handling.session = made
        ctx._end_with(handling)
        return made

    async def check(self, store: Joining, resources: Mapping[object, object]) -> None:
        async with self._maker(bind=self._engine.execution_options(**{_HANDLING: _Unbound()})) as asking:
            try:
                joins = await store.joins(asking)
            except UsageError as exc:
                raise UsageError(f"{self!r} can't be a handler's transaction: {exc}") from exc
            except Exception as exc:
                raise StoreError(f"{self!r} could not be asked whether it is on the store's database: {exc}") from exc
        if not joins:
            raise UsageError(
                f"{self!r} is on another database than the store: one commit can't be over both. Keep the store in the "
                "session's database, or let the handler make and commit a session of its own, repeatably: its message "
                "may come again after that commit."
            )


class _SessionsOfResource(Lender):
    """The sessions of whichever engine is the service's resource."""

    provides = AsyncSession

    def __init__(self) -> None:
        self._known: dict[AsyncEngine, _Sessions] = {}

    def __repr__(self) -> str:
        return "ringpost.sqlalchemy.session()"

    def __call__(self, ctx: Context, engine: AsyncEngine) -> object:
        return self._known[engine](ctx)

    async def check(self, store: Joining, resources: Mapping[object, object]) -> None:
        engine = resources.get(AsyncEngine)
        if not isinstance(engine, AsyncEngine):
            raise UsageError(
                f"{self!r} takes the engine from a resource: name what makes it in Service(resources=[…])."
            )
        if len(self._known) >= _ENGINES_MAX:  # of services that ran here before, as in tests
            del self._known[next(iter(self._known))]
        self._known[engine] = _Sessions(engine)
        await self._known[engine].check(store, resources)


class _Handling:
    """A session as a handling's transaction: see `HandlingTransaction`."""

    __slots__ = ("_dry", "_phase", "_store", "_wrote", "session")

    session: AsyncSession

    def __init__(self, store: Joining, dry: DryRun | None) -> None:
        self._store = store
        self._dry = dry
        self._phase: Literal["open", "over", "committing"] = "open"
        self._wrote = False

    # --- for the pipeline

    @property
    def _used(self) -> bool:
        return self.session.in_transaction()

    @property
    def _only_deferred(self) -> None:
        return None

    def _end(self) -> None:
        self._phase = "over"

    async def _commit(self, settlement: Settlement | None, staged: Sequence[Message] = ()) -> bool:
        self._phase = "committing" if self._dry is None else "open"  # in which nobody commits, nor does this
        try:
            await self.session.flush()
            if self._dry is not None:
                await self.session.execute(_LOOK)
                self._dry.capture(staged)  # by a call: a message's are in its settlement
                return True
            if settlement is None and not staged:  # a call that tells nobody
                await self.session.commit()
                return True
            end = await self._store.join_end(settlement, staged)
            if not await end.settle(self.session):
                return False
            await self.session.commit()
        except (DBAPIError, OSError) as exc:
            if not (lost_connection(exc) or getattr(exc, "connection_invalidated", False)):
                raise
            raise StoreError(f"the session's database did not answer: {exc}") from exc
        finally:
            await self._rollback()  # of what was committed there is nothing to undo
        end.committed()
        return True

    async def _rollback(self) -> None:
        self._phase = "over"
        try:
            await self.session.close()
        except Exception:  # noqa: BLE001 (with its connection goes whatever was open in it)
            _LOG.warning("a handler's session could not be closed; its connection goes", exc_info=True)
            await self.session.invalidate()

    # --- for the events of its connection

    def sees(self, sql: str) -> None:
        """Look at a statement before it runs."""
        if self._phase == "over":
            raise StateError(
                "This handling is over: what its session wrote has been committed or undone. Await what a handler "
                "starts before it returns."
            )
        if word := users_sql.ends(sql):
            raise _not_yours(word)
        self._wrote = self._wrote or users_sql.may_write(sql)

    def commits(self) -> None:
        """Let nobody commit but the end of the handling."""
        if self._phase != "committing":
            raise _not_yours("commit")

    def rolled_back(self) -> None:
        """Know that nothing of it is there any more."""
        self._wrote = False


class _Unbound:
    """Who only asks the server something."""

    def sees(self, sql: str) -> None: ...
    def commits(self) -> None: ...
    def rolled_back(self) -> None: ...


def _not_yours(word: str) -> UsageError:
    return UsageError(
        f"{word} is not for handlers: the session commits with the handling's outcome, once the handler has returned. "
        "Just return; to undo a part, write it within `async with session.begin_nested():`."
    )


def _engine_of(maker: async_sessionmaker[Any]) -> AsyncEngine:
    engine = maker.kw.get("bind")
    if maker.kw.get("binds") or maker.kw.get("twophase"):
        raise UsageError("A handler's session has one engine: one commit can't be over several (binds=, twophase=).")
    if not isinstance(engine, AsyncEngine):
        raise UsageError(f"A handler's session needs an AsyncEngine: this session maker has {type(engine).__name__}.")
    dialect, driver = engine.dialect.name, engine.dialect.driver
    if dialect != "postgresql" or driver not in DRIVERS:
        raise UsageError(
            f"A handler's session is on PostgreSQL, by asyncpg or psycopg 3, where the store is too; not on "
            f"{dialect}+{driver}. With a store in a SQLite file take a Transaction: its tables are in that file."
        )
    return engine


def _class_of(maker: async_sessionmaker[Any]) -> type[AsyncSession]:
    """Give the class as its author knows it; SQLAlchemy 2.0 derives one of its own from it."""
    kinds = cast("type[AsyncSession]", maker.class_).__mro__
    return next(kind for kind in kinds if kind is AsyncSession or not kind.__module__.startswith("sqlalchemy."))


def _watched(engine: AsyncEngine) -> AsyncEngine:
    """Give an engine that shares another's pool, and whose connections tell their handling what happens on them."""
    watched = engine.execution_options(**{_HANDLING: _Unbound()})
    event.listen(watched.sync_engine, "before_cursor_execute", _sees)
    event.listen(watched.sync_engine, "commit", _commits)
    event.listen(watched.sync_engine, "rollback", _rolled_back)
    return watched


def _sees(connection: Any, cursor: object, sql: str, *more: object) -> None:
    connection.get_execution_options()[_HANDLING].sees(sql)


def _commits(connection: Any) -> None:
    try:
        connection.get_execution_options()[_HANDLING].commits()
    except UsageError:
        # SQLAlchemy takes the transaction for ended whatever is raised here, and would hand the connection to the next
        # with everything open that was written: who commits then would commit this.
        connection.invalidate()
        raise


def _rolled_back(connection: Any) -> None:
    connection.get_execution_options()[_HANDLING].rolled_back()
