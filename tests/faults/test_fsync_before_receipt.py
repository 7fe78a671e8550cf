"""No receipt before the sync that covers it, and one sync for many receipts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from disk import Recorder, watched
from life import Kept
from receipts import MARK, covered

from ringpost.core.message import Message
from ringpost.store.port import Put
from ringpost.store.sqlite import store as sqlite
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.writer import NORMAL, Writer

SENDERS = 64
RECEIPTS = 10_000
SYNCS_A_MESSAGE_MAX = 0.3


async def sent(
    folder: Path, receipts: int, make: type[SqliteStore] = SqliteStore, *, senders: int = SENDERS
) -> list[Any]:
    """Let many send one by one at once; give the trace with their receipts in it."""
    recorder = Recorder()
    with watched(recorder):
        store = make(folder / "a.db")
        await store.open(create=True)
        numbers = iter(range(receipts))

        async def send() -> None:
            for number in numbers:
                message = Message(MARK + number.to_bytes(12, "big"), "mail.welcome", b'{"to":"ada"}')
                (put,) = await store.put([message])
                assert not put.refused and not put.duplicate
                recorder.trace.append(Kept(message.id, message.queue, message.body))

        await asyncio.gather(*(send() for _ in range(senders)))
        await store.close()
    return recorder.trace


async def test_the_sync_comes_first_ten_thousand_times_of_ten_thousand(tmp_path: Path) -> None:
    found = covered(await sent(tmp_path, RECEIPTS))
    print(f"{found.syncs / found.receipts:.3f} syncs a message")
    assert (found.receipts, found.early) == (RECEIPTS, 0)
    assert found.syncs / found.receipts < SYNCS_A_MESSAGE_MAX


class Unsynced(Writer):
    """Commits with synchronous=NORMAL."""

    def _set_synchronous(self, level: int) -> None:
        self.db.execute(f"PRAGMA synchronous = {NORMAL}")


async def test_without_syncs_every_receipt_is_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "Writer", Unsynced)
    found = covered(await sent(tmp_path, 500))
    assert found.early == found.receipts == 500


class Hasty(SqliteStore):
    """Acknowledges before the commit."""

    async def put(self, messages: Any) -> list[Put]:
        self.putting = asyncio.ensure_future(super().put(messages))
        await asyncio.sleep(0)
        return [Put(message.id) for message in messages]


async def test_a_receipt_before_the_commit_is_seen(tmp_path: Path) -> None:
    found = covered(await sent(tmp_path, 500, Hasty))
    assert found.early > 0


async def test_one_sender_pays_for_its_own_sync(tmp_path: Path) -> None:
    """So the figure of many senders comes from sharing, not from syncs that are left out."""
    found = covered(await sent(tmp_path, 200, senders=1))
    assert found.early == 0
    assert found.syncs >= found.receipts
