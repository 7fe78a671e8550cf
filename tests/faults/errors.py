"""Errors of a disk at the n-th operation of a store's life, one life each, and what must hold afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
from disk import Ballot, Op, Read, Short, Sync, Truncate, Write, watched
from life import Ledger, Life, examine, work_off
from msgspec import Struct
from surveys import SETTINGS, small_steps

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.store.hostclock import HostClock
from ringpost.store.sqlite.store import SqliteStore

SEED = 11
WORKED_OFF_EACH = 4  # of so many lives one is worked off to the end: it takes longer than all the rest


class Error(Struct, frozen=True):
    """How an operation fails. `recovers`: the store is to go on without a restart."""

    name: str
    of: Callable[[Op], bool]
    make: Callable[[], Exception]
    recovers: bool = False


def _of(kind: type[Any], *endings: str) -> Callable[[Op], bool]:
    return lambda op: isinstance(op, kind) and op.path.endswith(endings)


_DATABASE = (".db", "-wal", "-journal")
ERRORS = (
    Error("write EIO", _of(Write, *_DATABASE), lambda: apsw.IOError("a write failed")),
    Error("write ENOSPC", _of(Write, *_DATABASE), lambda: apsw.FullError("no room"), recovers=True),
    Error("write short", _of(Write, *_DATABASE), lambda: Short(10), recovers=True),
    Error("sync EIO", _of(Sync, *_DATABASE), lambda: apsw.IOError("a sync failed")),
    Error("truncate EIO", _of(Truncate, *_DATABASE), lambda: apsw.IOError("a truncate failed")),
    Error("read EIO", _of(Read, *_DATABASE), lambda: apsw.IOError("a read failed")),
    Error("read short", _of(Read, *_DATABASE), lambda: Short(10)),
    Error("checkpoint ENOSPC", _of(Write, ".db"), lambda: apsw.FullError("no room"), recovers=True),
    Error("mark EIO", _of(Write, ".mark"), lambda: OSError(5, "a write failed"), recovers=True),
)


class Told(Struct):
    """What a life with an error in it showed."""

    reached: bool = False
    opened: bool = False
    failed: bool = False  # the store said that it can't be used any more
    wrong: list[str] = []


async def lived_with(error: Error, number: int, folder: Path, messages: int) -> Told:
    """Live while the n-th operation fails; then open the file on a well disk, and look."""
    words: list[Any] = []

    def fail(op: Op) -> None:
        raise error.make()

    ballot = Ballot(error.of, number, fail)
    told = Told()
    with small_steps():
        with watched(ballot):
            store = SqliteStore(folder / "a.db", SETTINGS)
            try:
                await store.open(create=True)
                told.opened = True
            except StoreError:
                pass
            if told.opened:
                life = Life(store, SEED, words.append)
                life.callers = (20, 40)  # few commits, so few operations, for so many messages
                await life.live(messages)
                told.wrong += await _asked(store, told, error, life)
                await store.close()
        told.reached = ballot.seen >= number
        told.wrong += await _afterwards(folder, Ledger(words), thorough=number % WORKED_OFF_EACH == 0)
    return told


async def _asked(store: SqliteStore, told: Told, error: Error, life: Life) -> list[str]:
    """See that a store which goes on takes more, and that one which has failed does not."""
    told.failed = store.failed is not None
    if life.refused:
        return ["a settlement was refused, and nobody else had the message"]
    if told.failed and error.recovers:
        return [f"it gave up: {store.failed}"]
    if life.failures and not told.failed and not error.recovers:
        return [f"it goes on after {life.failures[0]}"]
    try:
        await store.put([Message(b"the last of all.", "mail.welcome", b"{}", keep_s=100_000)])
    except StoreError as refused:
        return [] if store.failed is not None else [f"it refuses, and is well: {refused}"]
    return ["it takes more after it has failed"] if told.failed else []


async def _afterwards(folder: Path, ledger: Ledger, *, thorough: bool) -> list[str]:
    now_ms = 1_000_000

    def pass_time() -> None:
        nonlocal now_ms
        now_ms += 9_000

    store = SqliteStore(
        folder / "a.db", SETTINGS, clock=HostClock(uptime_ms=lambda: now_ms, boot_id=lambda: "afterwards")
    )
    try:
        await store.open(create=True)
        wrong = await examine(store, ledger)
        if store._writer.db.pragma("integrity_check") != "ok":
            wrong.append("the file is corrupt")
        if thorough:
            wrong += await work_off(store, ledger, pass_time)
    except StoreError as error:
        return [f"it can't be used afterwards: {error}"]
    await store.close()
    return wrong
