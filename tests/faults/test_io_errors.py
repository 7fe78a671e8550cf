"""Every operation of a store's life fails once: clean errors, no receipt for what is lost, no second try of a sync."""

import logging
import random
from pathlib import Path

import apsw
import pytest
from errors import ERRORS, Error, Told, lived_with
from scene import a_client, a_scene
from surveys import a_folder
from town import Job, Town

from ringpost.contract.errors import StoreError
from ringpost.store.sqlite import disk as sqlite_disk
from ringpost.store.sqlite import highwater as highwater
from ringpost.store.sqlite import writer as sqlite_writer

MESSAGES = 200
LIVES_MAX = 5_000
BY_NAME = {error.name: error for error in ERRORS}
GROUPS = {  # of a group each operation fails in one of its ways, in turn; all ways of all operations in the soak
    "write": ["write EIO", "write ENOSPC", "write short"],
    "read": ["read EIO", "read short"],
    "sync": ["sync EIO"],
    "truncate": ["truncate EIO"],
    "mark": ["mark EIO"],
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("ringpost.store").setLevel(logging.CRITICAL + 1)


async def wrongs(errors: list[Error], offset: int = 0, *, enough: int = 10) -> tuple[dict[str, list[str]], list[Told]]:
    """Fail at every operation, until there is none left or enough was wrong; gives what was wrong, by operation."""
    wrong: dict[str, list[str]] = {}
    lives: list[Told] = []
    with a_folder() as folder:
        for number in range(1, LIVES_MAX):
            error = errors[(number + offset) % len(errors)]
            home = folder / str(number)
            home.mkdir()
            told = await lived_with(error, number, home, MESSAGES)
            if not told.reached:
                return wrong, lives
            lives.append(told)
            if told.wrong:
                wrong[f"{error.name} at operation {number}"] = told.wrong
                if len(wrong) == enough:
                    return wrong, lives
    raise AssertionError(f"a life has more than {LIVES_MAX} operations")


@pytest.mark.parametrize("group", GROUPS)
async def test_every_operation_may_fail_and_nothing_acknowledged_is_lost(group: str) -> None:
    offset = random.randrange(3)
    print(f"offset {offset}")
    wrong, lives = await wrongs([BY_NAME[name] for name in GROUPS[group]], offset)
    assert wrong == {}
    assert any(told.opened for told in lives)
    print(f"{len(lives)} operations, {sum(told.failed for told in lives)} ended the store")


# --- twins


async def test_a_store_that_tries_again_after_an_error_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer.Writer, "_fail", lambda self, exc: StoreError(str(exc)))  # type: ignore[misc]
    wrong, _ = await wrongs([BY_NAME["sync EIO"]], enough=1)
    assert any("it goes on after" in one for found in wrong.values() for one in found)


async def test_a_mark_whose_failure_ends_the_work_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highwater.HighWater, "write", _raw_write)
    with pytest.raises(OSError, match="a write failed"):
        await wrongs([BY_NAME["mark EIO"]])


def _raw_write(self: highwater.HighWater, seq: int | None, pages: int) -> None:
    highwater.os.pwrite(self._file, pages.to_bytes(8, "big"), 8)


async def test_a_commit_that_a_full_disk_takes_back_at_a_checkpoint_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite_disk.Disk, "checkpoint", _checkpoint_that_raises)
    wrong, _ = await wrongs([BY_NAME["checkpoint ENOSPC"]], enough=1)
    assert wrong


def _checkpoint_that_raises(self: sqlite_disk.Disk, pages: int) -> None:
    self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


# --- the process


@pytest.mark.parametrize("kind", ["sync EIO", "write EIO"])
async def test_the_process_of_a_failed_store_ends_with_an_error(kind: str, tmp_path: Path) -> None:
    async with a_scene(tmp_path, 2.0) as scene, a_client(store=scene.url) as client:
        scene.script = Path(__file__).with_name("failing_process.py")
        process = await scene.start("town", kind, 20)
        process.ending = True  # it is to end by itself
        for number in range(100):
            await client.send(Town.work, Job(number))
        assert await process.ended() > 0
        assert "has failed" in process.said()
        scene.script = Path(__file__).parents[1] / "integration" / "town.py"
        await scene.start("town")
        await scene.diary.until_so(lambda: {line["effect"] for line in scene.diary.all(effect=...)} == set(range(100)))
