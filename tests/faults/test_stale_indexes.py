"""Indexes that don't fit their rows: nothing is given out on the word of an index alone, and they are made anew."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
from stale import behind_the_indexes, complaints

from ringpost.contract.errors import StoreError
from ringpost.core.message import Cause, Delivery, Message, Settlement, State
from ringpost.store.hostclock import HostClock
from ringpost.store.sqlite import claim as sqlite_claim
from ringpost.store.sqlite import damage as sqlite_damage
from ringpost.store.sqlite import rows as sqlite_rows
from ringpost.store.sqlite import tend as sqlite_tend
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.turn import Turn

QUEUE, OTHER = "mail.welcome", "mail.farewell"
LEASE_S = 30.0
NOW_MS = 1_000_000_000_000
LATER_MS = NOW_MS + 3_600_000


def message(number: int, queue: str = QUEUE) -> Message:
    return Message(number.to_bytes(16, "big"), queue, b"%d" % number, keep_s=1_000_000)


def number_of(delivery: Delivery) -> int:
    return int.from_bytes(delivery.id, "big")


@asynccontextmanager
async def a_store(path: Path, at_ms: int = NOW_MS) -> AsyncIterator[SqliteStore]:
    clock = HostClock(wall_ms=lambda: at_ms, uptime_ms=lambda: at_ms - NOW_MS + 1_000_000, boot_id=lambda: "same")
    store = SqliteStore(path, clock=clock)
    await store.open(create=True)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with four messages that are ready, and one in another queue; their rows are 1 to 5."""
    async with a_store(tmp_path / "a.db") as store:
        await store.put([*map(message, (1, 2, 3, 4)), message(5, OTHER)])
    return tmp_path / "a.db"


async def claimed(store: SqliteStore, *queues: str) -> list[int]:
    """Claim until nothing is left, and give the numbers of what came; four rounds are more than enough."""
    numbers: list[int] = []
    for _ in range(4):
        deliveries = (await store.claim(dict.fromkeys(queues or (QUEUE,), 100), 1, LEASE_S)).deliveries
        if not deliveries:
            return numbers
        numbers += map(number_of, deliveries)
    raise AssertionError(f"there is no end of it: {numbers}")


async def state_of(store: SqliteStore, number: int) -> tuple[State, Cause]:
    (record,) = await store.read([message(number).id])
    assert record is not None
    return record.state, record.cause


ASIDE = [
    ("state = 6", "it is said to be forwarded"),
    ("state = 12", "it is said to be over, and never ended"),
    ("state = 14", "the same"),
    ("state = 68", "no state has this number"),
]


@pytest.mark.parametrize("damage", [damage for damage, _ in ASIDE])
async def test_a_row_whose_state_was_damaged_is_set_aside_and_the_others_go_on(damage: str, path: Path) -> None:
    behind_the_indexes(path, f"UPDATE ringpost_message SET {damage} WHERE seq = 2")
    assert complaints(path)
    async with a_store(path) as store:
        assert await claimed(store) == [1, 3, 4]
        assert await state_of(store, 2) == (State.DEAD, Cause.CHECKSUM)
        assert [(one.ready, one.dead) for one in await store.depths()] == [(1, 0), (0, 1)]
    assert complaints(path) == []


async def test_what_is_over_is_not_handled_again(path: Path) -> None:
    behind_the_indexes(path, "UPDATE ringpost_message SET state = 10, settled_ms = created_ms + 1 WHERE seq = 2")
    async with a_store(path) as store:
        assert await claimed(store) == [1, 3, 4]
        assert await state_of(store, 2) == (State.SUCCEEDED, Cause.NONE)
    assert complaints(path) == []


async def test_an_entry_that_leads_nowhere_is_dropped(path: Path) -> None:
    behind_the_indexes(path, "DELETE FROM ringpost_message WHERE seq = 2")
    async with a_store(path) as store:
        assert await claimed(store) == [1, 3, 4]
    assert complaints(path) == []


async def test_a_row_that_its_index_misses_is_found_once_another_shows_the_damage(path: Path) -> None:
    """Its entry has another number, under which there is nothing."""
    behind_the_indexes(path, "UPDATE ringpost_message SET seq = 103 WHERE seq = 3")
    behind_the_indexes(path, "UPDATE ringpost_payload SET seq = 103 WHERE seq = 3")
    async with a_store(path) as store:
        assert await claimed(store) == [1, 2, 4, 3]
    assert complaints(path) == []


