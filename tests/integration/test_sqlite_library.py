"""In a process a store's file is open in one SQLite library: others are refused, or seen, and lose nothing unseen."""

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import apsw
import library_process
import pytest
import sqlalchemy

from ringpost import StoreError, UsageError
from ringpost.core.message import Kind, Message
from ringpost.settings import Settings
from ringpost.store.port import Filter
from ringpost.store.sqlite import sole_use
from ringpost.store.sqlite.store import SqliteStore

SETTINGS = Settings(durability="buffered")
RUN_S = 60
REFUSED = "the file of a store that is open in this process"
LOOK = "SELECT count(*) FROM ringpost_message"


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """Give the file of a store that is open."""
    async with opened(tmp_path / "ring post.db") as store:
        await store.put([Message(bytes(16), "mail.welcome", b"{}")])
        yield tmp_path / "ring post.db"


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, SETTINGS)
    await store.open(create=True)
    yield store
    await store.close()


async def kept(path: Path) -> list[int]:
    """Give the numbers of the messages that are there."""
    async with opened(path) as store:
        return [int.from_bytes(one.id, "big") for one in await store.find(Filter(kind=Kind.MESSAGE))]


# --- what is lost, and that it isn't


def lived(way: str, path: Path, *twins: str) -> list[str]:
    """Let a process live; gives what it has said."""
    done = subprocess.run(
        [sys.executable, library_process.__file__, way, str(path), *twins],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode < 0, done.stderr
    return done.stdout.splitlines()


async def test_what_has_a_receipt_is_there(tmp_path: Path) -> None:
    assert lived("connect", tmp_path / "a.db") == ["receipt 1", "refused", "receipt 2"]
    assert await kept(tmp_path / "a.db") == [1, 2]


async def test_no_receipt_is_given_for_what_goes_into_a_log_that_was_taken_away(tmp_path: Path) -> None:
    assert lived("connect", tmp_path / "a.db", "deaf") == ["receipt 1", "failed"]
    assert await kept(tmp_path / "a.db") == [1]


async def test_one_that_neither_hears_nor_looks_is_found(tmp_path: Path) -> None:
    assert lived("connect", tmp_path / "a.db", *library_process.TWINS) == ["receipt 1", "receipt 2"]
    with pytest.raises(StoreError, match=r"messages 2 to 2 .* were committed and are gone"):
        await kept(tmp_path / "a.db")


# --- who is refused


def relative(path: Path) -> str:
    return os.path.relpath(path)


def linked(path: Path) -> Path:
    other = path.with_name("linked.db")
    other.symlink_to(path)
    return other


def hard_linked(path: Path) -> Path:
    other = path.with_name("hard.db")
    other.hardlink_to(path)
    return other


NAMES: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "bytes": bytes,
    "relative": relative,
    "symlink": linked,
    "hard link": hard_linked,
    "read-only": lambda path: f"{path.as_uri()}?mode=ro",
    "immutable": lambda path: f"{path.as_uri()}?immutable=1",
    "host": lambda path: path.as_uri().replace("file://", "file://localhost"),
    "relative URI": lambda path: f"file:{relative(path)}",
}


@pytest.mark.parametrize("name", NAMES)
async def test_python_s_own_library_is_refused_by_whichever_name(name: str, path: Path) -> None:
    with pytest.raises(UsageError, match=REFUSED):
        sqlite3.connect(NAMES[name](path), uri=True)


def by_alchemy(path: Path) -> None:
    sqlalchemy.create_engine(f"sqlite:///{path}").connect()


def by_subclass(path: Path) -> None:
    class Connection(sqlite3.Connection):
        pass

    Connection(path)


@pytest.mark.parametrize("way", [by_alchemy, by_subclass])
async def test_what_stands_on_it_is_refused_with_it(way: Callable[[Path], None], path: Path) -> None:
    with pytest.raises(UsageError, match="in a file of their own, with an outbox table"):
        await asyncio.to_thread(way, path)


async def test_aiosqlite_is_refused_with_it(path: Path) -> None:
    with pytest.raises(UsageError, match=REFUSED):
        await aiosqlite.connect(path)


@pytest.mark.parametrize("name", [":memory:", "", "other.db", "file:other.db", "file:ring%20post.db?mode=memory"])
async def test_other_files_are_not(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with contextlib.closing(sqlite3.connect(name, uri=True)) as db:
        db.execute("CREATE TABLE t (x)")


@pytest.mark.parametrize("name", [None, 5, "\0"])
async def test_what_names_no_file_is_left_to_sqlite3(name: Any, path: Path) -> None:
    with pytest.raises((TypeError, ValueError, sqlite3.OperationalError)):
        sqlite3.connect(name, uri=True)


async def test_it_is_refused_for_as_long_as_a_store_is_open(path: Path) -> None:
    async with opened(path):
        pass
    with pytest.raises(UsageError, match=REFUSED):  # one of two is closed
        sqlite3.connect(path)
    async with opened(path.with_name("other.db")):
        pass
    with contextlib.closing(sqlite3.connect(path.with_name("other.db"))) as db:
        assert db.execute(LOOK).fetchone() == (0,)


IN_A_CHILD = """
import asyncio, os, sqlite3, sys
from ringpost.store.sqlite.store import SqliteStore

async def main(path):
    store = SqliteStore(path)
    await store.open(create=True)
    child = os.fork()
    if not child:
        db = sqlite3.connect(path)
        os._exit(db.execute("SELECT count(*) FROM ringpost_message").fetchone()[0])
    assert os.waitpid(child, 0)[1] == 0
    try:
        sqlite3.connect(path)
    except Exception as error:
        print(type(error).__name__)
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_child_may_open_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_CHILD, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("UsageError\n", "")


# --- who was there before, and who comes by a way that nobody hears of


@pytest.fixture
def connected(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open a closed store's file with Python's own library."""
    asyncio.run(kept(tmp_path / "a.db"))
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as db:
        yield db


def test_a_store_refuses_a_file_that_is_open_already(connected: sqlite3.Connection, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="open in this process already"):
        asyncio.run(kept(tmp_path / "a.db"))
    connected.close()
    assert asyncio.run(kept(tmp_path / "a.db")) == []


async def test_connections_of_the_same_library_are_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path / "a.db"):
        pass
    with contextlib.closing(apsw.Connection(str(tmp_path / "a.db"))) as db:
        async with opened(tmp_path / "a.db") as store, opened(tmp_path / "a.db") as other:
            assert db.execute(LOOK).fetchall() == [(0,)]
            for one in (store, other):
                await one.tend()
                assert await one.alarms() == []
    assert "second SQLite library" not in caplog.text


