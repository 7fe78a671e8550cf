"""A copy of a SQLite store in use: one instant of it, checked, in one file; and a store made of such a copy again.

One read transaction is held from the first page to the last, so that the copy never begins anew, however much others
write; while it lasts, the log of the store can't be emptied and grows by what is written. The connection only reads:
it neither checkpoints nor takes a turn, and nobody waits for it.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import apsw

from ringpost.contract.errors import StoreError
from ringpost.store.migration import missing
from ringpost.store.sqlite.highwater import HighWater
from ringpost.store.sqlite.schema import BUSY_MS, STEPS, last_seq, read_meta, versions_of, write_meta

_STEP_PAGES = 1024  # 4 MiB between two words of progress
RESTORE_LEAP = 1 << 32  # more claims than were made since any backup; 2^20 restores fit into a fence
_RAISE = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'ringpost_message'"
_AUDIT = (
    "INSERT INTO ringpost_audit(at_ms, who, what, detail)"
    " VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), ?, 'restore', ?)"
)
Progress = Callable[[int, int], None]


def back_up(source: Path, target: Path, progress: Progress) -> int:
    """Copy the store at `source` into the new file `target`, readable by its owner alone; gives its size in bytes.

    `progress` hears of pages done and pages in all. The file has its name only once it is whole, checked and on stable
    storage. Raises StoreError where there is no store, `target` is there already, or the copy isn't sound.
    """
    if not source.exists():
        raise StoreError(f"there is no store at {source}")
    try:
        return _named(target, lambda part: _copy(source, part, progress))
    except FileExistsError as exc:
        raise StoreError(f"{target} is there already; a backup goes into a new file") from exc


def restore(backup: Path, target: Path, who: str, progress: Progress) -> int:
    """Make the store `target` of a backup, which stays as it is; gives its size in bytes.

    It is the same store, in the past: it keeps its id. What was given out since must not win over what it gives out
    from now on, so its fences leap, its leases are void, and no number is used again that the mark beside `target`
    knows of. Raises StoreError where the backup isn't a sound store of this version, or anything of a store is at
    `target`: a store is never overwritten, and a log that was left would be taken for the new one's.
    """
    if not backup.exists():
        raise StoreError(f"there is no backup at {backup}")
    left = [path for path in (target, Path(f"{target}-wal"), Path(f"{target}-shm")) if path.exists()]
    if left:
        raise StoreError(
            f"{left[0]} is there, and a store is never overwritten: stop every process of it and move {target.name}*"
            " away, or restore to another place"
        )
    marked = _marked(target)

    def make(part: Path) -> None:
        try:
            _copy(backup, part, progress)
        except (apsw.NotADBError, apsw.CorruptError) as exc:  # of what is read: the other file is new
            raise StoreError(f"{backup} is no backup of a store, or a damaged one: {exc}") from exc
        _begin_anew(part, marked, who, f"from {backup}")

    try:
        return _named(target, make)
    except FileExistsError as exc:
        raise StoreError(f"{target} has come to be meanwhile; nothing was overwritten") from exc


def _named(target: Path, make: Callable[[Path], None]) -> int:
    """Have a file made, and give it its name once it is whole. Raises FileExistsError rather than overwrite."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            make(part)
            _sync(part)
            os.link(part, target)  # never over a file that is there
            _sync(target.parent)
        finally:
            for left in (part, part.with_name(f"{part.name}-journal")):
                with contextlib.suppress(FileNotFoundError):
                    left.unlink()
    except FileExistsError:
        raise
    except apsw.Error as exc:
        raise StoreError(f"{target} can't be made: {exc}") from exc
    except OSError as exc:
        raise StoreError(f"{target} can't be written: {exc.strerror}") from exc
    return target.stat().st_size


def _marked(target: Path) -> int:
    """Give the highest number that was ever committed at a place; 0 where nothing says so."""
    if not Path(f"{target}.mark").exists():
        return 0
    mark = HighWater(target)
    try:
        return mark.read()[0]
    finally:
        mark.close()


def _begin_anew(part: Path, marked: int, who: str, detail: str) -> None:
    db = cast(Any, apsw.Connection(str(part), flags=apsw.SQLITE_OPEN_READWRITE))
    try:
        missing(*versions_of(db), STEPS)
        with db:
            write_meta(db, "fence", int(read_meta(db, "fence")) + RESTORE_LEAP)
            write_meta(db, "boot_id", "")  # as after a restart of the host: whoever opens it first voids all leases
            db.execute(_RAISE, (max(marked, last_seq(db)),))
            db.execute(_AUDIT, (who, detail))
    finally:
        db.close()


def _copy(source: Path, part: Path, progress: Progress) -> None:
    reading = cast(Any, apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY))
    writing = cast(Any, apsw.Connection(str(part), flags=apsw.SQLITE_OPEN_READWRITE))
    try:
        reading.set_busy_timeout(BUSY_MS)
        reading.execute("BEGIN")
        if not reading.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ringpost_meta'").fetchall():
            raise StoreError(f"{source} holds no Ringpost store")
        with writing.backup("main", reading, "main") as copy:
            while not copy.done:
                copy.step(_STEP_PAGES)
                progress(copy.page_count - copy.remaining, copy.page_count)
        writing.pragma("journal_mode", "delete")  # all of it in the one file
        _check(writing, read_meta(reading, "store_id"))
    finally:
        reading.close()
        writing.close()


def _check(copy: Any, store_id: object) -> None:
    """Raise StoreError unless each page of the copy and each entry of its indexes is sound."""
    found = copy.pragma("integrity_check")
    if found != "ok":
        raise StoreError(f"the copy isn't sound, so the store itself may be damaged: {found}")
    if read_meta(copy, "store_id") != store_id:
        raise StoreError("the copy isn't of the store that was read")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
