"""An outbox table in a SQLite file.

It is opened with Python's own sqlite3, as SQLAlchemy, Django and aiosqlite do: in one process a file must be open in
one SQLite library only, or they drop each other's locks. So it is never a store's file: those have another library.
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ringpost.contract.errors import UsageError
from ringpost.relay import table
from ringpost.relay.port import BYTES_MAX, FORMS, ROWS_MAX, TROUBLE_MAX, Aside, TableAway, Waiting
from ringpost.relay.row import Row
from ringpost.relay.table import COLUMNS, WAITING
from ringpost.store.sqlite.url import FileId, file_at, file_of, is_file

BUSY_S = 5.0
_LOG = logging.getLogger("ringpost.relay")
_NEXT = (
    f"SELECT {COLUMNS} FROM (SELECT {COLUMNS}, sum(length(body)) OVER (ORDER BY seq) - length(body) AS before"
    f" FROM (SELECT {COLUMNS} FROM ringpost_outbox WHERE seq > ? AND trouble IS NULL"
    " AND target NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?)) WHERE before < ? ORDER BY seq"
)
_IS_STORE = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'ringpost_message')"
_DELETE = "DELETE FROM ringpost_outbox WHERE seq = ? AND id = ?"
_OFFER = "UPDATE ringpost_outbox SET offered_ms = ? WHERE seq = ? AND id = ? AND offered_ms IS NULL"
_SET_ASIDE = "UPDATE ringpost_outbox SET trouble = ? WHERE seq = ?"
_ASIDE = "SELECT seq, id, target, sent_ms, trouble FROM ringpost_outbox WHERE trouble IS NOT NULL ORDER BY seq LIMIT ?"

Found = TypeVar("Found")


class SqliteTable:
    """Read the outbox table of a file, in a thread of its own."""

    def __init__(self, url: str, store_url: str | None) -> None:
        path = file_of(url)
        if path is None:
            raise UsageError(f"{url!r} names no file. Write {FORMS}.")
        self._path = path
        self._store_url = store_url
        self.shown = url
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ringpost-outbox")
        self._db: sqlite3.Connection | None = None
        self._opened: FileId | None = None  # the file that it is, which another may take the place of
        self._refuse_store()

    async def turn(self, done: Sequence[Row], after: int, without: Collection[str], now_ms: int) -> list[Row]:
        return await self._run(lambda db: _turn(db, done, after, without, now_ms))

    async def set_aside(self, rows: Sequence[tuple[Row, str]]) -> None:
        def mark(db: sqlite3.Connection) -> None:
            with _transaction(db):
                db.executemany(_SET_ASIDE, [(why[:TROUBLE_MAX], row.seq) for row, why in rows])

        await self._run(mark)

    async def waiting(self) -> Waiting:
        return await self._run(lambda db: Waiting(*db.execute(WAITING).fetchone()))

    async def aside(self, limit: int) -> list[Aside]:
        return await self._run(lambda db: [Aside(*row) for row in db.execute(_ASIDE, (limit,)).fetchall()])

    async def make(self) -> None:
        def run(db: sqlite3.Connection) -> None:
            db.execute(table.ddl("sqlite"))

        await self._run(run)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        try:
            return work(self._connected())
        except sqlite3.Error as error:
            self._leave_replaced()  # which may be why: SQLite refuses to write into a file that was moved away
            self._disconnect()
            raise TableAway(f"{error}{_hint(str(error))}") from error

    def _connected(self) -> sqlite3.Connection:
        self._leave_replaced()
        db = self._db
        if db is None:
            self._refuse_store()
            uri = f"{self._path.absolute().as_uri()}?mode=rw"  # one that isn't there isn't made
            self._opened = file_at(self._path)  # before: one that is replaced meanwhile is noticed at the next look
            db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._db = db
            if db.execute(_IS_STORE).fetchone()[0]:
                self._disconnect()
                raise _store_refused(self.shown)
            db.execute("PRAGMA synchronous = FULL")
        return db

    def _leave_replaced(self) -> None:
        """Let go of a file that isn't the one at its place any more."""
        if self._db is not None and file_at(self._path) != self._opened:
            self._disconnect()
            _LOG.warning("%s is another file now, or gone: it is opened anew, and relayed from as it is", self.shown)

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _refuse_store(self) -> None:
        store = file_of(self._store_url)
        if store is not None and is_file(self._path, store):
            raise _store_refused(self.shown)


def _store_refused(shown: str) -> UsageError:
    return UsageError(
        f"{shown} is the file of a store: an outbox table is in a file of its own, as two SQLite libraries on one file "
        "would drop each other's locks. Name the business database instead"
    )


def _turn(db: sqlite3.Connection, done: Sequence[Row], after: int, without: Collection[str], now_ms: int) -> list[Row]:
    if not done and not _next(db, after, without):
        return []  # nothing to write: others aren't kept waiting
    with _transaction(db):
        db.executemany(_DELETE, [(row.seq, row.id) for row in done])
        rows = _next(db, after, without)
        db.executemany(_OFFER, [(now_ms, row.seq, row.id) for row in rows])
    return rows


def _next(db: sqlite3.Connection, after: int, without: Collection[str]) -> list[Row]:
    names = json.dumps(list(without))
    return [Row(*row) for row in map(_readable, db.execute(_NEXT, (after, names, ROWS_MAX, BYTES_MAX)).fetchall())]


def _readable(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a row's values as their types: SQLite keeps in a column whatever it was given."""
    seq, id, target, sent_ms, terms, headers, body, offered_ms = values
    texts = [one if isinstance(one, str) else repr(one) for one in (id, target, terms, headers)]
    blob = body if isinstance(body, bytes) else str(body).encode("utf-8", "replace")
    return seq, *texts[:2], sent_ms, *texts[2:], blob, offered_ms


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Generator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _hint(said: str) -> str:
    if "unable to open" in said:
        return ": it isn't there or not to be read and written by this user; the program whose database it is makes it"
    return f": {table.HOW_TO_MAKE}" if "no such table" in said else ""
