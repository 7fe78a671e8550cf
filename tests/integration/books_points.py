"""The durable steps of a handler's transaction in both stores, with a point before and after each; and broken twins.

What is a step of every turn at the store is one here only while a handler's writes are in it. The recovery of a process
that was killed has steps of its own: taking its messages and its keys over.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from points import after, before, end, say, wanted

from ringpost.core import ids
from ringpost.core.message import Message, Settlement
from ringpost.http.site import Site
from ringpost.service.pipeline import Pipeline
from ringpost.service.reservation import Reservations
from ringpost.service.transaction import Transaction
from ringpost.service.worker import Worker
from ringpost.store.postgres import put as postgres_put
from ringpost.store.postgres import settle as postgres_settle
from ringpost.store.postgres import tend as postgres_tend
from ringpost.store.postgres.db import Db
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.postgres.transaction import PostgresTransaction
from ringpost.store.postgres.writer import Writer as PostgresWriter
from ringpost.store.sqlite import settle as sqlite_settle
from ringpost.store.sqlite import tend as sqlite_tend
from ringpost.store.sqlite.guard import Guard
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.transaction import SqliteTransaction
from ringpost.store.sqlite.turnstile import Turnstile
from ringpost.store.sqlite.writer import Writer as SqliteWriter

passed: list[str] = []
"""The points that this process has come to, each as often as it did."""

_started = False  # what resources write while a service starts is no handler's
_writing: ContextVar[bool] = ContextVar("writing", default=False)


def _pass(point: str) -> None:
    passed.append(point)
    if point == wanted():
        end()


def _is_writing(*_: Any) -> bool:
    return _started and _writing.get()


def _is_started(*_: Any) -> bool:
    return _started


def _start() -> None:
    global _started  # a process starts once
    _started = True


def _step(what: str, owner: Any, name: str, if_so: Callable[..., bool] = _is_writing) -> None:
    before(owner, name, if_so, partial(_pass, f"before {what}"))
    after(owner, name, if_so, partial(_pass, f"after {what}"))


def _while(owner: Any, name: str, writes: Callable[..., bool]) -> None:
    """Know while a function runs whether a handler's writes are in what it does."""
    inner = getattr(owner, name)

    async def knowing(*arguments: Any, **more: Any) -> Any:
        token = _writing.set(writes(*arguments))
        try:
            return await inner(*arguments, **more)
        finally:
            _writing.reset(token)

    def known(*arguments: Any, **more: Any) -> Any:
        token = _writing.set(writes(*arguments))
        try:
            return inner(*arguments, **more)
        finally:
            _writing.reset(token)

    setattr(owner, name, knowing if inspect.iscoroutinefunction(inner) else known)


def _always(*_: Any) -> bool:
    return True


def _any_sql(settlements: Sequence[Settlement]) -> bool:
    return any(one.sql for one in settlements)


def _asked_with_sql(writer: Any, *arguments: Any) -> bool:
    asks = arguments[-1]
    return any(getattr(ask, "sql", ()) or _any_sql(ask.settlements) for ask in asks)


def install() -> None:
    """Put the points in."""
    after(Site, "open", then=_start)
    _install_service()
    _install_sqlite()
    _install_postgres()


def _install_service() -> None:
    """What handler and worker see of it, whichever the store is."""
    _step("the handler's write", Transaction, "execute", _is_started)
    _step("the handler's commit", Transaction, "_commit", _is_started)
    _step("the reservation", Reservations, "make", _is_started)
    _step("the answer", Pipeline, "_committed", _is_started)
    _step("the worker's turn", Worker, "_take")
    _while(Worker, "_take", lambda worker, turn: _any_sql(turn.settlements))


def _install_sqlite() -> None:
    _step("the turn", Turnstile, "take")
    before(SqliteWriter, "_serve_transaction", _is_writing, partial(_pass, "after BEGIN"))
    _step("a write", Guard, "run")
    _step("the deferred writes", Guard, "run_many")
    _step("the commit's work", SqliteWriter, "_work")
    _step("the look at the fence", sqlite_settle, "held")
    _step("the settlement", sqlite_settle, "settle")
    _step("the outcome", sqlite_settle, "_after")
    _step("the staged messages", SqliteWriter, "_put")
    after(SqliteStore, "_committing", _is_writing, partial(_pass, "before COMMIT"))
    before(SqliteWriter, "_after_commit", _is_writing, partial(_pass, "after COMMIT"))
    _step("the way back", SqliteTransaction, "close")
    _while(SqliteWriter, "_hold", _always)
    _while(SqliteWriter, "_write", _asked_with_sql)
    after(sqlite_tend, "_sweep", bool, partial(_pass, "in the sweep"))
    after(SqliteStore, "tend", _has_swept, partial(_pass, "after the sweep"))


