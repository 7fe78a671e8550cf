"""Room on the disk: the size of the log, the free space that is needed, and the ballast that is thrown off in need.

A full disk refuses deletes too, so new messages are refused while there still is room to settle the old ones.
"""

import logging
import os
from pathlib import Path

import apsw

from ringpost.store.sqlite.db import Db
from ringpost.store.sqlite.highwater import HighWater

PAGE = 4096
PASSIVE_PAGES = (16 << 20) // PAGE
RESTART_PAGES = (32 << 20) // PAGE
ALARM_PAGES = (256 << 20) // PAGE
READERS_MS = 200  # how long a restart of the log waits for readers
BUSY_MS = 10_000
BALLAST_BYTES = 16 << 20
FREE_BYTES_MIN = 256 << 20
FREE_SHARE_MIN = 0.05
_LOOK_MS = 1000
_LOOK_PAGES = (4 << 20) // PAGE
_ALARM_MS = 60_000

_log = logging.getLogger("ringpost.store")


class FileGone(Exception):
    """Say that the file at the store's path isn't the one that is open: what is written into that nobody finds."""


# What makes a store unusable: after it nobody knows what is on the disk.
FATAL = (
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.NoMemError,
    FileGone,
)


class Disk:
    """The room of one store. Used by its store thread alone, except for `full`'s reading."""

    def __init__(self, path: Path, db: Db, mark: HighWater) -> None:
        self._path = path
        self._db = db
        self._mark = mark
        self._ballast = Path(f"{path}.ballast")
        self._looked_ms = -_LOOK_MS
        self._looked_pages = 0
        self._full = False
        self._in_need = False  # there was no byte left
        self._restarted_at = 0
        self._alarmed = False
        self._file = _file_at(path)

    def check_there(self) -> None:
        """Raise FileGone if the file was deleted or another was put in its place: SQLite writes on without a word."""
        if _file_at(self._path) != self._file:
            raise FileGone(f"the file {self._path} was deleted or replaced while it was open")

    def check_log(self) -> None:
        """Raise FileGone if the log was deleted: what was committed into it since then nobody will find."""
        if self._mark.log_is_gone():
            raise FileGone(
                f"the log {self._path}-wal was deleted while it was open, as a second SQLite library in the process"
                " does at its end (Python's sqlite3): the last commits may be lost"
            )

    def prepare(self) -> None:
        """Take on ballast where there is none and the disk has room for it. One that a power cut left empty is none."""
        if self._has_ballast() or not self._roomy(BALLAST_BYTES):
            return
        file = os.open(self._ballast, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, BALLAST_BYTES)
        except OSError:  # no room after all, or a file system that can't: then there is no ballast
            self._ballast.unlink(missing_ok=True)
        finally:
            os.close(file)

    def _has_ballast(self) -> bool:
        try:
            return os.stat(self._ballast).st_blocks * 512 >= BALLAST_BYTES
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Throw the ballast off, so that what is there can be settled."""
        self._full = self._in_need = True
        if self._ballast.exists():
            self._ballast.unlink(missing_ok=True)
            _log.error("the disk of %s is full: new messages are refused until there is room", self._path)

    def full(self, uptime_ms: int) -> bool:
        """Say whether new messages have to be refused; looks at the disk once a second, and after each 4 MiB."""
        if uptime_ms - self._looked_ms >= _LOOK_MS:
            self._looked_ms = uptime_ms
            was_full, self._full = self._full, not self._roomy()
            if was_full and not self._full:
                self.prepare()
        return self._full

    def _roomy(self, beside_bytes: int = 0) -> bool:
        """Say whether there is room enough, with so much beside."""
        space = os.statvfs(self._path)
        free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        needed = min(max(FREE_BYTES_MIN, FREE_SHARE_MIN * total), max(total / 2, BALLAST_BYTES))
        return free >= needed + beside_bytes

    def checkpoint(self, pages: int) -> None:
        """Move the log into the file where it has grown; needs the turn. Not on a disk that was full and is not well
        again: the file would grow, not reach the end, and take the room in which the log goes on."""
        if abs(pages - self._looked_pages) >= _LOOK_PAGES:
            self._looked_pages, self._looked_ms = pages, -_LOOK_MS
        if self._in_need and not self._roomy():
            return
        self._in_need = False
        if pages < PASSIVE_PAGES:
            self._restarted_at, self._alarmed = 0, False
        elif pages - self._restarted_at >= PASSIVE_PAGES:
            self._restarted_at = pages
            self._mark.forget_log()
            try:
                self._shorten(pages)
            except apsw.FullError:  # what was committed is committed, and in the log it is as safe as in the file
                self.release()
        if pages >= ALARM_PAGES and not self._alarmed:
            self._alarmed = True
            _log.warning("the log of %s has %d MiB: some process holds a read open", self._path, pages * PAGE >> 20)

    def _shorten(self, pages: int) -> None:
        if pages < RESTART_PAGES:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        else:
            self._restart()

    def _restart(self) -> None:
        self._db.set_busy_timeout(READERS_MS)
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            pass  # a reader is still in the log; it is tried again after some more pages
        finally:
            self._db.set_busy_timeout(BUSY_MS)


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
