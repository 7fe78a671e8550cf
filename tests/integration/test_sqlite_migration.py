"""Tables change while code of two versions works on them, and whoever changes them may be gone at any statement."""

import asyncio
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.settings import Settings
from ringpost.store.migration import Step, missing, needs_after
from ringpost.store.sqlite import schema as sqlite_schema
from ringpost.store.sqlite.store import SqliteStore

EXPAND = (
    "ALTER TABLE ringpost_note ADD COLUMN later INTEGER NOT NULL DEFAULT 7;"
    "CREATE TABLE ringpost_later (x INTEGER) STRICT;"
    "INSERT INTO ringpost_later VALUES (1);"
)
CHILD = """
import os, sys
from pathlib import Path
from ringpost.store.sqlite import schema as sqlite_schema
from ringpost.store.migration import Step

path, point, step, twin = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "twin"
db = sqlite_schema.connect(path)
seen = 0

def gone_at_the_point(cursor, sql, bindings):
    global seen
    seen += 1
    if seen == point:
        os._exit(9)
    return True

if not twin:
    sqlite_schema.STEPS = (*sqlite_schema.STEPS, Step(step))
    db.set_exec_trace(gone_at_the_point)
    sqlite_schema.migrate(db, "boot", create=False)
else:
    db.set_exec_trace(gone_at_the_point)
    db.execute(step).fetchall()
    sqlite_schema.write_meta(db, "schema", len(sqlite_schema.STEPS) + 1)
"""
POINTS_MAX = 20


def opened(path: Path, *, create: bool = False) -> list[int]:
    """Open it with the code of this test, put a message, and count what is ready."""

    async def work() -> list[int]:
        store = SqliteStore(path, Settings())
        await store.open(create=create)
        try:
            await store.put([Message(path.name.encode().ljust(16)[:16], "a.b", b"1")])
            return [depth.ready for depth in await store.depths()]
        finally:
            await store.close()

    return asyncio.run(work())


def crashed(path: Path, point: int, twin: str = "") -> bool:
    """Migrate in a process that is gone at the point; False once there is no such point any more."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(point), EXPAND, twin], timeout=60, capture_output=True, check=False
    )
    assert done.returncode in (0, 9), done.stderr.decode()
    return done.returncode == 9


def seen(path: Path) -> tuple[int, bool, bool, int]:
    """Give the version, whether there is the column and the table, and how many rows are in it."""
    db = apsw.Connection(str(path))
    try:
        version = db.execute("SELECT value FROM ringpost_meta WHERE key = 'schema'").fetchall()[0][0]
        column = "later" in {row[1] for row in db.execute("PRAGMA table_info(ringpost_note)")}
        table = bool(db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ringpost_later'").fetchall())
        rows = db.execute("SELECT count(*) FROM ringpost_later").fetchall()[0][0] if table else 0
        return version, column, table, rows
    finally:
        db.close()


RELEASED = len(sqlite_schema.STEPS)
OLD, NEW = (RELEASED, False, False, 0), (RELEASED + 1, True, True, 1)


def after_crashes(folder: Path, twin: str = "") -> list[tuple[int, bool, bool, int]]:
    """Crash at one point after the other, each in a file of its own, and tell what each left."""
    left = []
    for point in range(1, POINTS_MAX):
        path = folder / f"{point}.db"
        opened(path, create=True)
        going = crashed(path, point, twin)
        left.append(seen(path))
        if not going:
            return left
    raise AssertionError("it never came to its end")


def test_a_crash_at_any_statement_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    left = after_crashes(tmp_path)
    assert set(left) == {OLD, NEW}
    assert left[-1] == NEW
    assert opened(tmp_path / "1.db") == [1], "and code of either version goes on with it"
    assert opened(tmp_path / f"{len(left)}.db") == [1]


def test_the_twin_without_a_transaction_is_caught_between(tmp_path: Path) -> None:
    assert set(after_crashes(tmp_path, "twin")) - {OLD, NEW}


def test_old_code_goes_on_after_an_expansion_and_is_told_after_a_contraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    opened(path, create=True)
    released = sqlite_schema.STEPS
    monkeypatch.setattr(sqlite_schema, "STEPS", (*released, Step(EXPAND)))
    opened(path)
    monkeypatch.setattr(sqlite_schema, "STEPS", released)
    assert opened(path) == [1]
    assert seen(path) == NEW, "old code leaves what it doesn't know as it is"
    contract = Step("ALTER TABLE ringpost_note DROP COLUMN later;", needs=RELEASED + 1)
    monkeypatch.setattr(sqlite_schema, "STEPS", (*released, Step(EXPAND), contract))
    assert opened(path) == [1]
    monkeypatch.setattr(sqlite_schema, "STEPS", released)
    with pytest.raises(StoreError, match="install a newer Ringpost"):
        opened(path)


def test_what_a_store_needs_never_falls() -> None:
    steps = [Step(""), Step("", needs=2), Step("")]
    needs = 0
    for number, step in enumerate(steps):
        needs = needs_after(step, number, needs)
    assert needs == 2
    assert list(missing(1, 1, steps)) == [1, 2]
    assert list(missing(5, 2, steps)) == []
    with pytest.raises(StoreError, match="needs code that knows 4"):
        missing(5, 4, steps)
    with pytest.raises(ValueError, match="only 1"):
        needs_after(Step("", needs=2), 0, 1)