def _install_postgres() -> None:
    _step("BEGIN", PostgresTransaction, "_opened")
    _step("BEGIN", Db, "begin")
    _step("a write", Db, "user_fetch")
    _step("the deferred writes", Db, "user_repeat")
    _step("the fence", postgres_settle, "_settle_rows")
    _step("the settlement", postgres_settle, "settle_all")
    _step("the staged messages", postgres_put, "put_all")
    _step("COMMIT", Db, "commit")
    _under_way("COMMIT", Db, "commit")
    _step("the way back", PostgresTransaction, "_undo")
    for name in ("execute", "commit"):
        _while(PostgresTransaction, name, _always)
    _while(PostgresWriter, "_transact", _asked_with_sql)
    after(postgres_tend, "_sweep", bool, partial(_pass, "in the sweep"))
    after(PostgresStore, "tend", _has_swept, partial(_pass, "after the sweep"))


def _under_way(what: str, owner: Any, name: str) -> None:
    """A point where a request has gone out whose answer never comes."""
    inner = getattr(owner, name)

    async def going(*arguments: Any) -> Any:
        if not _is_writing() or wanted() != f"while {what} is under way":
            return await inner(*arguments)
        sent = asyncio.ensure_future(inner(*arguments))
        await asyncio.sleep(0)
        end()
        return await sent

    setattr(owner, name, going)


def _has_swept(tended: Any) -> bool:
    return bool(tended.lost)


def tell_settlements() -> None:
    """Say of each message how its settlement ended: done, or refused because the fence was lost."""
    inner = Worker._count_settled

    def counting(self: Worker, settlements: list[Settlement], settled: list[bool]) -> None:
        for one, done in zip(settlements, settled, strict=True):
            say(settled=ids.text(one.delivery.id), done=done)
        inner(self, settlements, settled)

    Worker._count_settled = counting  # type: ignore[method-assign]


# --- twins


def _unfenced() -> None:
    """Settle whatever runs, whoever holds it."""
    sqlite_settle.held = lambda turn, settlements: [True] * len(settlements)
    postgres_settle.lone = lambda one: False  # what is settled with the COMMIT is compared by a function of the server
    sqlite_settle._SETTLE = _changed(sqlite_settle._SETTLE, " AND fence = ?7", " AND (fence = ?7 OR true)")
    for name in ("_SETTLE", "_SETTLE_MORE", "_TURN", "_TURN_MORE"):
        sql = _changed(getattr(postgres_settle, name), "AND m.fence = g.fence AND m.state", "AND m.state")
        setattr(
            postgres_settle,
            name,
            _changed(sql, "RETURNING m.seq, m.fence, m.queue", "RETURNING m.seq, g.fence, m.queue"),
        )


def _changed(sql: str, old: str, new: str) -> str:
    assert old in sql
    return sql.replace(old, new)


def _in_two_commits() -> None:
    """Commit what a handler wrote, and then how it ended."""
    run, user_fetch = Guard.run, Db.user_fetch

    def committing(self: Guard, *arguments: Any) -> Any:
        rows = run(self, *arguments)
        if _is_writing():
            self._db.execute("COMMIT")
            self._db.execute("BEGIN IMMEDIATE")
        return rows

    async def fetching(self: Db, *arguments: Any) -> Any:
        rows = await user_fetch(self, *arguments)
        if _is_writing():
            await self.commit()
            await self.begin()
        return rows

    Guard.run, Db.user_fetch = committing, fetching  # type: ignore[method-assign]


def _keyless() -> None:
    """Reserve a key that nobody knows again."""
    inner = Reservations._message

    def message(self: Reservations, *arguments: Any) -> Message:
        made = inner(self, *arguments)
        made.dedup = made.digest = None
        return made

    Reservations._message = message  # type: ignore[method-assign]


TWINS: dict[str, Callable[[], None]] = {
    "unfenced": _unfenced,
    "in-two-commits": _in_two_commits,
    "keyless": _keyless,
}
