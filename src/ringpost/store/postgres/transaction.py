"""A handler's SQL and the end of its handling in one transaction, on a connection of its own.

Nobody waits for it but who writes the same rows. What holds it in check is the server: a transaction that stands idle
for a minute is rolled back, as it keeps the whole database from being cleaned.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ringpost.contract.errors import StoreError, TransactionHeldTooLong, UsageError
from ringpost.core.message import Message, Settlement, Statement
from ringpost.store import users_sql
from ringpost.store.postgres import handling, settle
from ringpost.store.postgres.db import Again, Db, Lost, Row, stood_idle, would_write
from ringpost.store.postgres.link import PATIENCE_S, Link
from ringpost.store.postgres.turn import Queues, Turn

CONNECTIONS_MAX = 16
IDLE_S_MAX = 60.0

Found = TypeVar("Found")


class Pool:
    """The connections of transactions: as many as are open at once, at most CONNECTIONS_MAX; the others wait. The
    server ends one that stands idle for `idle_s`."""

    def __init__(self, new: Callable[[], Link], side: Link, idle_s: float = IDLE_S_MAX) -> None:
        self.idle_s = idle_s
        self._new = new
        self._side = side
        self._queues = Queues()
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[Link] = []
        self._mending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self) -> tuple[Link, Db]:
        await self._free.acquire()
        link = self._idle.pop() if self._idle else self._new()
        try:
            return link, await link.get(time.monotonic() + PATIENCE_S)
        except BaseException:
            await self.give(link)
            raise

    async def know(self, names: set[str]) -> Queues:
        """Give the queues of these names and all that are known. New ones are made in a commit of their own: a number
        that a transaction made and took back must not be remembered."""
        if not names <= self._queues.by_name.keys():
            await self._side.read(lambda db: self._queues.make(db, names))
        return self._queues.copy()

    async def give(self, link: Link) -> None:
        self._free.release()
        if self._closed:
            await link.close()
        elif link.lost:
            task = asyncio.get_running_loop().create_task(self._mend(link))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)
        else:
            self._idle.append(link)

    async def _mend(self, link: Link) -> None:
        """Connect anew at once: until then a session of before may hold what others wait for."""
        while not self._closed:
            try:
                await link.get(time.monotonic() + PATIENCE_S)
            except StoreError:
                continue
            self._idle.append(link)
            return

    async def close(self) -> None:
        self._closed = True
        for task in self._mending:
            task.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(link.close() for link in idle))  # at once: each may have to be waited for


class PostgresTransaction:
    """See `port.SqlTransaction`. `committed` is told what a commit brought."""

    def __init__(
        self,
        pool: Pool,
        schema: str,
        where: Callable[[], str],
        committed: Callable[[Turn], None],
        *,
        alone: bool = False,
    ) -> None:
        self._pool = pool
        self._begin = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {round(pool.idle_s * 1000)}"
        if alone:
            self._begin += f"; {users_sql.ALONE}"
        self._schema = schema
        self._where = where
        self._committed = committed
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._db: Db | None = None
        self._begun = False
        self._used_s = time.monotonic()  # when the last statement ended
        self._over = False

    @property
    def begun(self) -> bool:
        return self._begun

    @property
    def connection(self) -> Any:
        """The asyncpg connection, inside the transaction. It is the handling's only while the handling lasts."""
        if self._db is None:
            raise UsageError("the transaction has not begun: `await tx.lock()` begins it")
        self._db.untidy = True  # what is done with it isn't seen
        return self._db.driver

    async def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        sql, values = users_sql.positional(statement)
        users_sql.check(sql, self._schema)
        async with self._lock:
            self._check_open()
            if self._db is None and users_sql.may_read_only(sql):
                rows = await self._read(sql, values)
                if rows is not None:
                    return [tuple(row) for row in rows]
            db = await self._opened()
            return [tuple(row) for row in await self._guarded(db.user_fetch(sql, *values))]

    async def lock(self) -> None:
        async with self._lock:
            self._check_open()
            await self._opened()

    async def commit(
        self, settlement: Settlement | None, staged: Sequence[Message] = (), sql: Sequence[Statement] = ()
    ) -> bool:
        async with self._lock:
            self._check_open()
            db = await self._opened()
            try:
                won = await self._guarded(self._end(db, settlement, staged, sql))
            except Again as exc:
                await self._undo()
                raise StoreError("others were in the way of this commit; nothing of it was kept") from exc
            except BaseException:
                await self._undo()
                raise
            await self._undo()  # of what was committed there is nothing to undo
            return won

    async def rehearse(self, sql: Sequence[Statement] = ()) -> None:
        async with self._lock:
            self._check_open()
            try:
                if sql or self._begun:
                    await self._guarded(self._look(await self._opened(), sql))
            except Again as exc:
                raise StoreError("others were in the way of this rehearsal; take it again") from exc
            finally:
                await self._undo()

    async def rollback(self) -> None:
        async with self._lock:
            await self._undo()

    # --- within

    async def _look(self, db: Db, sql: Sequence[Statement]) -> None:
        """Go as far as a commit may fail because of what was written."""
        await self._run(db, sql)
        await db.user_fetch("SET CONSTRAINTS ALL IMMEDIATE")

    async def _run(self, db: Db, statements: Sequence[Statement]) -> None:
        for statement in statements:
            text, values = users_sql.positional(statement)
            users_sql.check(text, self._schema)
            await db.user_fetch(text, *values)

    async def _end(
        self, db: Db, settlement: Settlement | None, staged: Sequence[Message], sql: Sequence[Statement]
    ) -> bool:
        await self._run(db, sql if settlement is None else settlement.sql)
        turn = Turn(db, await self._pool.know(handling.queues_of(settlement, staged)))
        try:
            if not await handling.end_and_commit(turn, settlement, staged):
                return False
        except Lost:
            if settlement is None or not await self._was_committed(settlement):
                raise
        self._committed(turn)
        return True

    async def _was_committed(self, settlement: Settlement) -> bool:
        """Find out what became of a commit whose answer is lost: on a new connection, once the session is over."""
        assert self._link is not None
        db = await self._link.get(time.monotonic() + PATIENCE_S)
        return bool(await settle.settled_before(Turn(db, Queues()), [settlement]))

    async def _opened(self) -> Db:
        if self._db is None:
            self._link, db = await self._pool.take()
            try:
                await db.execute(self._begin)
            except BaseException as exc:
                await self._undo()
                if isinstance(exc, Lost):
                    raise StoreError(f"the store did not answer: {exc}") from exc
                raise
            self._db = db
            self._begun = True
        return self._db

    async def _read(self, sql: str, values: Sequence[object]) -> list[Row] | None:
        """Read by itself; None if the statement turns out to write."""
        link, db = await self._pool.take()
        try:
            await self._guarded(db.execute("BEGIN READ ONLY"))
            try:
                return await self._guarded(db.user_fetch(sql, *values))
            except Exception as exc:
                if would_write(exc):
                    return None
                raise
        finally:
            await db.roll_back()
            await self._pool.give(link)

    async def _guarded(self, work: Awaitable[Found]) -> Found:
        try:
            done = await work
            self._used_s = time.monotonic()
            return done
        except Lost as exc:
            idle_s = self._pool.idle_s
            idle = self._begun and time.monotonic() - self._used_s >= idle_s * 0.9  # the server's clock began earlier
            if idle or stood_idle(exc.__cause__):
                raise TransactionHeldTooLong(
                    f"a transaction stood idle for {idle_s:g} s and was rolled back, {self._where()}"
                ) from exc
            raise StoreError(f"the store did not answer: {exc}") from exc

    async def _undo(self) -> None:
        self._over = True
        db, self._db = self._db, None
        link, self._link = self._link, None
        try:
            if db is not None:
                await db.roll_back()
        finally:
            if link is not None:
                await self._pool.give(link)

    def _check_open(self) -> None:
        if self._over:
            raise UsageError("this transaction is over: it ends with its handling")
