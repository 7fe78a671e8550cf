"""One SQLite library in a process has a store's file: Ringpost's own. A second one is refused, or seen and told of.

Locks of POSIX belong to the process: whoever asks for one that the process has gets it, and closing any descriptor of a
file drops all that are on it. So a second library, such as Python's `sqlite3`, takes itself for the only user of the
file, and at its end takes away the log that ours goes on writing into (https://sqlite.org/howtocorrupt.html, 2.2.1).

Python's own says which file it is about to open (the audit event `sqlite3.connect`), so it is refused before it does.
Others say nothing, and neither does an ATTACH; but each library opens the shared memory of a file once, so that a
second one is seen by its descriptor. What both overlook, the next commit finds: `disk.py`.
"""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import apsw

from ringpost.contract.errors import StoreError, UsageError
from ringpost.store.sqlite.turn import Turn
from ringpost.store.sqlite.url import ONE_LIBRARY, FileId, file_at

LOOK_MS = 60_000
TELL_MS = 3_600_000  # while it stays so
_ALARM_MS = 86_400_000
_ASKED_MAX, _PAUSE_S = 50, 0.005  # how often it is asked whose a file is
_AUDIT = "INSERT INTO ringpost_audit(at_ms, who, what, detail) VALUES (?, 'store', 'second library', ?)"
_LAST = (
    "SELECT detail, datetime(at_ms / 1000, 'unixepoch') FROM ringpost_audit WHERE what = 'second library' AND at_ms > ?"
    " ORDER BY at_ms DESC LIMIT 1"
)

_log = logging.getLogger("ringpost.store")


class _Guarded:
    """The files of this process's stores: those that are open, each with how many stores have it open, and the paths of
    those that are just being opened, which nothing else tells yet."""

    def __init__(self) -> None:
        self.files: Counter[FileId] = Counter()
        self._opening: Counter[str] = Counter()
        self._lock = Lock()
        self._hears = False

    @contextmanager
    def opening(self, path: Path) -> Generator[None]:
        """Let a store open a file within. Raises StoreError if something else in this process has it open. Descriptors
        tell, but not whose they are: nothing is said beside stores and connections of our library."""
        name = os.path.realpath(path)
        with self._lock:  # no other store begins to open it while its descriptors are counted
            if not self._opening[name]:
                self._check(path)
            self._opening[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._opening -= Counter([name])

    def _check(self, path: Path) -> None:
        file = file_at(path)
        if file is not None and file not in self.files and _open_by_another(file):
            raise StoreError(f"{path} is open in this process already, and not by Ringpost. {ONE_LIBRARY}.")

    def add(self, file: FileId) -> None:
        with self._lock:
            self.files[file] += 1
            if not self._hears:  # once for all: there is no way to take it back
                self._hears = True
                sys.addaudithook(_hear)
                os.register_at_fork(after_in_child=self._forget)

    def remove(self, file: FileId) -> None:
        with self._lock:
            self.files -= Counter([file])

    def _forget(self) -> None:
        """Begin anew in a child: it has no locks that could be dropped."""
        self._lock = Lock()
        self.files.clear()
        self._opening.clear()


_guarded = _Guarded()


class SoleUse:
    """The use of a file by one store: from the end of `opening` to `end` no other library in this process gets it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileId | None = None
        self._next_ms = 0

    @contextmanager
    def opening(self) -> Generator[None]:
        """Open the file within; raises StoreError if another library has it open. Others are refused from then on."""
        with _guarded.opening(self._path):
            yield
            self._file = file_at(self._path)
            if self._file is not None:
                _guarded.add(self._file)

    def end(self) -> None:
        """Let others have the file again. Repeating it is harmless."""
        file, self._file = self._file, None
        if file is not None:
            _guarded.remove(file)

    def look(self, turn: Turn) -> None:
        """Look once a minute whether a second library has come by a way that nobody heard of, and tell of it."""
        if turn.uptime_ms < self._next_ms:
            return
        self._next_ms = turn.uptime_ms + LOOK_MS
        memory = file_at(Path(f"{os.path.realpath(self._path)}-shm"))
        if memory is not None and _descriptors(memory) > 1:
            self._next_ms = turn.uptime_ms + TELL_MS
            turn.db.execute(_AUDIT, (turn.now_ms, f"process {os.getpid()}"))
            _log.error("the store %s is open in a second SQLite library in this process. %s", self._path, ONE_LIBRARY)


def alarms(turn: Turn) -> list[str]:
    """Say, for a day, that a second library was seen, and what to do; nothing where none was."""
    found = turn.db.execute(_LAST, (turn.now_ms - _ALARM_MS,)).fetchall()
    return [
        f"{who} had the store's file open in a second SQLite library on {at} UTC: {ONE_LIBRARY}" for who, at in found
    ]


def _hear(event: str, args: tuple[Any, ...]) -> None:
    """Hear of each audited event of the process: all but one have to be over at once."""
    if event == "sqlite3.connect" and _guarded.files:
        _refuse_stores(args[0])


def _refuse_stores(database: Any) -> None:
    for name in _names(database):
        if file_at(name) in _guarded.files:
            raise UsageError(f"{name} is the file of a store that is open in this process. {ONE_LIBRARY}.")


def _names(database: Any) -> Iterator[str]:
    """Give the paths that a connection may mean: whether it takes a URI for one (https://sqlite.org/uri.html) isn't
    told."""
    try:
        name = os.fsdecode(database)
    except TypeError:  # sqlite3 says what it takes
        return
    yield name
    if name.startswith("file:"):
        parts = urlsplit(name)
        if "memory" not in parse_qs(parts.query).get("mode", ()):
            yield unquote(parts.path)


def _open_by_another(file: FileId) -> bool:
    """Say whether another library has a file open. It is asked again for a while: of ours, one that is at work in
    another thread can't be asked just then, and one that is being closed there has descriptors and is known no more."""
    whose: bool | None = None
    for _ in range(_ASKED_MAX):
        if not _descriptors(file):
            return False
        whose = _ours(file)
        if whose:
            return False
        time.sleep(_PAUSE_S)
    return whose is False


def _ours(file: FileId) -> bool | None:
    """Say whether a connection of our library has a file open; None where one can't be asked."""
    ours: bool | None = False
    for connection in apsw.connections():
        try:
            if file_at(connection.filename) == file:
                return True
        except apsw.ThreadingViolationError:
            ours = None
        except apsw.ConnectionClosedError:  # meanwhile
            pass
    return ours


def _descriptors(file: FileId) -> int:
    """Count the descriptors of this process that are of a file."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # closed meanwhile
            found = os.fstat(int(name))
            count += (found.st_dev, found.st_ino) == file
    return count
