"""Several processes on one PostgreSQL store: claims are disjoint, lines never sleep, and all are woken."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
from postgres_stores import PostgresStores, until_it_waits

from ringpost.core.message import Answer, Delivery, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Claimed, Note, SqlTransaction
from ringpost.store.postgres import bell as postgres_bell
from ringpost.store.postgres import claim as postgres_claim
from ringpost.store.postgres import db as postgres_db
from ringpost.store.postgres import schema as postgres_schema
from ringpost.store.postgres import settle as postgres_settle
from ringpost.store.postgres import tend as postgres_tend
from ringpost.store.postgres import turn as postgres_turn
from ringpost.store.postgres import waiting as postgres_waiting
from ringpost.store.postgres.bell import Bell
from ringpost.store.postgres.db import Db
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.postgres.turn import Queues, Turn
from ringpost.testing.conformance import CASES, Violation, check
from ringpost.testing.conformance.suite import LEASE_S, LOST_S, QUEUE, lined, message, reservation

SETTINGS = Settings(durability="buffered")
COUNT = 600


@pytest.fixture
async def four(stores: PostgresStores) -> AsyncIterator[list[PostgresStore]]:
    """Give four stores as four processes have them: nothing but the database connects them."""
    first, _ = stores.empty(SETTINGS)
    made = [first, *(PostgresStore(stores.url, SETTINGS) for _ in range(3))]
    for store in made:
        await store.open()
    yield made
    for store in made:
        await store.close()


async def drain(store: PostgresStore, holder: int) -> list[Delivery]:
    done: list[Delivery] = []
    settlements: list[Settlement] = []
    while True:
        claimed = await store.claim({QUEUE: 20}, holder, LEASE_S, settlements)
        assert all(claimed.settled)
        if not claimed.deliveries:
            return done
        done += claimed.deliveries
        settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]


async def test_claims_of_several_are_disjoint(four: list[PostgresStore]) -> None:
    sent = [message(b"%d" % number) for number in range(COUNT)]
    await four[0].put(sent)
    parts = await asyncio.gather(*(drain(store, 100 + at) for at, store in enumerate(four)))
    assert Counter(one.id for part in parts for one in part) == Counter(one.id for one in sent)
    fences = [{one.fence for one in part} for part in parts]
    assert sum(len(part) for part in fences) == len(set().union(*fences)), "every claim has a fence of its own"


async def test_one_key_reserved_by_several_runs_once(four: list[PostgresStore]) -> None:
    sent = [Message(message().id, QUEUE, b"1", dedup=b"k" * 16, digest=b"d" * 16) for _ in range(40)]
    puts = await asyncio.gather(*(four[at % 4].put([one]) for at, one in enumerate(sent)))
    assert len({put[0].id for put in puts}) == 1
    assert [put[0].duplicate for put in puts].count(False) == 1


async def race_in_line(four: list[PostgresStore], bodies: int) -> list[bytes]:
    """Put into one line from one process while another ends its heads; give what came before the line fell asleep."""
    done: list[bytes] = []

    async def send() -> None:
        for number in range(bodies):
            await four[0].put([lined(b"%03d" % number)])

    async def work() -> None:
        empty = 0
        while len(done) < bodies and empty < 200:
            claimed = await four[1].claim({QUEUE: 1}, 1, LEASE_S)
            empty = 0 if claimed.deliveries else empty + 1
            for one in claimed.deliveries:
                done.append(one.body)
                await four[1].settle([Settlement(one, State.SUCCEEDED)])

    await asyncio.gather(send(), work())
    return done


async def test_a_line_that_several_use_never_sleeps(four: list[PostgresStore]) -> None:
    assert await race_in_line(four, 60) == [b"%03d" % number for number in range(60)]


async def test_without_the_lock_of_the_line_it_would(
    four: list[PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: a put that still sees the head, and an end that doesn't see the put."""

    async def no_lock(self: Turn, lines: object) -> None:
        """Lock nothing."""

    monkeypatch.setattr(Turn, "lock", no_lock)
    head = lined(b"1")
    await four[0].put([head])
    (delivery,) = (await four[1].claim({QUEUE: 1}, 1, LEASE_S)).deliveries
    begun = four[0].begin(lambda: "")
    await begun.lock()
    second = lined(b"2")
    # The put is under way in a transaction that isn't committed yet, when the head ends in another process.
    putting = asyncio.ensure_future(_put_within(begun, second))
    await putting
    assert await asyncio.wait_for(four[1].settle([Settlement(delivery, State.SUCCEEDED)]), 10) == [True]
    assert await begun.commit(None)
    (record,) = await four[1].read([second.id])
    assert record is not None
    assert record.state is State.WAITING, "asleep: nobody is before it, and nobody wakes it"


