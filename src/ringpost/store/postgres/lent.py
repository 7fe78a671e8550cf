"""Messages and ends of handlings that go into a store's tables by a transaction that is somebody else's (`lent.py`).

Nothing is committed, rolled back or set on the connection.
"""

from collections.abc import Callable, Sequence
from typing import cast

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message, Settlement
from ringpost.store.lent import borrow, lost_connection
from ringpost.store.port import Fetch, Put
from ringpost.store.postgres import handling, put, read
from ringpost.store.postgres.db import Again, Db, Row, in_schema, is_lost
from ringpost.store.postgres.turn import Queues, Turn

ROWS_MAX = 1000  # of one statement
_OURS = "SELECT to_regclass('ringpost.meta') IS NOT NULL"
_STORE_ID = "SELECT value FROM ringpost.meta WHERE key = 'store_id'"


class Joined:
    """Messages for a store's tables, to be put in a transaction of somebody else. `queues` are known to the store."""

    def __init__(self, store_id: str, schema: str, queues: Queues, messages: Sequence[Message]) -> None:
        self._store_id = store_id
        self._schema = schema
        self._queues = queues
        self._messages = messages

    async def is_here(self, fetch: Fetch) -> bool:
        """Say whether a transaction is on the store's database. Nothing is written."""
        return await _has_store(_Lent(fetch, self._schema), self._store_id)

    async def put(self, fetch: Fetch) -> list[Put]:
        """Put them, one answer each; they are there once the transaction commits. Raises StoreError where it can't go
        on."""
        turn = Turn(cast(Db, _Lent(fetch, self._schema)), self._queues)  # to put is to fetch
        try:
            puts: list[Put] = []
            for at in range(0, len(self._messages), ROWS_MAX):
                puts += await put.put_all(turn, self._messages[at : at + ROWS_MAX], None)
            if turn.missed:
                await read.count_gaps(turn)
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
        lent = await borrow(session, blocking=False)
        self._turn = turn = Turn(cast(Db, _Lent(lent.fetch, self._schema)), self._queues)  # to end is to fetch
        try:
            return await handling.end(turn, self._settlement, self._staged)
        except Again as exc:
            raise StoreError("others were in the way of this commit; nothing of it was kept") from exc
        except Exception as exc:
            if not (is_lost(exc) or lost_connection(exc)):
                raise
            raise StoreError(f"the database did not answer: {exc}") from exc

    def committed(self) -> None:
        assert self._turn is not None
        self._told(self._turn)


async def is_on_store(session: object, store_id: str, schema: str) -> bool:
    """Ask a session's server whether a store is in its database."""
    lent = await borrow(session, blocking=False)
    return lent.dialect == "postgresql" and await _has_store(_Lent(lent.fetch, schema), store_id)


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
