"""A process that has a store open and opens its file with Python's sqlite3 too: which receipts it gives.

usage: library_process.py WAY FILE [TWIN…]

WAY is `connect` (and close again) or `attach` to another file. It says of each receipt, of what was refused or failed,
and of alarms, and then it ends as if by kill -9.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from pathlib import Path

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core.message import Message
from ringpost.store.sqlite import sole_use
from ringpost.store.sqlite.disk import Disk
from ringpost.store.sqlite.store import SqliteStore

TWINS = ("deaf", "blind")


async def put(store: SqliteStore, number: int) -> None:
    try:
        await store.put([Message(number.to_bytes(16, "big"), "mail.welcome", b"{}")])
    except StoreError:
        print("failed", flush=True)
    else:
        print(f"receipt {number}", flush=True)


def connect(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("SELECT count(*) FROM ringpost_message").fetchone()


def attach(path: Path) -> None:
    db = sqlite3.connect(path.with_name("business.db"))
    db.execute("ATTACH ? AS store", (str(path),))
    db.execute("SELECT count(*) FROM store.ringpost_message").fetchone()
    KEPT.append(db)


KEPT: list[sqlite3.Connection] = []
WAYS = {"connect": connect, "attach": attach}


async def main(way: str, path: Path, *twins: str) -> None:
    if "deaf" in twins:
        sole_use._refuse_stores = lambda database: None
    if "blind" in twins:
        Disk.check_log = lambda self: None  # type: ignore[method-assign]
    store = SqliteStore(path)
    await store.open(create=True)
    await put(store, 1)
    try:
        WAYS[way](path)
    except UsageError:
        print("refused", flush=True)
    await put(store, 2)
    if way == "attach":
        await store.tend()
        print(*await store.alarms(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
