"""The power goes at any moment: what was acknowledged is there, nothing is corrupt, and the work goes on."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from surveys import Survey, lived, survey

from ringpost.store.port import Put
from ringpost.store.sqlite import schema as sqlite_schema
from ringpost.store.sqlite import store as sqlite
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.writer import NORMAL, Writer

IMAGES = 2_000
TWIN_IMAGES = 100
MESSAGES = 250


async def test_two_thousand_power_cuts_lose_nothing_and_corrupt_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    trace = await lived(tmp_path, seed, MESSAGES)
    found = await survey(trace, IMAGES, seed)
    assert found.images == IMAGES
    assert found.wrong == {}, f"seed {seed}"


# --- twins


async def found_in(folder: Path, **twin: Any) -> Survey:
    return await survey(await lived(folder, 7, MESSAGES, **twin), TWIN_IMAGES, 7)


def count(found: Survey, part: str) -> int:
    """Say in how many images something with these words was found."""
    return len({moment for complaint, moments in found.wrong.items() if part in complaint for moment in moments})


class Unsynced(Writer):
    """Commits with synchronous=NORMAL, as many wrappers of SQLite do for speed."""

    def _set_synchronous(self, level: int) -> None:
        self.db.execute(f"PRAGMA synchronous = {NORMAL}")


async def test_a_store_that_does_not_sync_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "Writer", Unsynced)
        trace = await lived(tmp_path, 7, MESSAGES)
    found = await survey(trace, TWIN_IMAGES, 7)
    assert count(found, "is lost") + count(found, "are gone") > TWIN_IMAGES / 10


class Hasty(SqliteStore):
    """Acknowledges before the commit."""

    async def put(self, messages: Any) -> list[Put]:
        asyncio.ensure_future(super().put(messages))  # noqa: RUF006 (that nobody waits for it is the fault)
        await asyncio.sleep(0)
        return [Put(message.id) for message in messages]


async def test_a_receipt_before_the_commit_is_found_out(tmp_path: Path) -> None:
    found = await found_in(tmp_path, make=lambda path, clock: Hasty(path, clock=clock))
    assert count(found, "is lost") > 0


async def test_fences_that_do_not_leap_at_boot_are_given_out_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = await lived(tmp_path, 7, MESSAGES)
    monkeypatch.setattr(sqlite_schema, "FENCE_LEAP", 0)
    found = await survey(trace, 4 * TWIN_IMAGES, 7)
    assert count(found, "under a fence that is no higher") > 0
