"""Reads of handlers before their first write: by themselves, on connections that only read, in threads of their own.

The store thread must not wait for a user's query: sends, claims and renewals would wait with it.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import apsw

from ringpost.core.message import Statement
from ringpost.store.sqlite.db import Db
from ringpost.store.sqlite.guard import Guard
from ringpost.store.sqlite.schema import BUSY_MS

THREADS = 4
READ_S_MAX = 10.0  # while somebody reads, the log can't be emptied


class Writes(Exception):
    """The statement is not one that only reads."""


class Reader:
    """Runs statements that only read. Its threads and connections come with the first one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool: ThreadPoolExecutor | None = None
        self._here = threading.local()
        self._open: list[Db] = []

    async def run(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows. Raises Writes, before it is run, for one that may write."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ringpost-reader")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, statement)

    def close(self) -> None:
        """Wait for what runs, and close; blocks."""
        if self._pool is not None:
            self._pool.shutdown()
        for db in self._open:
            db.close()

    def _run(self, statement: Statement) -> list[tuple[Any, ...]]:
        guard: Guard | None = getattr(self._here, "guard", None)
        if guard is None:
            guard = self._here.guard = Guard(self._connect())
        return guard.run(statement, time.monotonic() + READ_S_MAX)

    def _connect(self) -> Db:
        db = cast(Db, apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE))
        self._open.append(db)  # whatever fails from here on
        db.set_busy_timeout(BUSY_MS)
        db.pragma("query_only", 1)
        db.pragma("trusted_schema", 0)
        db.set_exec_trace(_only_reads)
        return db


def _only_reads(cursor: Any, sql: str, parameters: object) -> bool:
    if not cursor.is_readonly:
        raise Writes
    return True
