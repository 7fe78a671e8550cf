"""What of the surroundings matters to a store and its services: versions, configuration, disk, rights."""

import os
import platform
import shutil
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import apsw
from msgspec import Struct

from ringpost.core import ids
from ringpost.core.message import Cause, State
from ringpost.settings import Settings, find_file
from ringpost.store.port import Alarming, Filter, Store
from ringpost.store.sqlite.schema import NETWORK_FILE_SYSTEMS, SQLITE_MIN, file_system, library_version

Level = Literal["ok", "warn", "fail"]

_PYTHON_MIN: Final = (3, 11)
_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB
_FREE_BYTES_MIN: Final = 256 * _MIB
_FREE_SHARE_MIN: Final = 0.05
_DEAD_MAX: Final = 1000  # so many dead letters are looked at
_WAL_BYTES_ALARM: Final = 256 * _MIB
_SQLITE: Final = "sqlite:///"


class Finding(Struct, frozen=True):
    """One thing that was looked at: how it is, and what to do where it isn't well."""

    level: Level
    what: str
    said: str
    to_do: str = ""


def ok(what: str, said: str) -> Finding:
    return Finding("ok", what, said)


def warn(what: str, said: str, to_do: str) -> Finding:
    return Finding("warn", what, said, to_do)


def fail(what: str, said: str, to_do: str) -> Finding:
    return Finding("fail", what, said, to_do)


def python() -> Finding:
    """Look at the interpreter."""
    said = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _PYTHON_MIN:
        return fail("python", said, "use Python 3.11 or later")
    return ok("python", said)


def libraries() -> Finding:
    """Look at what must be new enough, or makes it fast."""
    said = f"SQLite {apsw.sqlite_lib_version()} (Python's own: {sqlite3.sqlite_version}, not used)"
    said += f", uvloop {_version('uvloop')}, httptools {_version('httptools')}"
    if library_version() < SQLITE_MIN:
        return fail("libraries", said, "install apsw 3.51.3 or later: an older SQLite can corrupt a shared file")
    if not _version("uvloop"):
        return fail("libraries", said, "install uvloop: `ringpost run` needs it")
    return ok("libraries", said)


def configuration(settings: Settings, *, named: bool) -> Finding:
    """Look at where the settings come from."""
    file = find_file(Path.cwd())
    variables = sorted(name for name in os.environ if name.startswith("RINGPOST_"))
    said = ", ".join(filter(None, (str(file) if file else "", ", ".join(variables), "--store" if named else "")))
    if not said:
        return warn("configuration", "no ringpost.toml here or above, no RINGPOST_*", "make one with `ringpost init`")
    store = settings.store or "none"
    return ok("configuration", f"{said}; store {store}, http {settings.http or 'none'}")


def no_store(settings: Settings, why: str) -> Finding:
    """Say what a store that can't be opened means: nothing where none is wanted."""
    if settings.store is None or settings.store.startswith("memory:"):
        return warn("store", why.rstrip("."), "without one there are calls alone: no messages")
    to_do = (
        "make it with `ringpost init` or `ringpost run`"
        if not file_of(settings)
        else "do what it says; everything else waits for that"
    )
    return fail("store", why.rstrip("."), to_do)


def file_of(settings: Settings) -> Path | None:
    """Give the store's file if it is one and is there."""
    if settings.store is None or not settings.store.startswith(_SQLITE):
        return None
    path = Path(settings.store.removeprefix(_SQLITE))
    return path if path.exists() else None


def disk(settings: Settings) -> list[Finding]:
    """Look at the disk that the store is on, and at who may read it."""
    if settings.store is None or not settings.store.startswith(_SQLITE):
        return []
    path = Path(settings.store.removeprefix(_SQLITE))
    folder = path.parent
    if not folder.is_dir():
        return [fail("disk", f"the folder {folder} isn't there", "create it, or set another `store`")]
    return [_file_system(folder), _free(folder), _rights(path)]


def log(settings: Settings) -> list[Finding]:
    """Look at the write-ahead log of the store."""
    path = file_of(settings)
    if path is None:
        return []
    size = _size(path.with_name(path.name + "-wal"))
    said = f"{_size_text(_size(path))} and a log of {_size_text(size)}"
    if size > _WAL_BYTES_ALARM:
        return [warn("log", said, "a reader holds the log up: look for other programs that have the file open")]
    return [ok("log", said)]


def _file_system(folder: Path) -> Finding:
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        return fail("file system", f"{folder} is on {kind}, a network", "put the store on a local disk")
    return ok("file system", f"{folder} is on {kind or 'an unnamed file system'}")


def _free(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    share = usage.free / usage.total if usage.total else 0.0
    said = f"{_size_text(usage.free)} free ({share:.0%})"
    if usage.free < max(_FREE_BYTES_MIN, usage.total * _FREE_SHARE_MIN):
        return fail("disk", said, "free some: new messages are refused below 256 MiB or 5 %")
    return ok("disk", said)


def _rights(path: Path) -> Finding:
    where = path if path.exists() else path.parent
    if not os.access(path.parent, os.W_OK) or not os.access(where, os.R_OK | os.W_OK):
        return fail("rights", f"{where} can't be written by this user", "run as the user of the services")
    if path.exists() and path.stat().st_mode & 0o077:
        mode = oct(path.stat().st_mode & 0o777)
        return warn("rights", f"{path} can be read by others ({mode})", f"chmod 600 {path}")
    return ok("rights", f"{where} can be written by this user")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _size_text(size: int) -> str:
    return f"{size / _MIB:,.1f} MiB" if size < _GIB else f"{size / _GIB:,.1f} GiB"


async def database(store: Store) -> list[Finding]:
    """Look at what slows the store's database down from outside, or has damaged it."""
    if not isinstance(store, Alarming):
        return []
    said = [*await store.alarms(), *await _damaged(store)]
    if not said:
        return [ok("database", "nothing slows it down, and no damage was met")]
    return [warn("database", *alarm.split(": ", 1)) for alarm in said]


async def _damaged(store: Store) -> list[str]:
    """Say how many dead letters, of those that died first, are dead because their bytes have changed."""
    dead = await store.find(Filter(states=(State.DEAD,), limit=_DEAD_MAX, bodies=False))
    damaged = [record for record in dead if record.cause is Cause.CHECKSUM]
    if not damaged:
        return []
    return [
        f"what is stored of {len(damaged):,} dead letters has changed, as of {ids.text(damaged[0].id)}: look at the"
        " disk (its SMART values, the kernel's log); `ringpost dead show` says more"
    ]
