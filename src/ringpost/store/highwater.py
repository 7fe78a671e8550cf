"""The high-water mark: the highest committed sequence number, in eight bytes beside the file.

A write-ahead log that is cut at a bad frame loses its tail in silence, and the file looks whole. The mark knows better:
it is written after each commit without a sync, so it can only be behind what was promised, never ahead of it.
"""

import logging
import os
from pathlib import Path

_SIZE = 8

_log = logging.getLogger("ringpost.store")


class HighWater:
    """The mark of one store, written by whoever has the turn."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}.mark"
        self._behind = False
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> int:
        """Give the highest sequence number ever committed here; 0 where nothing is known."""
        raw = os.pread(self._file, _SIZE, 0)
        return int.from_bytes(raw, "big") if len(raw) == _SIZE else 0

    def write(self, seq: int) -> None:
        """Write the mark. If the disk refuses, what was committed is committed all the same: the mark stays behind."""
        try:
            os.pwrite(self._file, seq.to_bytes(_SIZE, "big"), 0)
        except OSError as exc:
            if not self._behind:
                self._behind = True
                _log.error("%s can't be written, so a lost tail may go unnoticed: %s", self._path, exc)

    def close(self) -> None:
        os.close(self._file)
