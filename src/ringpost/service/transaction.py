"""The Transaction of a handler: its own SQL, committed with its outcome and what it staged, or not at all."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, final

from ringpost.contract.errors import StateError, UsageError
from ringpost.core.message import Message, Settlement, Statement
from ringpost.service.standing import standing, thread_of
from ringpost.store.port import SqlTransaction

Begin = Callable[[Callable[[], str]], SqlTransaction]

DEFERRED_MAX = 1000
DEFERRED_BYTES_MAX = 16 << 20


class HandlingTransaction(Protocol):
    """What ends with a handling, as the pipeline sees it: a Transaction, or a session that another library began."""

    @property
    def _wrote(self) -> bool:
        """Whether others may be waiting for it."""
        ...

    @property
    def _used(self) -> bool:
        """Whether there is anything to commit."""
        ...

    @property
    def _only_deferred(self) -> Sequence[Statement] | None:
        """What it leaves to a commit that others share; None where it has to commit itself."""
        ...

    def _end(self) -> None:
        """Take no more statements."""
        ...

    async def _commit(self, settlement: Settlement | None, staged: Sequence[Message] = ()) -> bool:
        """Commit the end of a handling; False where its fence was lost. Raises what a statement raised."""
        ...

    async def _rollback(self) -> None: ...


@final
class Transaction:
    """SQL that takes effect together with the handler's success; take it as a parameter, `tx: Transaction`.

    What it writes, what the handler sends and publishes, its outcome and its settlement are one commit in the store,
    under the fence: a worker that has lost its message commits nothing of it. If the handler raises, all of it is
    undone, also for a declared Problem; a Problem that is returned commits. Repeating a message is therefore safe.

    Its tables live in the store, beside Ringpost's own, which it can neither read nor change. It can't end the
    transaction itself. From its first write on (`defer` doesn't count) `ctx.call` is refused. On SQLite it then keeps
    all others from writing, for at most `tx_hold_max` (250 ms): after that it is rolled back, and
    TransactionHeldTooLong says where the handler stood. It must not be used once the handler is done.
    """

    __slots__ = ("_begin", "_bytes", "_deferred", "_loop_thread", "_over", "_sql", "_task", "_thread")

    def __init__(self, begin: Begin, task: "asyncio.Task[Any]") -> None:
        self._begin = begin
        self._task = task
        self._loop_thread = threading.get_ident()
        self._thread: int | None = None
        self._sql: SqlTransaction | None = None  # what few need: deferred statements go without
        self._deferred: list[Statement] = []
        self._bytes = 0
        self._over = False

    @property
    def connection(self) -> Any:
        """The driver's own connection, where the store can lend it; on SQLite UsageError is raised."""
        return self._opened().connection

    async def execute(self, sql: str, params: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows. `params` by position or by name, as the store's SQL has it.

        Until the first statement that writes, each read is by itself and sees what is committed; from then on they see
        the handler's own writes, but none that are deferred. Raises UsageError for what is refused, what the database
        raises as its driver has it, TransactionHeldTooLong.
        """
        return await self._opened().execute(_statement(sql, params))

    def defer(self, sql: str, params: Sequence[object] | Mapping[str, object] = (), /) -> None:
        """Leave a statement to the commit that settles the handling: the fast way, as many handlings share a commit.

        What it gives is not seen. If it fails, the handling fails as if the handler had raised that, and only this one.
        At most 1,000 statements and 16 MiB a handling.
        """
        if self._over:
            raise _ended()
        statement = _statement(sql, params)
        self._bytes += len(sql) + sum([len(one) for one in _values(statement) if isinstance(one, str | bytes)])
        if len(self._deferred) >= DEFERRED_MAX or self._bytes > DEFERRED_BYTES_MAX:
            raise UsageError(
                f"One handling defers at most {DEFERRED_MAX:,} statements and {DEFERRED_BYTES_MAX >> 20} MiB. Let one "
                "message do a part and send the next."
            )
        self._deferred.append(statement)

    async def lock(self) -> None:
        """Begin now, before reading what will be written: nobody else writes between the two."""
        await self._opened().lock()

    # --- for the pipeline: see HandlingTransaction

    @property
    def _wrote(self) -> bool:
        return self._sql is not None and self._sql.begun

    @property
    def _used(self) -> bool:
        return bool(self._deferred) or self._wrote

    @property
    def _only_deferred(self) -> Sequence[Statement] | None:
        return None if self._wrote else self._deferred

    def _end(self) -> None:
        self._over = True

    async def _commit(self, settlement: Settlement | None, staged: Sequence[Message] = ()) -> bool:
        if settlement is not None:
            settlement.sql = self._deferred
        return await self._begun_sql().commit(settlement, staged, self._deferred)

    async def _rollback(self) -> None:
        if self._sql is not None:
            await self._sql.rollback()

    # --- inside

    def _opened(self) -> SqlTransaction:
        if self._over:
            raise _ended()
        self._thread = thread_of.get()
        return self._begun_sql()

    def _begun_sql(self) -> SqlTransaction:
        if self._sql is None:
            self._sql = self._begin(self._where)
        return self._sql

    def _where(self) -> str:
        return standing(self._task, self._loop_thread, self._thread)


def _statement(sql: object, params: object) -> Statement:
    """Give a statement as it is now: what is done to the parameters afterwards changes nothing."""
    if not isinstance(sql, str):
        raise UsageError(f"SQL is text, not {type(sql).__name__}.")
    if type(params) is tuple:
        return sql, cast(tuple[object, ...], params)
    if isinstance(params, Mapping):
        return sql, dict(cast(Mapping[str, object], params))
    if isinstance(params, Sequence) and not isinstance(params, str | bytes | bytearray):
        return sql, tuple(cast(Sequence[object], params))
    raise UsageError(
        f"Parameters are a tuple, a list or a mapping, not {type(params).__name__}: write `({params!r},)`."
    )


def _values(statement: Statement) -> Sequence[object]:
    params = statement[1]
    return list(params.values()) if isinstance(params, Mapping) else params


def _ended() -> StateError:
    return StateError(
        "This handling is over: what its Transaction wrote has been committed or undone. Await what a handler starts "
        "before it returns."
    )
