"""A backup is one instant of a store that others go on writing to."""

import asyncio
import os
import stat
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from ringpost.cli.main import ringpost
from ringpost.client.posting import new_id
from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.settings import Settings
from ringpost.store.sqlite import backup as sqlite_backup
from ringpost.store.sqlite.backup import back_up, restore
from ringpost.store.sqlite.store import SqliteStore

BODY = b'"' + b"x" * 2000 + b'"'


def messages(count: int) -> list[Message]:
    return [Message(new_id(), "shop.order", BODY) for _ in range(count)]


def counted(path: Path) -> tuple[int, int]:
    """Count rows and payloads, which come in pairs."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        ((rows, payloads),) = db.execute(
            "SELECT (SELECT count(*) FROM ringpost_message), (SELECT count(*) FROM ringpost_payload)"
        ).fetchall()
        return rows, payloads
    finally:
        db.close()


def copies(folder: Path) -> list[str]:
    """Name all that a backup made, and may have left behind."""
    return sorted(path.name for path in folder.iterdir() if "copy" in path.name)


async def filled(path: Path, count: int) -> SqliteStore:
    store = SqliteStore(path, Settings())
    await store.open(create=True)
    await store.put(messages(count))
    return store


async def test_a_backup_is_one_instant_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_backup, "_STEP_PAGES", 16)
    store = await filled(tmp_path / "shop.db", 200)
    loop = asyncio.get_running_loop()
    steps: list[tuple[int, int]] = []

    def written_meanwhile(done: int, pages: int) -> None:
        steps.append((done, pages))
        if len(steps) <= 5:
            asyncio.run_coroutine_threadsafe(store.put(messages(10)), loop).result(30)

    try:
        size = await asyncio.to_thread(back_up, tmp_path / "shop.db", tmp_path / "copy.db", written_meanwhile)
    finally:
        await store.close()
    assert len(steps) > 5
    assert steps[-1][0] == steps[-1][1]
    assert [pages for _, pages in steps] == [steps[0][1]] * len(steps), "it never begins anew"
    assert counted(tmp_path / "copy.db") == (200, 200)
    assert counted(tmp_path / "shop.db") == (250, 250)
    assert (tmp_path / "copy.db").stat().st_size == size
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert copies(tmp_path) == ["copy.db"]


async def test_a_backup_opens_as_a_store(tmp_path: Path) -> None:
    store = await filled(tmp_path / "shop.db", 3)
    await store.close()
    back_up(tmp_path / "shop.db", tmp_path / "copy.db", lambda *_: None)
    copy = SqliteStore(tmp_path / "copy.db", Settings())
    await copy.open()
    try:
        assert [depth.ready for depth in await copy.depths()] == [3]
    finally:
        await copy.close()
    again = SqliteStore(tmp_path / "shop.db", Settings())  # and the store itself misses nothing
    await again.open()
    await again.close()


async def test_a_damaged_copy_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin that doesn't look is in the same test: then the damaged file is there."""
    store = await filled(tmp_path / "shop.db", 200)
    await store.close()
    file = bytearray((tmp_path / "shop.db").read_bytes())
    db = apsw.Connection(str(tmp_path / "shop.db"), flags=apsw.SQLITE_OPEN_READONLY)
    ((root,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'ringpost_payload'").fetchall()
    db.close()
    file[(root - 1) * 4096 : (root - 1) * 4096 + 200] = bytes(200)
    (tmp_path / "damaged.db").write_bytes(file)
    with pytest.raises(StoreError, match=r"isn't sound|can't be made"):
        back_up(tmp_path / "damaged.db", tmp_path / "copy.db", lambda *_: None)
    assert copies(tmp_path) == []
    monkeypatch.setattr(sqlite_backup, "_check", lambda *_: None)
    back_up(tmp_path / "damaged.db", tmp_path / "copy.db", lambda *_: None)
    assert (tmp_path / "copy.db").exists()


async def test_nothing_is_overwritten_and_what_is_no_store_is_refused(tmp_path: Path) -> None:
    store = await filled(tmp_path / "shop.db", 1)
    await store.close()
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(StoreError, match="there already"):
        back_up(tmp_path / "shop.db", tmp_path / "kept", lambda *_: None)
    assert (tmp_path / "kept").read_text() == "mine"
    with pytest.raises(StoreError, match="no store at"):
        back_up(tmp_path / "none.db", tmp_path / "copy.db", lambda *_: None)
    apsw.Connection(str(tmp_path / "other.db")).execute("CREATE TABLE t (x)").fetchall()
    with pytest.raises(StoreError, match="holds no Ringpost store"):
        back_up(tmp_path / "other.db", tmp_path / "copy.db", lambda *_: None)
    with pytest.raises(StoreError, match="can't be written"):
        back_up(tmp_path / "shop.db", tmp_path / "no" / "folder.db", lambda *_: None)


async def test_the_command_says_what_it_made_or_what_to_use(tmp_path: Path) -> None:
    store = await filled(tmp_path / "shop.db", 1)
    await store.close()
    url = f"sqlite:///{tmp_path}/shop.db"
    made = await asyncio.to_thread(CliRunner().invoke, ringpost, ["backup", str(tmp_path / "copy.db"), "--store", url])
    assert made.exit_code == 0, made.output
    assert "MB, checked" in made.stdout
    for other, said in (("postgresql://db/shop", "pg_dump"), ("memory:", "only a store in a file")):
        refused = await asyncio.to_thread(CliRunner().invoke, ringpost, ["backup", "x", "--store", other])
        assert refused.exit_code == 2
        assert said in refused.stderr


# --- restore


def quiet(*_: int) -> None:
    return


def test_restore_makes_the_store_in_the_past_and_what_was_given_out_since_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_fence, new_fence, numbers = asyncio.run(past_and_present(tmp_path))
    assert new_fence > last_fence, "a fence of the past can't win"
    assert numbers == sorted(set(numbers)), "no number is given out again"

    monkeypatch.setattr(sqlite_backup, "_begin_anew", lambda *_: None)  # the twin: the file as it was
    (tmp_path / "twin").mkdir()
    with pytest.raises(StoreError, match="committed and are gone"):
        asyncio.run(past_and_present(tmp_path / "twin"))


def leases(path: Path) -> list[int]:
    """Give the leases of what runs, as the file has them."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [lease for (lease,) in db.execute("SELECT lease_ms FROM ringpost_message WHERE state = 5")]
    finally:
        db.close()


async def past_and_present(folder: Path) -> tuple[int, int, list[int]]:
    """Back up, go on, and restore: gives the last fence of before, the first of after, and refs of before and after."""
    path = folder / "shop.db"
    store = await filled(path, 2)
    before = (await store.claim({"shop.order": 1}, 1, 300.0)).deliveries
    await asyncio.to_thread(back_up, path, folder / "copy.db", quiet)
    await store.put(messages(1))
    since = (await store.claim({"shop.order": 5}, 1, 300.0)).deliveries
    assert len(since) == 2
    await store.close()
    with pytest.raises(StoreError, match="never overwritten"):
        restore(folder / "copy.db", path, "ada", quiet)
    for name in os.listdir(folder):
        if name in ("shop.db", "shop.db-wal", "shop.db-shm"):
            os.unlink(folder / name)
    restore(folder / "copy.db", path, "ada", quiet)

    store = SqliteStore(path, Settings())
    await store.open()
    try:
        (put,) = await store.put(messages(1))
        (new,) = await store.read([put.id])
        assert new is not None
        assert leases(path) == [2] * len(before), "the lease of before is void"
        again = (await store.claim({"shop.order": 5}, 2, 30.0)).deliveries
        return since[0].fence, again[0].fence, [max(one.ref for one in since), new.ref]
    finally:
        await store.close()


def test_a_log_that_was_left_is_refused(tmp_path: Path) -> None:
    async def make() -> None:
        store = await filled(tmp_path / "shop.db", 1)
        await store.close()

    asyncio.run(make())
    back_up(tmp_path / "shop.db", tmp_path / "copy.db", quiet)
    (tmp_path / "other.db-wal").write_bytes(b"old")
    with pytest.raises(StoreError, match=r"other\.db-wal is there"):
        restore(tmp_path / "copy.db", tmp_path / "other.db", "ada", quiet)
    with pytest.raises(StoreError, match="no backup at"):
        restore(tmp_path / "none.db", tmp_path / "new.db", "ada", quiet)
    (tmp_path / "bad.json").write_text('{"no": "database"}' * 100)
    (tmp_path / "half.db").write_bytes((tmp_path / "copy.db").read_bytes()[: 3 * 4096])
    for bad in ("bad.json", "half.db"):
        with pytest.raises(StoreError, match=f"{bad} is no backup of a store, or a damaged one"):
            restore(tmp_path / bad, tmp_path / "new.db", "ada", quiet)
    made = CliRunner().invoke(
        ringpost, ["restore", str(tmp_path / "copy.db"), "--store", f"sqlite:///{tmp_path}/new.db"]
    )
    assert made.exit_code == 0, made.output
    assert counted(tmp_path / "new.db") == (1, 1)
