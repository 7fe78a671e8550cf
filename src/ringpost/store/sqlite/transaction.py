"""A handler's transaction on SQLite: it has the store's connection, and with it everybody's turn, from its first write.

Two threads meet in it. On the loop the handler asks for one step after the other; on the store thread `serve` works
them while the turn is held, and nothing else is done there meanwhile: settling is a step like the others. Whoever wants
to write waits, in this process and in others, so the time is bounded (`tx_hold_max`), and it is the store thread that
looks at the clock, as the loop may be what is blocked.
"""

import asyncio
import threading
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, Protocol

from msgspec import Struct

from ringpost.contract.errors import StateError, TransactionHeldTooLong, UsageError
from ringpost.core.message import Message, Settlement, Statement
from ringpost.store.sqlite.disk import FATAL
from ringpost.store.sqlite.guard import Guard
from ringpost.store.sqlite.reader import Reader, Writes
from ringpost.store.users_sql import may_read_only


class Ending(Struct, frozen=True):
    """How a handling ended: what is to be committed together."""

    settlement: Settlement | None
    staged: Sequence[Message]
    sql: Sequence[Statement]


class Check(Struct, frozen=True):
    """Look whether it could be committed."""


class _Step(Struct, eq=False):
    """One thing to do while the turn is held: a statement, to commit, to see whether it could, or nothing (`lock`)."""

    work: Statement | Ending | Check | None
    reply: "Future[Any]"


class Means(Protocol):
    """What a transaction needs of its store."""

    reader: Reader
    hold_s: float

    def check_usable(self) -> None: ...
    def hold(self, transaction: "SqliteTransaction") -> None: ...
    async def commit_shared(self, ending: Ending) -> bool: ...


class SqliteTransaction:
    """The SqlTransaction of the port. Use it on one event loop, from one task at a time."""

    def __init__(self, means: Means, where: Callable[[], str]) -> None:
        self._means = means
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._steps: SimpleQueue[_Step | None] = SimpleQueue()
        self._lock = threading.Lock()  # over `_closed`: no step may be left that nobody works
        self._closed = False
        self._begun = False
        self._over = False
        self._error: Exception | None = None  # why it was rolled back before its end
        self._committing: Future[Any] | None = None

    # --- on the loop: the port

    @property
    def begun(self) -> bool:
        """Whether it has begun, whatever became of it since."""
        return self._begun

    @property
    def connection(self) -> NoReturn:
        """Refused: the connection is the store's, and used on a thread of its own."""
        raise UsageError("A SQLite store lends its connection to nobody: run statements with `execute` and `defer`.")

    async def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Run a statement: by itself if it only reads and nothing was written, else in the transaction."""
        self._check()
        if not self._begun and may_read_only(statement[0]):
            try:
                return await self._means.reader.run(statement)
            except Writes:
                self._check()
        rows: list[tuple[Any, ...]] = await self._ask(statement)
        return rows

    async def lock(self) -> None:
        """Take the turn now."""
        self._check()
        await self._ask(None)

    async def commit(
        self, settlement: Settlement | None, staged: Sequence[Message] = (), sql: Sequence[Statement] = ()
    ) -> bool:
        """Commit; together with others where it never asked for the turn."""
        self._check()
        ending = Ending(settlement, staged, sql)
        begun = self._begun
        try:
            return bool(await self._ask(ending)) if begun else await self._means.commit_shared(ending)
        finally:
            self._over = True

    async def rehearse(self, sql: Sequence[Statement] = ()) -> None:
        """Run what was deferred, look whether it could be committed, and undo everything."""
        try:
            for statement in sql:
                await self.execute(statement)
            if self._begun:
                self._check()
                await self._ask(Check())
        finally:
            await self.rollback()

    async def rollback(self) -> None:
        """Undo everything and give the turn up."""
        self._over = True
        with self._lock:
            if self._begun and not self._closed:
                self._steps.put(None)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._over:
            raise StateError("This transaction is over: what it wrote has been committed or undone.")
        self._means.check_usable()

    def _ask(self, work: Statement | Ending | Check | None) -> "Future[Any]":
        reply: Future[Any] = self._loop.create_future()
        with self._lock:
            if self._closed:
                raise self._error or StateError("This transaction is over.")
            self._steps.put(_Step(work, reply))
        if not self._begun:
            self._begun = True
            self._means.hold(self)
        return reply

    # --- on the store thread

    @property
    def abandoned(self) -> bool:
        """Whether its handling has ended before it had its turn."""
        return self._over

    def serve(self, guard: Guard) -> Ending | None:
        """Work steps until it is to be committed, or undone (None). Raises TransactionHeldTooLong."""
        ends_s = time.monotonic() + self._means.hold_s
        while True:
            try:
                step = self._steps.get(timeout=max(ends_s - time.monotonic(), 0.0))
            except Empty:
                raise self._too_long() from None
            if step is None:
                return None
            if isinstance(step.work, Ending):
                self._committing = step.reply
                return step.work
            self._work(step, guard, ends_s)

    def _work(self, step: _Step, guard: Guard, ends_s: float) -> None:
        """Work one step. Raises what ends the transaction; a statement that merely fails is its handler's affair."""
        try:
            if isinstance(step.work, Check):
                guard.check_resolved()
            rows = guard.run(step.work, ends_s) if isinstance(step.work, tuple) else []
        except Exception as error:  # noqa: BLE001 (a border: whatever SQLite raises is told where the handler waits)
            too_long = isinstance(error, TransactionHeldTooLong)
            told = self._too_long() if too_long else error
            self._answer(step.reply, error=told)
            if too_long or isinstance(error, FATAL) or not guard.in_transaction:
                raise told from None
        else:
            self._answer(step.reply, rows)

    def close(self, error: Exception | None, *, committed: bool = False) -> None:
        """Take no more steps, and answer what waits: whether it was committed, or the error, which all that come after
        are told as well."""
        with self._lock:
            self._closed = True
            self._error = error
        if self._committing is not None:
            self._answer(self._committing, committed, error=error)
        while not self._steps.empty():
            step = self._steps.get_nowait()
            if step is not None:
                self._answer(step.reply, error=error or StateError("This transaction is over."))

    def _answer(self, reply: "Future[Any]", value: Any = None, *, error: BaseException | None = None) -> None:
        """Answer a step, on the loop."""

        def tell() -> None:
            if reply.done():
                return
            if error is None:
                reply.set_result(value)
            else:
                reply.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _too_long(self) -> TransactionHeldTooLong:
        held_ms = round(self._means.hold_s * 1000)
        return TransactionHeldTooLong(
            f"The transaction was rolled back after holding the store's turn for {held_ms} ms: all who write wait. "
            f"Its handler stood at {self._where()}. Do what takes time before the first write, or leave the write to "
            "the commit, with `defer`."
        )
