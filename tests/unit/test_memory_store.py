"""The memory store beyond what every store must do, and how stores are named."""

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.memory.place import FIRST_FENCE
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note

QUEUE = "shop.buy"


def message(number: int, queue: str = QUEUE) -> Message:
    return Message(number.to_bytes(16, "big"), queue, b"%d" % number)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Settings())


async def test_its_receipts_are_worth_what_they_say(store: MemoryStore) -> None:
    facts = await store.open()
    assert facts.level == "buffered"
    assert facts.url == "memory:"
    assert facts.capabilities == {"lines", "priority", "find", "delay", "move"}


async def test_it_opens_whatever_durability_was_asked_for() -> None:
    assert (await MemoryStore(Settings(durability="durable")).open()).level == "buffered"


async def test_a_closed_store_takes_nothing(store: MemoryStore) -> None:
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.put([message(1)])


async def test_closing_wakes_who_waits(store: MemoryStore) -> None:
    waiting = asyncio.ensure_future(store.wait(frozenset({QUEUE}), frozenset(), 60))
    await asyncio.sleep(0)
    await store.close()
    await asyncio.wait_for(waiting, 10)


async def test_two_stores_share_nothing() -> None:
    first, second = MemoryStore(), MemoryStore()
    await first.put([message(1)])
    assert await second.depths() == []
    assert first.facts.store_id != second.facts.store_id


async def test_fences_begin_where_columns_keep_their_width(store: MemoryStore) -> None:
    await store.put([message(1)])
    (delivery,) = (await store.claim({QUEUE: 1}, 1, 30)).deliveries
    assert delivery.fence > FIRST_FENCE


async def test_a_wait_ends_at_once_while_a_claim_has_left_something(store: MemoryStore) -> None:
    await store.put([message(1), message(2)])
    await store.claim({QUEUE: 1}, 1, 30)
    assert (await asyncio.wait_for(store.wait(frozenset({QUEUE}), frozenset(), 60), 10)).queues == {QUEUE}


async def test_a_wait_goes_on_once_a_claim_found_nothing_more(store: MemoryStore) -> None:
    await store.put([message(1)])
    await store.claim({QUEUE: 2}, 1, 30)
    assert (await store.wait(frozenset({QUEUE}), frozenset(), 0)).queues == frozenset()


async def test_a_paused_queue_wakes_nobody_again_and_again(store: MemoryStore) -> None:
    await store.note_put(Note(f"pause/{QUEUE}", b"{}"))
    await store.put([message(1)])
    await store.claim({QUEUE: 1}, 1, 30)
    assert (await store.wait(frozenset({QUEUE}), frozenset(), 0)).queues == frozenset()
    await store.note_drop(f"pause/{QUEUE}")
    assert (await store.wait(frozenset({QUEUE}), frozenset(), 0)).queues == {QUEUE}


async def test_who_gave_up_waiting_is_forgotten(store: MemoryStore) -> None:
    for number in range(50):
        waiting = asyncio.ensure_future(store.wait(frozenset({f"q.{number}"}), frozenset({bytes([number])}), 60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    alarm = store._alarm
    assert (len(alarm._all), len(alarm._by_queue), len(alarm._by_id)) == (0, 0, 0)


async def test_renewing_beside_a_busy_loop(store: MemoryStore) -> None:
    """Renewals come from a thread, while the loop puts and claims."""
    stop = threading.Event()
    failures: list[Exception] = []

    def renew() -> None:
        while not stop.is_set():
            try:
                store.renew(1, 30)
            except Exception as error:  # noqa: BLE001 (whatever it is, the test must see it)
                failures.append(error)
                return

    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        for number in range(300):
            await store.put([message(number)])
            deliveries = (await store.claim({QUEUE: 1}, 1, 30)).deliveries
            await store.settle([Settlement(one, State.SUCCEEDED) for one in deliveries])
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(switch_s)
    assert not failures


# --- which store a URL names


def test_memory_is_named_by_itself() -> None:
    assert isinstance(store_for("memory:", Settings()), MemoryStore)


@pytest.mark.parametrize(("url", "path"), [("sqlite:///a.db", "a.db"), ("sqlite:////var/a.db", "/var/a.db")])
def test_sqlite_is_named_by_its_file(url: str, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ringpost.store.sqlite.store import SqliteStore

    monkeypatch.chdir(tmp_path)
    store = store_for(url, Settings())
    assert isinstance(store, SqliteStore)
    assert store.facts.url == f"sqlite:///{tmp_path / path}"


@pytest.mark.parametrize("url", ["nats://u:secret@h", "redis://:secret@h"])
def test_what_is_to_come_says_so(url: str) -> None:
    with pytest.raises(StoreError, match="not in this version") as raised:
        store_for(url, Settings())
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["", "ringpost.db", "/var/a.db", "sqlite:a.db", "sqlite://a.db", "sqlite:///", "memory:a", "mysql://u:secret@h"],
)
def test_anything_else_names_no_store(url: str) -> None:
    with pytest.raises(StoreError, match=r"names no (store|file)") as raised:
        store_for(url, Settings())
    assert "secret" not in str(raised.value)