@pytest.mark.parametrize("there", [False, True])
async def test_stores_that_open_a_file_at_the_same_time_are_no_harm(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sole_use, "_ours", lambda file: False)  # what SQLite is just opening, apsw doesn't know yet
    path, has_opened, go_on = tmp_path / "a.db", threading.Event(), threading.Event()
    if there:
        await kept(path)
    slow, other = SqliteStore(path, SETTINGS), SqliteStore(path, SETTINGS)
    start = slow._writer.start

    def started(*, create: bool, accept_loss: bool) -> None:
        start(create=create, accept_loss=accept_loss)
        has_opened.set()
        assert go_on.wait(RUN_S)

    monkeypatch.setattr(slow._writer, "start", started)
    opening = asyncio.ensure_future(slow.open(create=True))
    try:
        assert await asyncio.to_thread(has_opened.wait, RUN_S)
        await other.open()
    finally:
        go_on.set()
        await opening
    await slow.close()
    with pytest.raises(UsageError, match=REFUSED):  # the other one has it still
        sqlite3.connect(path)
    await other.close()


async def test_one_that_came_by_another_way_is_seen_and_told_of(tmp_path: Path) -> None:
    said = lived("attach", tmp_path / "a.db")
    assert said[:2] == ["receipt 1", "receipt 2"]
    assert re.fullmatch(r"process \d+ had the store's file open in a second SQLite library on .* UTC: .*", said[2])
    async with opened(tmp_path / "a.db") as store:
        assert await store.alarms() == said[2:]  # to `ringpost doctor` too


# --- beside connections that are at work


class AtWork:
    """A connection of our library to another file, in the middle of a statement in another thread."""

    def __init__(self, path: Path) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._db = apsw.Connection(str(path))
        self._db.create_scalar_function("work", self._work)
        self._thread = threading.Thread(target=lambda: self._db.execute("SELECT work()").fetchall())

    def _work(self) -> int:
        self.begun.set()
        assert self.go_on.wait(RUN_S)
        return 1

    def __enter__(self) -> "AtWork":
        self._thread.start()
        assert self.begun.wait(RUN_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._thread.join(RUN_S)
        self._db.close()


async def test_a_store_opens_while_another_connection_is_at_work(tmp_path: Path) -> None:
    await kept(tmp_path / "there.db")
    with AtWork(tmp_path / "other.db"):
        for name in ("there.db", "new.db"):
            assert await kept(tmp_path / name) == []


async def test_another_library_is_refused_once_who_was_at_work_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept(tmp_path / "a.db")
    with AtWork(tmp_path / "other.db") as other, contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute(LOOK)
        monkeypatch.setattr(sole_use.time, "sleep", lambda _: other.__exit__())
        with pytest.raises(StoreError, match="not by Ringpost"):
            await kept(tmp_path / "a.db")


async def test_who_asks_without_need_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(file: object) -> bool:
        return file in [sole_use.file_at(one.filename) for one in apsw.connections()]

    await kept(tmp_path / "a.db")
    monkeypatch.setattr(sole_use, "_ours", names)
    monkeypatch.setattr(sole_use, "_descriptors", lambda file: 1)
    with AtWork(tmp_path / "other.db"), pytest.raises(apsw.ThreadingViolationError):
        await kept(tmp_path / "a.db")


# --- beside what is being closed


@pytest.fixture
def closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a file whose last descriptor is closed by another thread while it is asked whose it is."""
    asyncio.run(kept(tmp_path / "a.db"))
    left = [os.open(tmp_path / "a.db", os.O_RDONLY)]
    monkeypatch.setattr(sole_use.time, "sleep", lambda _: os.close(left.pop()) if left else None)
    return tmp_path / "a.db"


def test_a_file_that_is_just_being_closed_is_no_harm(closing: Path) -> None:
    assert asyncio.run(kept(closing)) == []


def test_who_asks_but_once_is_found(closing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole_use, "_ASKED_MAX", 1)
    with pytest.raises(StoreError, match="not by Ringpost"):
        asyncio.run(kept(closing))


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def lost_tail(path: Path) -> None:
    asyncio.run(kept(path))
    path.with_name(f"{path.name}.mark").write_bytes((9).to_bytes(8, "big"))


@pytest.mark.parametrize("spoil", [no_database, lost_tail])
def test_one_that_can_t_be_opened_is_closed_at_once(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    spoil(tmp_path / "a.db")
    with pytest.raises(StoreError) as held:  # and with it whatever its frames know
        asyncio.run(kept(tmp_path / "a.db"))
    assert held.value.__traceback__ is not None
    assert open_in(tmp_path) == []


def open_in(folder: Path) -> list[str]:
    """Name the files of a folder that this process has open."""
    names: list[str] = []
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/dev/fd/{number}"))
    return [name for name in names if name.startswith(str(folder))]
