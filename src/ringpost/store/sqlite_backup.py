"""A copy of a SQLite store in use: one instant of it, checked, in one file.

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
from ringpost.store.sqlite_schema import BUSY_MS, read_meta

_STEP_PAGES = 1024  # 4 MiB between two words of progress
Progress = Callable[[int, int], None]


def back_up(source: Path, target: Path, progress: Progress) -> int:
    """Copy the store at `source` into the new file `target`, readable by its owner alone; gives its size in bytes.

    `progress` hears of pages done and pages in all. The file has its name only once it is whole, checked and on stable
    storage. Raises StoreError where there is no store, `target` is there already, or the copy isn't sound.
    """
    if not source.exists():
        raise StoreError(f"there is no store at {source}")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            _copy(source, part, progress)
            _sync(part)
            os.link(part, target)  # never over a file that is there
            _sync(target.parent)
        finally:
            for left in (part, part.with_name(f"{part.name}-journal")):
                with contextlib.suppress(FileNotFoundError):
                    left.unlink()
    except FileExistsError as exc:
        raise StoreError(f"{target} is there already; a backup goes into a new file") from exc
    except apsw.Error as exc:
        raise StoreError(f"{source} can't be backed up into {target}: {exc}") from exc
    except OSError as exc:
        raise StoreError(f"{target} can't be written: {exc.strerror}") from exc
    return target.stat().st_size


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
