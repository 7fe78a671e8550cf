"""How a SQLite store is opened, what it refuses, and what it leaves on the disk."""

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core.message import Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
from ringpost.store.migration import Step
from ringpost.store.sqlite import schema as sqlite_schema
from ringpost.store.sqlite import writer as sqlite_writer
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.turnstile import Turnstile


def message(number: int, queue: str = "a.b", body: bytes = b"{}") -> Message:
    return Message(number.to_bytes(16, "big"), queue, body)


async def opened(path: Path, *, create: bool = True, settings: Settings | None = None) -> SqliteStore:
    store = SqliteStore(path, settings)
    await store.open(create=create)
    return store


async def test_a_missing_file_is_made_only_by_who_may(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="`ringpost run` with this URL creates it"):
        await opened(tmp_path / "a.db", create=False)
    assert os.listdir(tmp_path) == []
    with pytest.raises(StoreError, match="folder"):
        await opened(tmp_path / "nowhere" / "a.db")


async def test_a_folder_that_takes_no_file_is_told_in_words() -> None:
    with pytest.raises(StoreError, match=r"the store /proc/a\.db can't be opened: "):
        await opened(Path("/proc/a.db"))


async def test_an_empty_file_is_no_store_to_who_may_not_make_one(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    with pytest.raises(StoreError, match="holds no Ringpost store"):
        await opened(tmp_path / "a.db", create=False)


async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"letters to my grandmother" * 100)
    with pytest.raises(StoreError, match="not a SQLite database"):
        await opened(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes() == b"letters to my grandmother" * 100


async def test_every_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = await opened(tmp_path / "a.db")
        await store.put([message(1)])
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path) if entry.is_file()}
        await store.close()
    finally:
        os.umask(before)
    assert {"a.db", "a.db-wal", "a.db.gate", "a.db.room", "a.db.mark"} <= modes.keys()
    assert set(modes.values()) == {0o600}


async def test_the_promises_of_the_file_are_set_and_read_back(tmp_path: Path) -> None:
    sqlite_schema.place(tmp_path / "a.db", create=True)
    db = sqlite_schema.connect(tmp_path / "a.db")
    wanted = {"journal_mode": "wal", "synchronous": 2, "wal_autocheckpoint": 0, "page_size": 4096, "cache_size": -16384}
    assert {name: db.pragma(name) for name in wanted} == wanted
    db.close()


class AnyTime(Turnstile):
    """The twin: the file is opened without the turn."""

    def take(self) -> None:
        pass


