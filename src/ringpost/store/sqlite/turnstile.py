"""A fair turn between the processes that write one file: two flocks, one before the other.

Whoever wants the room waits at the gate for it, and the one who leaves the room has to queue at the gate again, so it
can't be first twice. flock rather than POSIX locks: those fall when any descriptor of the file is closed.
"""

import fcntl
import os
from pathlib import Path


class Turnstile:
    """The turn of one process, used by its store thread. A process that dies loses its turn with its descriptors."""

    def __init__(self, path: Path) -> None:
        self._gate = _lock_file(path, "gate")
        self._room = _lock_file(path, "room")

    def take(self) -> None:
        """Wait for the turn."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Give the turn to the next. Repeating it is harmless."""
        fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._gate)
        os.close(self._room)


def _lock_file(path: Path, what: str) -> int:
    return os.open(f"{path}.{what}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