async def _put_within(transaction: object, sent: Message) -> None:
    from ringpost.store.postgres.put import put_all
    from ringpost.store.postgres.turn import Queues

    turn = Turn(transaction._db, Queues())  # type: ignore[attr-defined]
    await turn.queues.make(turn.db, [sent.queue])
    await put_all(turn, [sent], None)


async def test_a_put_in_one_process_wakes_another(four: list[PostgresStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_waiting, "POLL_S", 600.0)
    await heard(four[1])
    waiting = asyncio.ensure_future(four[1].wait(frozenset({QUEUE}), frozenset(), 20.0))
    await looked(four[1])
    await four[0].put([message(b"1")])
    assert QUEUE in (await waiting).queues
    (delivery,) = (await four[1].claim({QUEUE: 1}, 1, LEASE_S)).deliveries
    waiting = asyncio.ensure_future(four[0].wait(frozenset(), frozenset({delivery.id}), 20.0))
    await heard(four[0])
    await looked(four[0])
    await four[1].settle([Settlement(delivery, State.SUCCEEDED)])
    assert delivery.id in (await waiting).ids


async def test_without_notifications_polling_finds_it(
    four: list[PostgresStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bell, "_send", lambda self: None)
    waiting = asyncio.ensure_future(four[1].wait(frozenset({QUEUE}), frozenset(), 20.0))
    await looked(four[1])
    await four[0].put([message(b"1")])
    assert QUEUE in (await waiting).queues


async def heard(store: PostgresStore) -> None:
    """Wait until notifications come through to a store."""
    assert store._opened is not None
    async with asyncio.timeout(10):
        while not store._opened.bell.hears:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)


async def looked(store: PostgresStore) -> None:
    """Wait until a wait has had its first look."""
    await store.notes()


async def test_notifications_are_coalesced_and_in_no_commit(
    four: list[PostgresStore], stores: PostgresStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_bell, "GAP_S", 3600.0)
    listening = await asyncpg.connect(stores.url)
    notified: list[str] = []
    await listening.add_listener("ringpost", lambda *said: notified.append(said[3]))
    for number in range(50):
        await four[0].put([message(b"%d" % number)])
    await listening.fetch("SELECT 1")
    own = [text for text in notified if four[0]._opened.bell._name in text]  # type: ignore[union-attr]
    assert len(own) <= 1, "the first at once, the others together after the gap"
    await listening.close()


# --- processes that are stopped in the middle of it


async def lapsed_in_its_commit(
    four: list[PostgresStore], stores: PostgresStores, sent: Message
) -> tuple[SqlTransaction, Settlement]:
    """Let a handler's transaction settle a message, or the answer of a call, stop before COMMIT, and lose its lease."""
    (put,) = await four[0].put([sent])
    delivery = put.delivery or (await four[0].claim({QUEUE: 1}, 1, LEASE_S)).deliveries[0]
    begun, settlement = four[0].begin(lambda: ""), Settlement(delivery, State.SUCCEEDED, Answer(200, b"1"))
    await begun.lock()
    turn = Turn(begun._db, Queues())  # type: ignore[attr-defined]
    assert await postgres_settle.settle_all(turn, [settlement]) == [True]
    stores.advance(LOST_S)
    return begun, settlement


@pytest.mark.parametrize("sent", [message(b"1"), reservation()], ids=["message", "call"])
async def test_nobody_waits_for_who_was_stopped_in_its_commit_and_nobody_takes_that_over(
    four: list[PostgresStore], stores: PostgresStores, sent: Message
) -> None:
    begun, _ = await lapsed_in_its_commit(four, stores, sent)
    other = message(b"2")
    await four[1].put([other])
    async with asyncio.timeout(10):  # else until the server undoes it
        for _ in range(3):
            assert (await four[1].tend()).lost == 0
            stores.advance(LEASE_S / 4)
        assert [one.id for one in (await four[1].claim({QUEUE: 9}, 2, LEASE_S)).deliveries] == [other.id]
    await begun._db.commit()  # type: ignore[attr-defined]
    (record,) = await four[1].read([sent.id])
    assert record is not None
    assert record.state is State.SUCCEEDED
    await begun.rollback()


async def test_a_sweep_that_waits_for_rows_would_stand_still(
    four: list[PostgresStore], stores: PostgresStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_tend, "_LOSE", postgres_tend._LOSE.replace("SKIP LOCKED", ""))
    begun, _ = await lapsed_in_its_commit(four, stores, message(b"1"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            for _ in range(3):
                await four[1].tend()
                stores.advance(LEASE_S / 4)
    await begun.rollback()


async def stopped_in_a_turn(store: PostgresStore, note: Note) -> Db:
    """Leave a store in the middle of a turn that has written a note."""
    db = await store._opened.writer.link.get(0.0)  # type: ignore[union-attr]
    await db.begin()
    await db.fetch("UPDATE ringpost.note SET value = value WHERE name = $1", note.name)
    return db


@pytest.mark.parametrize(("pooled", "idle_s"), [(False, 0.2), (True, 0.2), (False, 60.0)], ids=["", "pooled", "twin"])
async def test_who_is_stopped_in_a_turn_is_undone_and_goes_on_later(
    stores: PostgresStores, monkeypatch: pytest.MonkeyPatch, pooled: bool, idle_s: float
) -> None:
    monkeypatch.setattr(postgres_db, "IDLE_S", idle_s)
    stores.empty(SETTINGS)
    made = [PostgresStore(f"{stores.url}{'&statement_cache_size=0' * pooled}", SETTINGS) for _ in range(2)]
    note = Note("shared", b"1")
    for store in made:
        await store.open()
    assert await made[0].note_put(note)
    stopped = await stopped_in_a_turn(made[0], note)
    if idle_s > 10:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made[1].note_put(note), 1)
        stopped.terminate()
    async with asyncio.timeout(10):
        assert await made[1].note_put(note)
        assert await made[0].note_put(note), "it takes its turn again on a new connection"
    for store in made:
        await store.close()


WAITS = (  # the twin: it waits for whoever has changed one of the rows
    "WITH made AS (INSERT INTO ringpost.queue (name) SELECT name FROM unnest($1::text[]) name"
    " ON CONFLICT DO NOTHING RETURNING no, name)"
    " SELECT no, name FROM made UNION SELECT no, name FROM ringpost.queue WHERE name = ANY($1)"
)


@pytest.mark.parametrize("twin", [False, True])
async def test_who_begins_waits_for_nobody_that_counts_a_queue(
    four: list[PostgresStore], stores: PostgresStores, monkeypatch: pytest.MonkeyPatch, twin: bool
) -> None:
    if twin:
        monkeypatch.setattr(postgres_turn, "_MAKE_QUEUE", WAITS)
    await four[0].put([message(b"1")])
    counting = await asyncpg.connect(stores.url)
    looking = await asyncpg.connect(stores.url)
    await counting.execute("BEGIN")
    await counting.execute("UPDATE ringpost.queue SET live = live WHERE name = $1", QUEUE)
    claiming = asyncio.ensure_future(four[1].claim({QUEUE: 1}, 2, LEASE_S))  # it has never heard of that queue
    try:
        await until_it_waits(claiming, looking, counting.get_server_pid())
        assert claiming.done() is not twin
    finally:
        await counting.close()
        await looking.close()
        (claimed,) = await asyncio.gather(claiming, return_exceptions=True)
    assert twin or (isinstance(claimed, Claimed) and len(claimed.deliveries) == 1)


# --- broken twins, each found by a case of the suite


def _case(name: str) -> object:
    return next(case for case in CASES if case.name.endswith(name))


@pytest.mark.parametrize(
    ("module", "name", "old", "new", "case"),
    [
        (postgres_settle, "_SETTLE", "AND m.fence = g.fence", "", "a lapsed lease is lost"),
        (postgres_claim, "_CLAIM", "AND m.state = 4 AND m.losses < 2", "", "each message to one holder"),
        (postgres_claim, "_CLAIM", "nextval('ringpost.fence')", "20000000::bigint", "one fence a claim and it rises"),
    ],
    ids=["fence not compared", "claims what is held", "one fence for all"],
)
async def test_broken_sql_is_caught(
    module: object, name: str, old: str, new: str, case: str,
    stores: PostgresStores, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole: str = getattr(module, name)
    broken = whole.replace(old, new)
    if name == "_CLAIM":
        broken = broken.replace("AND m.state = 4\n  RETURNING", "\n  RETURNING") if "state = 4" in old else broken
    assert broken != whole
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(Violation):
        await check(_case(case), stores.empty)  # type: ignore[arg-type]


async def test_a_commit_that_compares_no_fence_is_caught(stores: PostgresStores) -> None:
    whole = postgres_schema.SETTLE_ONE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    broken = whole.replace("AND m.fence = held ", "")
    assert broken != whole
    server = await asyncpg.connect(stores.url)
    try:
        await server.execute(broken)
        with pytest.raises(Violation):
            await check(_case("a lost fence commits nothing"), stores.empty)  # type: ignore[arg-type]
    finally:
        await server.execute(whole)
        await server.close()
