"""The log of an event under those who publish meanwhile: nothing is passed over, however late its commit."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from postgres_stores import PostgresStores

from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.core.message import Message, Settlement, State
from ringpost.core.notes import Subscription
from ringpost.settings import Settings
from ringpost.store.port import Note, Store
from ringpost.store.postgres import log as postgres_log
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.sqlite import put as sqlite_put
from ringpost.store.sqlite.store import SqliteStore
from ringpost.testing.conformance.suite import LEASE_S, new_id

EVENT, QUEUE = "shop.bought", "stats.on.shop.bought"
SETTINGS = Settings(durability="buffered")


def bought(body: bytes) -> Message:
    return Message(new_id(), "", body, event=EVENT, log_s=3600)


async def begin(store: Store) -> None:
    """Subscribe from the beginning."""
    name = notes.subscription(EVENT, QUEUE)
    assert await store.note_put(Note(name, notes.encode(Subscription(behind=True))), expect=0)


async def is_behind(store: Store) -> bool:
    (note,) = await store.notes(notes.subscription(EVENT, QUEUE))
    return notes.decode_subscription(note.value).behind


async def handled(store: Store) -> list[bytes]:
    """Handle all that is there, and give the bodies."""
    done: list[bytes] = []
    settlements: list[Settlement] = []
    while True:
        claimed = await store.claim({QUEUE: 100}, 1, LEASE_S, settlements)
        assert all(claimed.settled)
        if not claimed.deliveries:
            return done
        done += [one.body for one in claimed.deliveries]
        settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]


@pytest.fixture
async def three(stores: PostgresStores) -> AsyncIterator[list[PostgresStore]]:
    """Give three stores as three processes have them."""
    first, _ = stores.empty(SETTINGS)
    made = [first, *(PostgresStore(stores.url, SETTINGS) for _ in range(2))]
    for store in made:
        await store.open()
    yield made
    for store in made:
        await store.close()


@pytest.fixture
async def session(stores: PostgresStores) -> AsyncIterator[Any]:
    connection: Any = await asyncpg.connect(stores.url)
    yield connection
    await connection.close()


async def around_a_late_commit(store: PostgresStore, session: Any) -> tuple[list[bytes], list[bytes]]:
    """Subscribe while a program's own transaction that has published is held open; give what was handled before its
    commit, and after it."""
    joined = await store.join([bought(b"late")])
    transaction = session.transaction()
    await transaction.start()
    await joined.put(session.fetch)
    await store.put([bought(b"early")])  # its place is behind the other's, its commit before it
    await begin(store)
    for _ in range(2):
        await store.catch_up(EVENT, QUEUE)
    before = await handled(store)
    await transaction.commit()
    for _ in range(2):
        await store.catch_up(EVENT, QUEUE)
    return before, await handled(store)


async def test_a_commit_that_comes_late_is_not_passed_over(three: list[PostgresStore], session: Any) -> None:
    before, after = await around_a_late_commit(three[0], session)
    assert (before, after) == ([], [b"late", b"early"])
    assert not await is_behind(three[0])


async def test_who_reads_on_from_a_place_passes_over_it(
    three: list[PostgresStore], session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: the log is read without being closed."""

    async def close(*given: object) -> None:
        """Close nothing."""

    monkeypatch.setattr(postgres_log, "close", close)
    before, after = await around_a_late_commit(three[0], session)
    assert (before, after) == ([b"early"], []), "and the late one is lost"


async def test_an_open_transaction_keeps_nobody_from_publishing(three: list[PostgresStore], session: Any) -> None:
    joined = await three[0].join([bought(b"late")])
    async with session.transaction():
        await joined.put(session.fetch)
        await begin(three[0])
        step = asyncio.ensure_future(three[0].catch_up(EVENT, QUEUE))
        for number in range(5):
            await asyncio.wait_for(three[1].put([bought(b"%d" % number)]), 20)
        done = await step
        assert (done.given, done.behind, done.more) == (0, True, False)


