"""The store as a rehearsal has it: reads are the real one's, and of what would be written nothing stays.

Whatever runs on it, pipeline, contexts, calls within the process, has no other store: that is what keeps a rehearsal
from taking effect, and not anybody's care.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ringpost.contract.errors import StateError
from ringpost.core.message import Message, Record, Settlement, Statement
from ringpost.service.dry_run import DryRun
from ringpost.store.port import (
    Audited,
    CaughtUp,
    Changed,
    Claimed,
    Depth,
    Facts,
    Filter,
    Joined,
    JoinedEnd,
    Joining,
    Note,
    Order,
    Put,
    Renewed,
    Report,
    SqlTransaction,
    Store,
    Tended,
    Woken,
)


def undone(store: Store, dry: DryRun) -> Store:
    """Give a store in which nothing stays; one that joins others' transactions still says whose database it is in."""
    return _JoiningUndoneStore(store, store, dry) if isinstance(store, Joining) else UndoneStore(store, dry)


class UndoneStore:
    """See `port.Store`. What is put is captured; a transaction runs up to its commit and is undone there."""

    def __init__(self, store: Store, dry: DryRun) -> None:
        self._store = store
        self._dry = dry
        self.facts: Facts = store.facts

    # --- what would write

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        if any(message.reserve is not None for message in messages):
            self._dry.refuse("A call under an idempotency key in a dry run: its key would have to be kept.")
        return self._dry.capture(messages)

    def begin(self, where: Callable[[], str], *, alone: bool = False) -> SqlTransaction:
        return UndoneTransaction(self._store.begin(where, alone=alone), self._dry)

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        if not all(isinstance(order, Report) for order in orders):
            self._dry.refuse("A message was to be cancelled in a dry run.")
        return [Changed("done") for _ in orders]  # of progress nobody is told

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        return True  # what is noted of calls that went out is for other processes

    async def note_drop(self, name: str) -> bool:
        return True

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts:
        return self.facts

    async def close(self) -> None:
        """Nothing: it belongs to who opened it."""

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        _never()

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        _never()

    def renew(self, holder: int, lease_s: float) -> Renewed:
        _never()

    async def tend(self, limit: int = 1000) -> Tended:
        _never()

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        _never()

    # --- what only reads

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        self._dry.check_awaited(ids)
        return await self._store.read(ids, bodies=bodies)

    async def find(self, filter: Filter, /) -> list[Record]:
        return await self._store.find(filter)

    async def audit(self, id: bytes) -> list[Audited]:
        return await self._store.audit(id)

    async def depths(self) -> list[Depth]:
        return await self._store.depths()

    async def notes(self, prefix: str = "") -> list[Note]:
        return await self._store.notes(prefix)

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        self._dry.check_awaited(ids)
        return await self._store.wait(queues, ids, timeout_s)


class _JoiningUndoneStore(UndoneStore):
    """One beside others' tables. Their sessions end themselves: in a dry run without a commit, so nothing joins."""

    def __init__(self, store: Store, joining: Joining, dry: DryRun) -> None:
        super().__init__(store, dry)
        self._joining = joining

    async def join(self, messages: Sequence[Message]) -> Joined:
        _never()

    async def join_end(self, settlement: Settlement | None, staged: Sequence[Message]) -> JoinedEnd:
        _never()

    async def joins(self, session: object) -> bool:
        return await self._joining.joins(session)


class UndoneTransaction:
    """See `port.SqlTransaction`: the store's own, but for its commit."""

    def __init__(self, transaction: SqlTransaction, dry: DryRun) -> None:
        self._transaction = transaction
        self._dry = dry

    @property
    def begun(self) -> bool:
        return self._transaction.begun

    @property
    def connection(self) -> Any:
        return self._transaction.connection

    async def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        return await self._transaction.execute(statement)

    async def lock(self) -> None:
        await self._transaction.lock()

    async def commit(
        self, settlement: Settlement | None, staged: Sequence[Message] = (), sql: Sequence[Statement] = ()
    ) -> bool:
        """Go as far as a commit may fail, and undo it all."""
        await self.rehearse(sql if settlement is None else settlement.sql)
        self._dry.capture(staged)  # by a call: a message's are in its settlement
        return True

    async def rehearse(self, sql: Sequence[Statement] = ()) -> None:
        await self._transaction.rehearse(sql)

    async def rollback(self) -> None:
        await self._transaction.rollback()


def _never() -> NoReturn:
    raise StateError("A rehearsal claims nothing and settles nothing.")
