"""Subscriptions that nobody attends are suspended, those of the living never; who comes back gets events again."""

import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from ringpost import Contract, Event, Service
from ringpost.core import notes
from ringpost.core.message import Message
from ringpost.core.notes import Subscription
from ringpost.core.subscription import SUSPEND_AFTER_MS, abandoned, seen
from ringpost.service import attendance
from ringpost.service.attendance import Attendance
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note, Store
from ringpost.store.sqlite.store import SqliteStore

HOUR_MS = 3_600_000
BEGIN_MS = 1_800_000_000_000


class Shop(Contract):
    sold = Event(int)


stats, audit = Service(name="stats"), Service(name="audit")


@stats.on(Shop.sold)
async def count(number: int) -> None: ...


@audit.on(Shop.sold)
async def note(number: int) -> None: ...


STATS = notes.subscription("shop.sold", "stats.on.shop.sold")


class Clock:
    def __init__(self) -> None:
        self.now_ms = BEGIN_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "a.db", Settings())
    await made.open(create=True)
    yield made
    await made.close()


def attending(store: Store, service: Service, clock: Clock) -> Attendance:
    return Attendance(store, service.handlers.values(), clock)


async def subscription(store: Store) -> Subscription:
    (found,) = await store.notes(STATS)
    return notes.decode_subscription(found.value)


async def hours(clock: Clock, observer: Attendance, count: int) -> None:
    """Let as many hours pass as a process that attends to its own and looks at others' would live them."""
    for _ in range(count):
        clock.now_ms += HOUR_MS
        await observer.say_seen()
        await observer.look()


async def publish(store: Store, number: int) -> int:
    (put,) = await store.put([Message(number.to_bytes(16, "big"), "", b"1", event="shop.sold")])
    return put.receivers


async def test_unseen_for_seven_days_is_suspended_and_back_when_it_starts(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    await attending(store, stats, clock).say_seen()
    observer = attending(store, audit, clock)
    clock.now_ms += SUSPEND_AFTER_MS - 3 * HOUR_MS
    await hours(clock, observer, 2)
    assert not (await subscription(store)).suspended
    assert await publish(store, 1) == 2
    await hours(clock, observer, 1)
    assert (await subscription(store)).suspended
    assert [await publish(store, 2), await publish(store, 3)] == [1, 1]
    assert (await subscription(store)).gap_count == 2
    caplog.set_level(logging.WARNING)
    await attending(store, stats, clock).say_seen()
    assert "2 that were published meanwhile are lost" in caplog.text
    back = await subscription(store)
    assert (back.suspended, back.gap_count, back.seen_ms) == (False, 2, clock.now_ms)
    assert await publish(store, 4) == 2


async def test_who_lives_is_not_suspended_by_a_clock_that_is_days_ahead(store: Store) -> None:
    assert await suspended_by_a_wrong_clock(store) is False


async def test_a_look_that_believes_its_clock_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin."""

    def credulous(
        subscriptions: Mapping[str, Subscription], earlier_ms: Mapping[str, int], now_ms: int
    ) -> dict[str, Subscription]:
        return abandoned(subscriptions, {name: one.seen_ms for name, one in subscriptions.items()}, now_ms)

    monkeypatch.setattr(attendance, "abandoned", credulous)
    assert await suspended_by_a_wrong_clock(store) is True


async def suspended_by_a_wrong_clock(store: Store) -> bool:
    right, ahead = Clock(), Clock()
    ahead.now_ms += 2 * SUSPEND_AFTER_MS
    living, observer = attending(store, stats, right), attending(store, audit, ahead)
    await living.say_seen()
    ever = False
    for _ in range(10):
        await hours(ahead, observer, 1)
        ever |= (await subscription(store)).suspended
        right.now_ms += HOUR_MS
        await living.say_seen()
    return ever


class ComesBack:
    """A store at which the missing service starts again just after somebody has read that it is missing."""

    def __init__(self, store: Store, back: Attendance, *, compares: bool) -> None:
        self._store = store
        self._back = back
        self._compares = compares

    async def notes(self, prefix: str) -> list[Note]:
        found = await self._store.notes(prefix)
        await self._back.say_seen()
        return found

    async def note_put(self, note: Note, expect: int | None = None) -> bool:
        return await self._store.note_put(note, expect=expect if self._compares else None)


@pytest.mark.parametrize("compares", [True, False], ids=["as_it_is", "twin_without_compare"])
async def test_who_comes_back_in_the_same_moment_wins(store: Store, compares: bool) -> None:
    clock = Clock()
    back = attending(store, stats, clock)
    await back.say_seen()
    observer = attending(store, audit, clock)
    clock.now_ms += SUSPEND_AFTER_MS - 3 * HOUR_MS
    await hours(clock, observer, 2)
    clock.now_ms += HOUR_MS
    observer._store = ComesBack(store, back, compares=compares)  # type: ignore[assignment]
    await observer.look()
    assert (await subscription(store)).suspended is not compares


@pytest.mark.parametrize(
    ("age_ms", "earlier_age_ms", "ends"),
    [
        (SUSPEND_AFTER_MS, SUSPEND_AFTER_MS, True),
        (SUSPEND_AFTER_MS - 1, SUSPEND_AFTER_MS - 1, False),
        (SUSPEND_AFTER_MS, None, False),  # looked at for the first time
        (SUSPEND_AFTER_MS, SUSPEND_AFTER_MS + HOUR_MS, False),  # seen since
    ],
)
def test_when_a_subscription_is_abandoned(age_ms: int, earlier_age_ms: int | None, ends: bool) -> None:
    one = Subscription("stats", 0, BEGIN_MS - age_ms)
    earlier = {} if earlier_age_ms is None else {"a": BEGIN_MS - earlier_age_ms}
    assert bool(abandoned({"a": one}, earlier, BEGIN_MS)) is ends


def test_a_clock_that_was_set_back_makes_nobody_look_old() -> None:
    assert seen(Subscription("stats", 0, BEGIN_MS), "stats", 0).seen_ms == BEGIN_MS
