"""Rows that change behind the back of their indexes: what a bit that flips in either leaves, made on purpose."""

from pathlib import Path

import apsw

_INDEXES = "type = 'index' AND tbl_name = 'ringpost_message' AND sql IS NOT NULL"

_STALE = (
    "SELECT i.seq FROM ringpost_message i LEFT JOIN ringpost_message m ON m.seq = i.seq"
    " WHERE i.state = {state} AND m.state IS NOT {state}"
)


def behind_the_indexes(path: Path, sql: str) -> None:
    """Run a statement on a store that nobody has open while the file doesn't know that it has indexes."""
    db = apsw.Connection(str(path))
    db.pragma("writable_schema", 1)
    indexes = db.execute(f"SELECT * FROM sqlite_schema WHERE {_INDEXES}").fetchall()
    assert len(indexes) == 8
    db.execute(f"DELETE FROM sqlite_schema WHERE {_INDEXES}")
    _read_again(db)
    db.execute(sql)
    assert db.changes() > 0
    db.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", indexes)
    _read_again(db)
    db.close()


def complaints(path: Path) -> list[str]:
    """Give what is wrong with a file: what SQLite says, and entries too many, which it doesn't look for in an index of
    some of the rows."""
    db = apsw.Connection(str(path))
    said = [row[0] for row in db.execute("PRAGMA integrity_check").fetchall() if row[0] != "ok"]
    for state in (2, 4, 5, 6, 14):
        said += [f"{state} {row[0]}" for row in db.execute(_STALE.format(state=state)).fetchall()]
    db.close()
    return said


def _read_again(db: apsw.Connection) -> None:
    db.pragma("schema_version", db.pragma("schema_version") + 1)
