"""A disk that tests watch and break: SQLite's calls to the operating system, and the store's own writes beside them.

It is a VFS of apsw's, so the product's code runs as it is, no tracer is needed and no rights, and every call is seen
with its data, before and after. `watched(watcher)` puts it under every connection that the process opens meanwhile.
Memory maps are not seen: the `-shm` file, which SQLite rebuilds. A store maps nothing else.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol

import apsw
from msgspec import Struct

from ringpost.store.sqlite import highwater as highwater

_numbers = count()


class Create(Struct, frozen=True):
    path: str


class Read(Struct, frozen=True):
    path: str
    at: int
    length: int


class Write(Struct, frozen=True):
    path: str
    at: int
    data: bytes


class Truncate(Struct, frozen=True):
    path: str
    size: int


class Sync(Struct, frozen=True):
    path: str


class Delete(Struct, frozen=True):
    path: str


Op = Create | Read | Write | Truncate | Sync | Delete


class Short(Exception):
    """Raised by `before` a read or write: only so many bytes of it happen."""

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length


class Watcher(Protocol):
    """Sees each operation, and may raise what it fails with."""

    def before(self, op: Op) -> None: ...
    def after(self, op: Op) -> None: ...


class Recorder:
    """Remember everything that was done, in its order; others may put in words of their own."""

    def __init__(self) -> None:
        self.trace: list[Any] = []

    def before(self, op: Op) -> None:
        pass

    def after(self, op: Op) -> None:
        if not isinstance(op, Read):
            self.trace.append(op)


class _File(apsw.VFSFile):
    def __init__(self, path: str, name: Any, flags: list[int], watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        super().__init__("unix", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        op = Read(self._path, offset, amount)
        try:
            self._watcher.before(op)
        except Short as short:
            return super().xRead(amount, offset)[: short.length]
        data = super().xRead(amount, offset)
        self._watcher.after(op)
        return data

    def xWrite(self, data: Any, offset: int) -> None:
        op = Write(self._path, offset, bytes(data))
        try:
            self._watcher.before(op)
        except Short as short:
            super().xWrite(op.data[: short.length], offset)
            raise apsw.FullError("a short write") from None
        super().xWrite(data, offset)
        self._watcher.after(op)

    def xTruncate(self, newsize: int) -> None:
        op = Truncate(self._path, newsize)
        self._watcher.before(op)
        super().xTruncate(newsize)
        self._watcher.after(op)

    def xSync(self, flags: int) -> None:
        op = Sync(self._path)
        self._watcher.before(op)
        super().xSync(flags)
        self._watcher.after(op)


class _Disk(apsw.VFS):
    def __init__(self, name: str, watcher: Watcher) -> None:
        self._watcher = watcher
        self._known: set[str] = set()
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        if name is None:  # a temporary file: nobody looks for it after a crash
            return super().xOpen(name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        new = path not in self._known or not os.path.exists(path)
        if new:
            self._watcher.before(Create(path))
        file = _File(path, name, flags, self._watcher)
        if new:
            self._known.add(path)
            self._watcher.after(Create(path))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        op = Delete(filename)
        self._watcher.before(op)
        super().xDelete(filename, syncdir)
        self._watcher.after(op)


class _WatchedOs:
    """What the store's own code calls for its side files."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        new = not os.path.exists(path)
        file = os.open(path, flags, mode)
        self._paths[file] = path
        if new:
            self._watcher.after(Create(path))
        return file

    def pwrite(self, file: int, data: bytes, at: int) -> int:
        op = Write(self._paths[file], at, bytes(data))
        self._watcher.before(op)
        written = os.pwrite(file, data, at)
        self._watcher.after(op)
        return written


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Let the watcher see what every connection does that is opened meanwhile. Close them before it ends."""
    name = f"watched{next(_numbers)}"
    disk = _Disk(name, watcher)
    apsw.set_default_vfs(name)
    highwater.os = _WatchedOs(watcher)  # type: ignore[assignment]
    try:
        yield
    finally:
        highwater.os = os
        apsw.set_default_vfs("unix")
        disk.unregister()


class Ballot:
    """Count operations of one kind, and act at the n-th."""

    def __init__(self, wanted: Callable[[Op], bool], number: int, act: Callable[[Op], None]) -> None:
        self._wanted = wanted
        self._number = number
        self._act = act
        self.seen = 0

    def before(self, op: Op) -> None:
        if self._wanted(op):
            self.seen += 1
            if self.seen == self._number:
                self._act(op)

    def after(self, op: Op) -> None:
        pass