async def test_a_snapshot_of_before_may_not_publish_what_is_kept(three: list[PostgresStore], session: Any) -> None:
    joined = await three[0].join([bought(b"1")])
    async with session.transaction(isolation="repeatable_read"):
        with pytest.raises(UsageError, match="READ COMMITTED"):
            await joined.put(session.fetch)


async def test_of_one_id_published_at_the_same_moment_one_is_kept(three: list[PostgresStore]) -> None:
    sent = bought(b"1")
    puts = await asyncio.gather(*(store.put([sent]) for store in three))
    assert sorted(put[0].duplicate for put in puts) == [False, True, True]
    await begin(three[0])
    await three[0].catch_up(EVENT, QUEUE)
    assert await handled(three[0]) == [b"1"]


async def publish_held(store: PostgresStore, url: str, chance: random.Random, bodies: list[bytes]) -> None:
    """Publish each in a transaction that is held open for a moment, in an order that isn't that of the commits."""
    connection: Any = await asyncpg.connect(url)
    for body in bodies:
        joined = await store.join([bought(body)])
        async with connection.transaction():
            await joined.put(connection.fetch)
            await asyncio.sleep(chance.random() / 50)
    await connection.close()


async def test_under_publishers_that_never_pause_each_event_is_given_once(
    three: list[PostgresStore], stores: PostgresStores
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    bodies = [b"%04d" % number for number in range(120)]
    publishing = [
        asyncio.ensure_future(publish_held(three[at % 3], stores.url, random.Random(seed + at), bodies[at::4]))
        for at in range(4)
    ]
    await asyncio.sleep(0.1)
    await begin(three[0])
    seen: list[bytes] = []

    async def read(store: PostgresStore) -> None:
        while await is_behind(store):
            await store.catch_up(EVENT, QUEUE, chance.randrange(1, 20))
            seen.extend(await handled(store))

    await asyncio.wait_for(asyncio.gather(*publishing, read(three[1]), read(three[2])), 60)
    seen += await handled(three[0])
    assert Counter(seen) == Counter(bodies)


async def test_a_flipped_bit_is_passed_over_and_noted(three: list[PostgresStore], session: Any) -> None:
    sent = [bought(b"1"), bought(b"2")]
    await three[0].put(sent)
    await session.execute("UPDATE ringpost.log SET body = '3' WHERE body = '1'")
    await begin(three[0])
    done = await three[0].catch_up(EVENT, QUEUE)
    assert (done.given, done.damaged, await handled(three[0])) == (1, 1, [b"2"])
    assert [(one.who, one.what) for one in await three[0].audit(sent[0].id)] == [("catch_up", "checksum")]


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    yield store
    await store.close()


async def test_a_flipped_bit_in_the_file_is_passed_over_and_noted(file: SqliteStore) -> None:
    sent = [bought(b"1"), bought(b"2")]
    await file.put(sent)
    file._writer.db.execute("UPDATE ringpost_log SET body = x'33' WHERE body = x'31'")
    await begin(file)
    done = await file.catch_up(EVENT, QUEUE)
    assert (done.given, done.damaged, await handled(file)) == (1, 1, [b"2"])
    assert [(one.who, one.what) for one in await file.audit(sent[0].id)] == [("catch_up", "checksum")]


async def test_a_step_holds_eight_megabytes_at_most(file: SqliteStore) -> None:
    await file.put([bought(bytes(3 << 20)) for _ in range(4)])
    await begin(file)
    assert [(await file.catch_up(EVENT, QUEUE)).given for _ in range(2)] == [3, 1]


async def test_on_a_full_disk_nothing_new_is_logged(file: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file._writer, "_room", lambda: sqlite_put.Room(10, 1 << 20, True))
    (put,) = await file.put([bought(b"1")])
    assert put.refused == "disk"
    await begin(file)
    assert (await file.catch_up(EVENT, QUEUE)).given == 0
