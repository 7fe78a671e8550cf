"""Users' SQL on a connection of ours: what it may touch, and for how long it may run.

An authorizer is asked while a statement is prepared. It is always there (to set or remove one would make SQLite prepare
every statement anew) and refuses only while a user's statement is being run. So that none of those ever meets one of
ours that is prepared already, they are prepared with a flag of their own, which is part of the cache's key.
"""

import time
from collections.abc import Sequence
from typing import Any

import apsw

from ringpost.contract.errors import TransactionHeldTooLong, UsageError
from ringpost.core.message import Statement
from ringpost.store.sqlite.db import Db

OURS = "ringpost_"
_PREPARED = apsw.SQLITE_PREPARE_PERSISTENT
_STEPS = 1000  # instructions of SQLite between two looks at the clock: a fraction of a millisecond

_WORDS = apsw.mapping_authorizer_function
_TEMPORARY = {code for code, word in _WORDS.items() if isinstance(code, int) and "TEMP" in str(word)}
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
_SCHEMA = ("sqlite_master", "sqlite_temp_master")
# What tells of tables and changes nothing: a migration asks for it, and so does full-text search.
_PRAGMAS = {
    "data_version",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
}
_REFUSED = {
    apsw.SQLITE_TRANSACTION: "The transaction ends with the handler: {0} is refused. Return to commit, raise to undo.",
    apsw.SQLITE_SAVEPOINT: "SAVEPOINT and RELEASE are refused: a handler's writes are kept or undone together.",
    apsw.SQLITE_ATTACH: "ATTACH and VACUUM are refused: a commit over two files isn't one.",
    apsw.SQLITE_DETACH: "DETACH is refused: the connection is the store's.",
    apsw.SQLITE_ANALYZE: "ANALYZE is refused: it would change how the store's own statements run.",
}


class Guard:
    """Runs users' statements on one connection, one thread at a time."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._on = False
        db.set_authorizer(self._authorize)

    def run(self, statement: Statement, ends_s: float) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows. Raises UsageError for what is refused, TransactionHeldTooLong where it
        still runs at `ends_s` (monotonic), and what SQLite raises."""
        sql, parameters = statement
        with self._watching(ends_s, sql):
            rows: list[tuple[Any, ...]] = self._db.execute(sql, parameters, prepare_flags=_PREPARED).fetchall()
            return rows

    def run_many(self, sql: str, parameters: Sequence[Any], ends_s: float) -> None:
        """Run one statement with one set of parameters after the other."""
        with self._watching(ends_s, sql):
            self._db.executemany(sql, parameters, prepare_flags=_PREPARED).fetchall()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open still: some statements that fail end it."""
        return self._db.in_transaction

    def unresolved(self) -> bool:
        """Whether a deferred foreign key points at nothing, so that the transaction couldn't be committed."""
        return self._db.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0] > 0

    def check_resolved(self) -> None:
        """Raise UsageError where it couldn't be committed, as a deferred foreign key points at nothing."""
        if self.unresolved():
            raise UsageError("A deferred foreign key of what was written points at a row that isn't there.")

    def _watching(self, ends_s: float, sql: str) -> "_Watch":
        return _Watch(self, ends_s, sql)

    def _authorize(self, action: int, one: str | None, two: str | None, database: str | None, by: str | None) -> int:
        if self._on:
            refused = refusal(action, one or "", two or "")
            if refused:
                raise UsageError(refused)
        return apsw.SQLITE_OK


class _Watch:
    """While a user's statement runs: the authorizer refuses, and the clock is looked at."""

    __slots__ = ("_ends_s", "_guard", "_sql")

    def __init__(self, guard: Guard, ends_s: float, sql: str) -> None:
        self._guard = guard
        self._ends_s = ends_s
        self._sql = sql

    def __enter__(self) -> None:
        self._guard._on = True
        self._guard._db.set_progress_handler(self._over, _STEPS)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._guard._on = False
        self._guard._db.set_progress_handler(None)
        if isinstance(error, apsw.InterruptError):
            raise TransactionHeldTooLong(
                f"the statement ran for too long and was stopped: {shown(self._sql)}"
            ) from None

    def _over(self) -> bool:
        return time.monotonic() >= self._ends_s


def refusal(action: int, one: str, two: str) -> str:
    """Say why a user's statement may not do that; empty if it may. `one` and `two` are what it is done to."""
    if action in _REFUSED:
        return _REFUSED[action].format(one)
    if action in _TEMPORARY:
        return f"Temporary tables, views and triggers are refused ({one}): the connection is the store's."
    if action == apsw.SQLITE_PRAGMA:
        return "" if one.lower() in _PRAGMAS else f"PRAGMA {one} is refused: the connection is the store's."
    if action == apsw.SQLITE_FUNCTION:
        return "load_extension is refused." if two.lower() == "load_extension" else ""
    if one.lower().startswith(OURS) or two.lower().startswith(OURS):
        name = one if one.lower().startswith(OURS) else two
        return f"{name} is Ringpost's own, and its names begin with {OURS}: read and change messages with its commands."
    if action in _WRITES and one.startswith("sqlite_") and one not in _SCHEMA:
        return (
            f"{one} is SQLite's own, also for the store's tables. What needs it (to drop a table with AUTOINCREMENT, "
            "to rename one) is for a migration while no service runs."
        )
    return ""


def shown(sql: str) -> str:
    """Give a statement as an error shows it: on one line, not all of it, and never its parameters."""
    line = " ".join(sql.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