@pytest.mark.parametrize("twin", [False, True])
async def test_who_opens_a_new_file_waits_for_another_who_makes_it(
    twin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite lets nobody wait who wants to give a file its write-ahead log while another does the same."""
    path = tmp_path / "a.db"
    path.touch()
    with closing(Turnstile(path)) as turn, closing(apsw.Connection(str(path))) as maker:
        turn.take()
        maker.execute("BEGIN IMMEDIATE; CREATE TABLE x(y)")
        if twin:
            monkeypatch.setattr(sqlite_writer, "Turnstile", AnyTime)
        opening = asyncio.create_task(opened(path))
        await asyncio.to_thread(wait_until, lambda: opening.done() or is_locked(f"{path}.gate"))
        maker.execute("COMMIT")
        maker.pragma("journal_mode", "wal")
        turn.leave()
        if twin:
            with pytest.raises(StoreError, match="database is locked"):
                await opening
        else:
            await (await opening).close()


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def is_locked(path: str) -> bool:
    with open(path) as gate:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StoreError, match=r"3\.51\.3"):
        await opened(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/data/shop", "nfs4"), ("/data", "nfs4"), ("/data2", "ext4"), ("/", "ext4"), ("/my disk", "xfs")],
)
def test_the_file_system_of_a_folder_is_known(folder: str, kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "40 22 0:50 / /data rw,relatime shared:9 - nfs4 server:/export rw\n"
        "41 22 0:51 / /my\\040disk rw - xfs /dev/vdb rw\n"
    )
    assert sqlite_schema.file_system(Path(folder), mounts) == kind


def test_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sqlite_schema, "file_system", lambda folder: "nfs4")  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(StoreError, match="network file system"):
        sqlite_schema.place(tmp_path / "a.db", create=True)


async def test_a_file_from_newer_code_is_refused(tmp_path: Path) -> None:
    await (await opened(tmp_path / "a.db")).close()
    db = apsw.Connection(str(tmp_path / "a.db"))
    db.execute("UPDATE ringpost_meta SET value = 99 WHERE key IN ('schema', 'needs')")
    db.close()
    with pytest.raises(StoreError, match="install a newer Ringpost"):
        await opened(tmp_path / "a.db")


async def test_an_older_file_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(tmp_path / "a.db")
    await store.put([message(1)])
    await store.close()
    step = "CREATE TABLE ringpost_later (x INTEGER) STRICT;"
    steps = (*sqlite_schema.STEPS, Step(step))
    monkeypatch.setattr(sqlite_schema, "STEPS", steps)
    store = await opened(tmp_path / "a.db", create=False)
    assert (await store.put([message(1)]))[0].duplicate
    await store.close()
    db = apsw.Connection(str(tmp_path / "a.db"))
    assert db.execute("SELECT value FROM ringpost_meta WHERE key = 'schema'").fetchall() == [(len(steps),)]
    assert db.execute("SELECT count(*) FROM ringpost_later").fetchall() == [(0,)]
    db.close()


async def test_a_migration_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await opened(tmp_path / "a.db")).close()
    with monkeypatch.context() as patch:
        step = "CREATE TABLE ringpost_later (x INTEGER) STRICT; SELECT no_such_function();"
        patch.setattr(sqlite_schema, "STEPS", (*sqlite_schema.STEPS, Step(step)))
        with pytest.raises(apsw.SQLError):
            await opened(tmp_path / "a.db")
    store = await opened(tmp_path / "a.db")
    await store.close()


async def test_one_store_keeps_its_identity(tmp_path: Path) -> None:
    first = await opened(tmp_path / "a.db")
    second = await opened(tmp_path / "a.db", create=False)
    other = await opened(tmp_path / "b.db")
    assert first.facts.store_id == second.facts.store_id != other.facts.store_id
    for store in (first, second, other):
        await store.close()


async def test_closing_brings_everything_into_the_file(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    await store.put([message(number) for number in range(100)])
    await store.close()
    await store.close()
    assert not (tmp_path / "a.db-wal").exists()
    assert not list((tmp_path / "a.db.wake").glob("*.sock"))
    with pytest.raises(StoreError, match="not open"):
        await store.put([message(200)])


async def test_a_store_is_no_good_after_a_fork(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    store._pid -= 1
    with pytest.raises(StoreError, match="fork"):
        await store.put([message(1)])
    store._pid += 1
    await store.close()


async def test_a_message_beyond_what_a_row_holds_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    with pytest.raises(UsageError, match="at most"):
        await store.put([message(1), message(2, body=bytes(5 << 20))])
    with pytest.raises(UsageError, match="16 bytes"):
        await store.put([Message(b"short", "a.b", b"")])
    assert await store.read([message(1).id]) == [None]
    await store.close()


async def test_leases_of_another_boot_are_void_and_fences_leap(tmp_path: Path) -> None:
    boots = iter(["one", "two", "two"])
    clock = HostClock(uptime_ms=lambda: 5_000_000, boot_id=lambda: next(boots))
    store = SqliteStore(tmp_path / "a.db", clock=clock)
    await store.open(create=True)
    await store.put([message(1)])
    before = (await store.claim({"a.b": 1}, 1, 1000.0)).deliveries[0]
    await store.close()
    now_ms = 1_000  # this boot is younger than the lease was long
    store = SqliteStore(tmp_path / "a.db", clock=HostClock(uptime_ms=lambda: now_ms, boot_id=lambda: next(boots)))
    await store.open()
    for _ in range(13):
        await store.tend()
        now_ms += 1_000
    after = (await store.claim({"a.b": 1}, 2, 30.0)).deliveries[0]
    assert after.id == before.id
    assert after.losses == 1
    assert after.fence >= before.fence + (1 << 20)
    assert await store.settle([Settlement(before, State.SUCCEEDED), Settlement(after, State.SUCCEEDED)]) == [
        False,
        True,
    ]
    await store.close()


def test_importing_the_package_loads_no_driver() -> None:
    code = "import sys, ringpost, ringpost.store; print(any(name.startswith('apsw') for name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


async def test_renewing_blocks_no_loop_and_is_heard(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    await store.put([message(1)])
    await store.claim({"a.b": 1}, 7, 30.0)
    renewed = await asyncio.to_thread(store.renew, 7, 30.0)
    assert renewed.held == 1
    await store.close()
