"""Wake-ups between two stores on one file. The poll is switched off: what wakes must be the bell."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ringpost.core import ids
from ringpost.core.message import Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.sqlite import waiting as sqlite_waiting
from ringpost.store.sqlite.store import SqliteStore

QUEUE = "mail.welcome"
HOLDER = 7
GUARD_S = 30.0


@pytest.fixture
async def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    monkeypatch.setattr(sqlite_waiting, "POLL_S", 3600.0)
    async with AsyncExitStack() as stack:
        opened: list[SqliteStore] = []
        for _ in range(2):
            store = SqliteStore(tmp_path / "store.db", Settings())
            await store.open(create=True)
            stack.push_async_callback(store.close)
            opened.append(store)
        yield opened[0], opened[1]


def blind_at_first(watched: Callable[[], bool]) -> Callable[[], bool]:
    """Make a turn begin before anybody waits, and end when somebody does."""
    answers = iter([False])
    return lambda: next(answers, None) is None and watched()


@pytest.mark.parametrize("same_process", [True, False])
async def test_who_begins_to_wait_during_a_commit_is_woken_by_it(
    stores: tuple[SqliteStore, SqliteStore], same_process: bool
) -> None:
    worker, other = stores
    waiter = worker if same_process else other
    message = Message(id=ids.uuid7(2**47, 1), queue=QUEUE, body=b"{}")
    await worker.put([message])
    (delivery,) = (await worker.claim({QUEUE: 1}, HOLDER, 30.0)).deliveries
    waiting = asyncio.ensure_future(waiter.wait(frozenset(), frozenset([message.id]), GUARD_S))
    async with asyncio.timeout(GUARD_S):
        await waiter.read([message.id])  # by now it has looked
        worker._writer._watched = blind_at_first(worker._watched)
        assert await worker.settle([Settlement(delivery, State.SUCCEEDED)]) == [True]
        assert (await waiting).ids == {message.id}


@pytest.mark.parametrize("same_process", [True, False])
async def test_who_listens_to_a_queue_is_woken_by_a_put(
    stores: tuple[SqliteStore, SqliteStore], same_process: bool
) -> None:
    sender, other = stores
    waiter = sender if same_process else other
    waiting = asyncio.ensure_future(waiter.wait(frozenset([QUEUE]), frozenset(), GUARD_S))
    async with asyncio.timeout(GUARD_S):
        await waiter.read([ids.uuid7(2**47, 9)])
        await sender.put([Message(id=ids.uuid7(2**47, 2), queue=QUEUE, body=b"{}")])
        assert (await waiting).queues == {QUEUE}
