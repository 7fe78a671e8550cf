"""The high-water mark: the highest committed sequence number and the end of the log, in twenty bytes beside the file.

A write-ahead log that is cut at a bad frame loses its tail in silence, and the file looks whole. The mark knows better:
it is written after each synced commit, without a sync, so it can only be behind what was promised, never ahead of it.
The number tells of lost messages, also where the whole log is gone; the end of the log, valid while the log has the
same salt, tells of lost settlements too.
"""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import apsw

from ringpost.store.sqlite.db import Db

_SEQ_BYTES, _SALT_BYTES, _PAGES_BYTES = 8, 8, 4
_SALT_AT = 16  # in the header of the log

_log = logging.getLogger("ringpost.store")


class LogEnd(NamedTuple):
    """How far a log goes. SQLite gives the log a new salt each time it begins it anew."""

    salt: bytes
    pages: int


_NOWHERE = LogEnd(bytes(_SALT_BYTES), 0)


class HighWater:
    """The mark of one store, written by whoever has the turn."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}.mark"
        self._log_path = f"{path}-wal"
        self._log_file: int | None = None
        self._behind = False
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> tuple[int, LogEnd]:
        """Give the highest sequence number ever committed here and where the log ended; zeros for what is unknown."""
        raw = os.pread(self._file, _SEQ_BYTES + _SALT_BYTES + _PAGES_BYTES, 0)
        seq, salt, pages = raw[:_SEQ_BYTES], raw[_SEQ_BYTES:-_PAGES_BYTES], raw[-_PAGES_BYTES:]
        if len(salt) < _SALT_BYTES:  # written before logs were looked at, or never
            return int.from_bytes(seq, "big") if len(seq) == _SEQ_BYTES else 0, _NOWHERE
        return int.from_bytes(seq, "big"), LogEnd(salt, int.from_bytes(pages, "big"))

    def write(self, seq: int | None, pages: int) -> None:
        """Write how long the log is after a synced commit, and its highest sequence number if it put something. If the
        disk refuses, what was committed is committed all the same: the mark stays behind."""
        end = self._salt() + pages.to_bytes(_PAGES_BYTES, "big")
        if seq is None:
            self._write(end, _SEQ_BYTES)
        else:
            self._write(seq.to_bytes(_SEQ_BYTES, "big") + end, 0)

    def forget_log(self) -> None:
        """Say no more where the log ends, before a checkpoint: one that is all in the file may begin anew, and for a
        moment has no page and its old salt."""
        self._write(_NOWHERE.salt + bytes(_PAGES_BYTES), _SEQ_BYTES)

    def _write(self, data: bytes, at: int) -> None:
        try:
            os.pwrite(self._file, data, at)
        except OSError as exc:
            if not self._behind:
                self._behind = True
                _log.error("%s can't be written, so a lost tail may go unnoticed: %s", self._path, exc)

    def lost_pages(self, db: Db, end: LogEnd) -> int:
        """Say how many pages the log lacks that it had when the mark was written."""
        if self._salt() != end.salt or end == _NOWHERE:  # in any case the log is open from here on
            return 0
        pages, _ = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        return max(0, end.pages - pages)

    def _salt(self) -> bytes:
        """Give the salt of the log; zeros while it is empty. No lock of SQLite's is on this file, so it may be opened
        beside it, and it stays the same as long as anybody uses the store."""
        if self._log_file is None:
            try:
                self._log_file = os.open(self._log_path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return bytes(_SALT_BYTES)
        return os.pread(self._log_file, _SALT_BYTES, _SALT_AT).ljust(_SALT_BYTES, b"\0")

    def log_is_gone(self) -> bool:
        """Say whether the log was deleted while it is open here."""
        return self._log_file is not None and os.fstat(self._log_file).st_nlink == 0

    def close(self) -> None:
        os.close(self._file)
        if self._log_file is not None:
            os.close(self._log_file)
