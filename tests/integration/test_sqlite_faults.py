"""What a SQLite store does when the disk lies, fills up, fails or loses: it notices, says so, and keeps what it can."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from ringpost.contract.errors import StoreError
from ringpost.core.message import Cause, Delivery, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
from ringpost.store.port import Note, Put
from ringpost.store.sqlite import disk as sqlite_disk
from ringpost.store.sqlite import schema as sqlite_schema
from ringpost.store.sqlite.store import SqliteStore

MIB = 1 << 20


class Faulty:
    """A connection whose statements can be made to fail."""

    def __init__(self, db: Any, fault: Callable[[str], None]) -> None:
        self.db = db
        self.fault = fault

    def execute(self, statements: str, bindings: Any = ()) -> Any:
        self.fault(statements)
        return self.db.execute(statements, bindings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def __enter__(self) -> Any:
        return self.db.__enter__()

    def __exit__(self, *exc: Any) -> Any:
        return self.db.__exit__(*exc)


class Disk:
    """Which statements fail, and how."""

    def __init__(self) -> None:
        self.failing = ""
        self.error: Exception | None = None

    def check(self, statement: str) -> None:
        if self.error is not None and statement.startswith(self.failing):
            raise self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    connect = sqlite_schema.connect
    monkeypatch.setattr(sqlite_schema, "connect", lambda path: Faulty(connect(path), made.check))  # type: ignore[misc]
    return made


def message(number: int, body: bytes = b"{}") -> Message:
    return Message(number.to_bytes(16, "big"), "a.b", body)


async def opened(path: Path, **options: Any) -> SqliteStore:
    store = SqliteStore(path, options.pop("settings", None), clock=options.pop("clock", None))
    await store.open(create=True, **options)
    return store


async def claimed(store: SqliteStore, count: int = 100) -> list[Delivery]:
    return (await store.claim({"a.b": count}, 1, 30.0)).deliveries


# --- failing


async def test_after_a_failed_sync_nothing_is_tried_again(tmp_path: Path, disk: Disk) -> None:
    failures: list[BaseException] = []
    store = SqliteStore(tmp_path / "a.db", on_failed=failures.append)
    await store.open(create=True)
    await store.put([message(1)])
    disk.failing, disk.error = "COMMIT", apsw.IOError("disk I/O error")
    with pytest.raises(StoreError, match="has failed"):
        await store.put([message(2)])
    disk.error = None  # well again, but who knows what is on it
    with pytest.raises(StoreError, match="has failed"):
        await store.put([message(3)])
    with pytest.raises(StoreError, match="has failed"):
        await store.read([message(1).id])
    with pytest.raises(StoreError, match="has failed"):
        store.renew(1, 30.0)
    assert isinstance(store.failed, apsw.IOError)
    assert failures == [store.failed]
    await store.close()


async def test_a_busy_file_is_an_error_but_no_end(tmp_path: Path, disk: Disk) -> None:
    store = await opened(tmp_path / "a.db")
    disk.failing, disk.error = "BEGIN", apsw.BusyError("database is locked")
    with pytest.raises(StoreError, match="locked"):
        await store.put([message(1)])
    disk.error = None
    assert store.failed is None
    assert not (await store.put([message(1)]))[0].duplicate
    await store.close()


# --- full


def shrink(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        values = list(real(path))
        values[0] = values[1] = 4096  # f_bsize, f_frsize
        values[2], values[3], values[4] = (10 << 30) // 4096, free_bytes // 4096, free_bytes // 4096
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", statvfs)


async def test_little_room_refuses_new_messages_and_settles_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = 1_000_000
    store = await opened(tmp_path / "a.db", clock=HostClock(uptime_ms=lambda: now_ms))
    await store.put([message(1), message(2)])
    shrink(monkeypatch, 100 * MIB)
    now_ms += 2_000
    refused = await store.put([message(1), message(3)])
    assert [put.refused for put in refused] == ["", "disk"]
    assert refused[0].duplicate
    one, two = await claimed(store)
    assert await store.settle([Settlement(one, State.SUCCEEDED, staged=[message(4)])]) == [True]
    assert (await store.read([message(4).id]))[0] is not None
    assert await store.settle([Settlement(two, State.SUCCEEDED)]) == [True]
    monkeypatch.undo()
    now_ms += 2_000
    assert (await store.put([message(3)]))[0].refused == ""
    await store.close()


async def test_a_full_disk_is_met_with_the_ballast(tmp_path: Path, disk: Disk) -> None:
    store = await opened(tmp_path / "a.db")
    ballast = f"{tmp_path}/a.db.ballast"
    assert os.stat(ballast).st_blocks * 512 >= 16 * MIB
    await store.put([message(1)])
    (delivery,) = await claimed(store)

    def full(statement: str) -> None:
        if statement == "COMMIT" and os.access(ballast, os.F_OK):
            raise apsw.FullError("database or disk is full")

    disk.check = full  # type: ignore[method-assign]
    store._writer.db.fault = full  # type: ignore[attr-defined]
    assert await store.settle([Settlement(delivery, State.SUCCEEDED)]) == [True]
    assert not os.access(ballast, os.F_OK)
    assert store.failed is None
    await store.close()


async def test_a_log_that_grows_is_brought_into_the_file(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    for start in range(0, 1000, 50):
        await store.put([message(number, bytes(50_000)) for number in range(start, start + 50)])
    log = os.stat(tmp_path / "a.db-wal").st_size
    assert os.stat(tmp_path / "a.db").st_size > 16 * MIB
    assert log < 40 * MIB
    await store.close()


async def test_a_log_that_can_not_shrink_raises_the_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, mib in (("PASSIVE_PAGES", 0.2), ("RESTART_PAGES", 0.4), ("ALARM_PAGES", 1)):
        monkeypatch.setattr(sqlite_disk, name, int(mib * MIB) // 4096)
    monkeypatch.setattr(sqlite_disk, "READERS_MS", 1)
    store = await opened(tmp_path / "a.db")
    await store.put([message(0)])
    reader = apsw.Connection(str(tmp_path / "a.db"))
    reading = reader.execute("SELECT * FROM ringpost_queue UNION ALL SELECT * FROM ringpost_queue")
    with caplog.at_level(logging.WARNING, "ringpost.store"):
        for number in range(1, 60):
            await store.put([message(number, bytes(50_000))])
    assert len([one for one in caplog.messages if "holds a read open" in one]) == 1
    reading.close()
    reader.close()
    await store.close()


# --- lost and damaged


async def test_a_lost_tail_is_noticed_and_named(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    await store.put([message(number) for number in range(10)])
    await store.close()
    shutil.copy(tmp_path / "a.db", tmp_path / "old.db")
    store = await opened(tmp_path / "a.db")
    await store.put([message(number) for number in range(10, 15)])
    await store.close()
    shutil.copy(tmp_path / "old.db", tmp_path / "a.db")
    with pytest.raises(StoreError, match=r"messages 11 to 15 .* --accept-loss"):
        await opened(tmp_path / "a.db")
    store = await opened(tmp_path / "a.db", accept_loss=True)
    await store.put([message(20)])
    (record,) = await store.read([message(20).id])
    assert record is not None
    assert record.ref == 16  # the numbers of what was lost are not given out again
    await store.close()
    await (await opened(tmp_path / "a.db")).close()


async def test_a_purge_is_no_loss(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    sent = message(1)
    sent.keep_s = 0
    await store.put([sent])
    await store.settle([Settlement(one, State.SUCCEEDED) for one in await claimed(store)])
    while await store.read([sent.id]) != [None]:
        await store.tend()
    await store.close()
    await (await opened(tmp_path / "a.db")).close()


@pytest.mark.parametrize("column", ["body", "headers"])
async def test_a_damaged_message_is_set_aside_and_the_others_go_on(column: str, tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db")
    await store.put([message(number, b'{"x":1}') for number in range(5)])
    await store.note_put(Note("queue/a.b", b'{"on_failure":"s.on_failure"}'))
    db = apsw.Connection(str(tmp_path / "a.db"))
    db.set_busy_timeout(5000)
    db.execute(f"UPDATE ringpost_payload SET {column} = CAST('{{\"x\":2}}' AS BLOB) WHERE seq = 3")
    db.close()
    assert [one.id for one in await claimed(store)] == [message(number).id for number in (0, 1, 3, 4)]
    (record,) = await store.read([message(2).id])
    assert record is not None
    assert (record.state, record.cause) == (State.DEAD, Cause.CHECKSUM)
    assert {depth.queue: depth.ready for depth in await store.depths()}.get("s.on_failure") == 1
    await store.close()


async def test_any_flipped_bit_of_a_body_is_found(tmp_path: Path) -> None:
    body = b'{"email":"someone@example.com"}'
    store = await opened(tmp_path / "a.db")
    await store.put([message(number, body) for number in range(len(body) * 8)])
    await store.close()
    db = apsw.Connection(str(tmp_path / "a.db"))
    for seq in range(1, len(body) * 8 + 1):
        flipped = bytearray(body)
        flipped[(seq - 1) // 8] ^= 1 << (seq - 1) % 8
        db.execute("UPDATE ringpost_payload SET body = ? WHERE seq = ?", (bytes(flipped), seq))
    db.close()
    store = await opened(tmp_path / "a.db")
    assert await claimed(store, 1000) == []
    assert (await store.depths())[0].dead == len(body) * 8
    await store.close()


# --- limits


async def test_a_suspended_subscription_counts_its_gap(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a.db", settings=Settings())
    name = "subscription/shop.sold/stats.on.shop.sold"
    await store.note_put(Note(name, b'{"service":"stats","suspended":true}'))
    answers: list[Put] = []
    for number in range(3):
        answers += await store.put([Message(number.to_bytes(16, "big"), "", b"{}", event="shop.sold")])
    assert [put.receivers for put in answers] == [0, 0, 0]
    (note,) = await store.notes(name)
    assert b'"gap_count":3' in note.value
    assert b'"gap_from_ms":' in note.value
    assert b'"service":"stats"' in note.value
    await store.close()