async def test_a_row_that_is_named_in_another_queue_is_given_out_in_its_own(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("UPDATE ringpost_message SET queue = (SELECT queue FROM ringpost_message WHERE seq = 5) WHERE seq = 2")
    db.close()
    behind_the_indexes(
        path, "UPDATE ringpost_message SET queue = (SELECT queue FROM ringpost_message WHERE seq = 1) WHERE seq = 2"
    )
    async with a_store(path) as store:
        assert await claimed(store, OTHER) == [5]
        assert await claimed(store) == [1, 2, 3, 4]
    assert complaints(path) == []


async def test_a_message_without_a_body_is_set_aside(path: Path) -> None:
    behind_the_indexes(path, "DELETE FROM ringpost_payload WHERE seq = 2")
    async with a_store(path) as store:
        assert await claimed(store) == [1, 3, 4]
        assert await state_of(store, 2) == (State.DEAD, Cause.CHECKSUM)


async def test_what_runs_by_its_own_account_is_left_to_its_lease(path: Path) -> None:
    behind_the_indexes(path, "UPDATE ringpost_message SET state = 5 WHERE seq = 2")
    async with a_store(path) as store:
        assert await claimed(store) == [1, 3, 4]
        assert (await state_of(store, 2))[0] is State.RUNNING
    assert complaints(path) == []


async def test_what_sqlite_finds_missing_in_an_index_is_mended_within_the_turn(path: Path) -> None:
    """A settlement takes its row out of an index in which it isn't."""
    async with a_store(path) as store:
        deliveries = (await store.claim({QUEUE: 100}, 1, LEASE_S)).deliveries
    behind_the_indexes(path, "UPDATE ringpost_message SET holder = holder + 1 WHERE seq = 2")
    async with a_store(path) as store:
        assert await store.settle([Settlement(one, State.SUCCEEDED) for one in deliveries]) == [True] * 4
        assert store.failed is None
    assert complaints(path) == []


# --- upkeep asks the rows too

OVER = "state = 10, settled_ms = created_ms + 1"
UPKEEP = {
    "due": (f"UPDATE ringpost_message SET {OVER} WHERE seq = 6", State.SUCCEEDED),
    "expired": (f"UPDATE ringpost_message SET {OVER} WHERE seq = 7", State.SUCCEEDED),
    "lapsed": (f"UPDATE ringpost_message SET {OVER}, cancel_ms = created_ms + 1 WHERE seq = 5", State.SUCCEEDED),
}
NUMBERS = {"due": 6, "expired": 7, "lapsed": 5}


async def tended(path: Path, what: str) -> State:
    """Damage what upkeep looks for, let it look an hour later, and give what has become of it."""
    async with a_store(path) as store:
        await store.claim({OTHER: 1}, 1, LEASE_S)
        due, expiring = message(6), message(7)
        due.delay_s, expiring.ttl_s = 60.0, 60.0
        await store.put([due, expiring])
    behind_the_indexes(path, UPKEEP[what][0])
    async with a_store(path, LATER_MS) as store:
        await store.tend()
        store._writer.writable_since_ms = 0  # it could write all the time: now it sweeps
        await store.tend()
        return (await state_of(store, NUMBERS[what]))[0]


@pytest.mark.parametrize("what", UPKEEP)
async def test_upkeep_moves_nothing_that_is_over(what: str, path: Path) -> None:
    assert await tended(path, what) is UPKEEP[what][1]
    assert complaints(path) == []


@pytest.mark.parametrize("what", UPKEEP)
async def test_a_twin_whose_upkeep_believes_its_indexes_is_caught(
    what: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_tend, "agree", lambda turn, rows, *states: None)
    assert await tended(path, what) is not UPKEEP[what][1]


# --- twins, and what is said


async def test_a_twin_that_believes_its_index_gives_a_row_out_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believing = sqlite_rows.FETCH_READY.replace(
        "iif(m.state = 4 AND m.queue = ?1 AND p.seq IS NOT NULL, m.crc, NULL)", "m.crc"
    )
    assert believing != sqlite_rows.FETCH_READY
    monkeypatch.setattr(sqlite_claim, "FETCH_READY", believing)
    behind_the_indexes(path, f"UPDATE ringpost_message SET {OVER} WHERE seq = 2")
    async with a_store(path) as store:
        with pytest.raises(AssertionError, match="no end of it"):
            await claimed(store)


async def test_a_twin_that_looks_at_its_own_copy_of_the_state_is_caught(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a row that was found in the index, SQLite doesn't read the state: it knows it from the index."""
    naive = sqlite_rows.FETCH_READY.replace("m.state = 4 AND", "i.state + 0 = 4 AND")
    monkeypatch.setattr(sqlite_claim, "FETCH_READY", naive)
    behind_the_indexes(path, f"UPDATE ringpost_message SET {OVER} WHERE seq = 2")
    async with a_store(path) as store:
        with pytest.raises(AssertionError, match="no end of it"):
            await claimed(store)


async def test_damage_is_told_to_the_log_and_to_the_doctor(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    behind_the_indexes(path, "UPDATE ringpost_message SET state = 68 WHERE seq = 2")
    async with a_store(path) as store:
        assert await store.alarms() == []
        await claimed(store)
        (alarm,) = await store.alarms()
        assert "Look at the disk" in caplog.text
        assert "made anew" in alarm and "2001-09-09 01:46 UTC: look at the disk" in alarm
    async with a_store(path, NOW_MS + 31 * 86_400_000) as store:
        assert await store.alarms() == []


async def test_where_the_rows_make_no_index_the_store_has_failed(path: Path) -> None:
    behind_the_indexes(path, "UPDATE ringpost_message SET id = zeroblob(16), state = 68 WHERE seq IN (2, 3)")
    async with a_store(path) as store:
        with pytest.raises(StoreError, match="has failed"):
            await claimed(store)
        assert isinstance(store.failed, apsw.CorruptError)


async def test_what_cannot_be_mended_is_not_mended_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mended = 0

    def in_vain(turn: Turn, damage: apsw.CorruptError) -> None:
        nonlocal mended
        mended += 1

    monkeypatch.setattr(sqlite_damage, "mend", in_vain)
    behind_the_indexes(path, "UPDATE ringpost_message SET state = 68 WHERE seq = 2")
    async with a_store(path) as store:
        with pytest.raises(StoreError, match="has failed"):
            await claimed(store)
    assert mended == 1
