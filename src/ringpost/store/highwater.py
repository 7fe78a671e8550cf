"""The high-water mark: the highest committed sequence number, in eight bytes beside the file.

A write-ahead log that is cut at a bad frame loses its tail in silence, and the file looks whole. The mark knows better:
it is written after each commit without a sync, so it can only be behind what was promised, never ahead of it.
"""

import os
from pathlib import Path

_SIZE = 8


class HighWater:
    """The mark of one store, written by whoever has the turn."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.mark", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> int:
        """Give the highest sequence number ever committed here; 0 where nothing is known."""
        raw = os.pread(self._file, _SIZE, 0)
        return int.from_bytes(raw, "big") if len(raw) == _SIZE else 0

    def write(self, seq: int) -> None:
        os.pwrite(self._file, seq.to_bytes(_SIZE, "big"), 0)

    def close(self) -> None:
        os.close(self._file)
