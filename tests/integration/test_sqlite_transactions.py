"""Handlers' transactions on a SQLite file: what they may do, how long, and that nobody waits for them for ever."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from ringpost.contract.errors import RingpostError, StateError, StoreError, TransactionHeldTooLong, UsageError
from ringpost.core.message import Delivery, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import SqlTransaction
from ringpost.store.sqlite import claim as sqlite_claim
from ringpost.store.sqlite import guard as sqlite_guard
from ringpost.store.sqlite import settle as sqlite_settle
from ringpost.store.sqlite.store import SqliteStore
from ringpost.testing.conformance.suite import HOLDER, LEASE_S, QUEUE, new_id

HOLD_S = 0.08


@asynccontextmanager
async def a_store(folder: Path, hold_s: float) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(folder / "store.db", Settings(tx_hold_max_s=hold_s))
    await store.open(create=True)
    await run(store, "CREATE TABLE effect (name TEXT PRIMARY KEY, owner TEXT)")
    yield store
    await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Give a store whose turn may be held for longer than any test takes."""
    async with a_store(tmp_path, 5.0) as store:
        yield store


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Give one whose turn may be held for no longer than HOLD_S."""
    async with a_store(tmp_path, HOLD_S) as store:
        yield store


def begin(store: SqliteStore) -> SqlTransaction:
    return store.begin(lambda: "await smtp.send(…)")


async def run(store: SqliteStore, *statements: str) -> None:
    transaction = begin(store)
    for sql in statements:
        await transaction.execute((sql, ()))
    assert await transaction.commit(None)


async def insert(transaction: SqlTransaction, name: str) -> None:
    await transaction.execute(("INSERT INTO effect(name) VALUES (?)", (name,)))


async def names(store: SqliteStore) -> list[str]:
    rows = await begin(store).execute(("SELECT name FROM effect ORDER BY name", ()))
    return [row[0] for row in rows]


async def running(store: SqliteStore, count: int = 1) -> list[Delivery]:
    await store.put([Message(new_id(), QUEUE, b"%d" % number) for number in range(count)])
    return (await store.claim({QUEUE: count}, HOLDER, LEASE_S)).deliveries


# --- what is refused

REFUSED = [
    "COMMIT",
    "END",
    "ROLLBACK",
    "BEGIN",
    "SAVEPOINT a",
    "RELEASE ringpost_deferred",
    "ROLLBACK TO ringpost_deferred",
    "SELECT 1; COMMIT",
    "PRAGMA synchronous = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "SELECT * FROM pragma_journal_mode",
    "ATTACH 'other.db' AS other",
    "DETACH other",
    "ANALYZE",
    "SELECT load_extension('x')",
    "CREATE TEMP TABLE t (a)",
    "CREATE TEMP VIEW t AS SELECT 1",
    "CREATE TEMP TRIGGER t AFTER INSERT ON effect BEGIN SELECT 1; END",
    "SELECT body FROM ringpost_payload",
    "SELECT count(*) FROM RingPost_Message",
    'SELECT 1 FROM main."ringpost_message"',
    "UPDATE ringpost_message SET state = 4",
    "DELETE FROM ringpost_note",
    "INSERT INTO ringpost_meta VALUES ('a', 1)",
    "INSERT INTO effect(name) SELECT name FROM ringpost_note",
    "DROP TABLE ringpost_message",
    "ALTER TABLE ringpost_message ADD COLUMN a",
    "ALTER TABLE effect RENAME TO ringpost_effect",
    "CREATE TABLE ringpost_mine (a)",
    "CREATE INDEX mine ON ringpost_message(caller)",
    "CREATE TRIGGER mine AFTER INSERT ON ringpost_message BEGIN SELECT 1; END",
    "UPDATE sqlite_sequence SET seq = 0",
    "DELETE FROM sqlite_sequence",
]


async def test_what_is_refused_is_refused_read_written_and_deferred(store: SqliteStore) -> None:
    for sql in REFUSED:
        reading, writing = begin(store), begin(store)
        with pytest.raises(UsageError):
            await reading.execute((sql, ()))
        await reading.rollback()
        await insert(writing, sql)
        with pytest.raises(UsageError):
            await writing.execute((sql, ()))
        assert await writing.commit(None)
        with pytest.raises(UsageError):
            await begin(store).commit(None, (), [deferred("never"), (sql, ())])
    assert await names(store) == sorted(REFUSED)


async def test_a_trigger_cannot_write_what_a_statement_may_not(store: SqliteStore) -> None:
    await run(store, "CREATE TRIGGER sly AFTER INSERT ON effect BEGIN DELETE FROM ringpost_message; END")
    transaction = begin(store)
    with pytest.raises(UsageError, match="ringpost_message"):
        await insert(transaction, "a")
    await transaction.rollback()


async def test_statements_of_the_store_are_not_lent_out_of_its_cache(store: SqliteStore) -> None:
    """What the store has prepared, a user's statement of the same text must not find."""
    (delivery,) = await running(store)
    assert await store.settle([Settlement(delivery, State.SUCCEEDED)])
    transaction = begin(store)
    await transaction.lock()
    for sql in (sqlite_settle._SETTLE, sqlite_settle._RUNNING, *vars(sqlite_claim).values()):
        if isinstance(sql, str) and "ringpost_" in sql:
            with pytest.raises(UsageError):
                await transaction.execute((sql, (1, 1, 1, 1, 1, 1, 1)[: sql.count("?")]))
    await transaction.rollback()


async def test_users_have_tables_indexes_triggers_and_full_text_search(store: SqliteStore) -> None:
    await run(
        store,
        "CREATE TABLE account (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)",
        "CREATE INDEX account_name ON account(name)",
        "ALTER TABLE account ADD COLUMN balance INTEGER DEFAULT 0",
        "CREATE VIEW rich AS SELECT * FROM account WHERE balance > 10",
        "CREATE TRIGGER seen AFTER INSERT ON account BEGIN INSERT INTO effect(name) VALUES (new.name); END",
        "CREATE VIRTUAL TABLE found USING fts5(text)",
        "INSERT INTO account(name, balance) VALUES ('ada', 11)",
        "INSERT INTO found VALUES ('some words')",
    )
    reading = begin(store)
    assert await reading.execute(("SELECT name FROM rich", ())) == [("ada",)]
    assert await reading.execute(("SELECT text FROM found WHERE found MATCH 'words'", ())) == [("some words",)]
    assert await reading.execute(("SELECT name FROM pragma_table_info('effect')", ())) == [("name",), ("owner",)]
    assert await names(store) == ["ada"]


async def test_parameters_go_by_position_and_by_name(store: SqliteStore) -> None:
    transaction = begin(store)
    await transaction.execute(("INSERT INTO effect VALUES (?, ?)", ["a", None]))
    await transaction.execute(("INSERT INTO effect VALUES (:name, :owner)", {"name": "b", "owner": "c"}))
    rows = await transaction.execute(("SELECT * FROM effect ORDER BY name", ()))
    assert rows == [("a", None), ("b", "c")]
    await transaction.rollback()


# --- how long


async def test_who_holds_the_turn_for_too_long_is_rolled_back_and_told_where_it_stood(hasty: SqliteStore) -> None:
    transaction = begin(hasty)
    await insert(transaction, "a")
    (put,) = await asyncio.wait_for(hasty.put([Message(new_id(), QUEUE, b"1")]), 5)  # waits for the turn, not for ever
    assert not put.refused
    for attempt in (transaction.execute(("SELECT 1", ())), transaction.commit(None)):
        with pytest.raises(TransactionHeldTooLong, match=r"80 ms.*await smtp\.send"):
            await attempt
    await transaction.rollback()
    assert await names(hasty) == []


async def test_a_blocked_loop_does_not_keep_the_turn(hasty: SqliteStore, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "store.db", Settings())
    await other.open()
    transaction = begin(hasty)
    await insert(transaction, "a")
    renewing = asyncio.get_running_loop().run_in_executor(None, other.renew, HOLDER, LEASE_S)
    time.sleep(HOLD_S * 3)  # noqa: ASYNC251 (that is the case)
    await asyncio.wait_for(renewing, 5)
    with pytest.raises(TransactionHeldTooLong):
        await transaction.commit(None)
    await other.close()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


@pytest.mark.parametrize(
    "sql", [f"{ENDLESS} SELECT max(i) FROM n", f"{ENDLESS} INSERT INTO effect(name) SELECT i FROM n"]
)
async def test_a_statement_that_does_not_end_is_stopped(hasty: SqliteStore, sql: str) -> None:
    transaction = begin(hasty)
    await transaction.lock()
    with pytest.raises(TransactionHeldTooLong):
        await asyncio.wait_for(transaction.execute((sql, ())), 5)
    with pytest.raises(TransactionHeldTooLong):
        await transaction.commit(None)
    assert await names(hasty) == []


async def test_one_after_the_other_has_the_turn(store: SqliteStore) -> None:
    async def one(name: str) -> bool:
        transaction = begin(store)
        await insert(transaction, name)
        await asyncio.sleep(0)
        return await transaction.commit(None)

    assert await asyncio.gather(*(one(f"{number:02}") for number in range(20))) == [True] * 20
    assert len(await names(store)) == 20


async def test_two_that_wait_for_each_other_end(hasty: SqliteStore) -> None:
    first, second = begin(hasty), begin(hasty)
    await insert(first, "a")
    waiting = asyncio.ensure_future(insert(second, "b"))
    with pytest.raises(TransactionHeldTooLong):
        await waiting  # as long as the first has the turn
        await insert(first, "c")
    assert await second.commit(None)
    assert await names(hasty) == ["b"]


async def test_the_turn_is_given_up_in_the_middle_of_a_statement_of_a_cancelled_task(store: SqliteStore) -> None:
    transaction = begin(store)
    task = asyncio.ensure_future(insert(transaction, "a"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await transaction.rollback()
    await run(store, "INSERT INTO effect(name) VALUES ('b')")
    assert await names(store) == ["b"]


async def test_one_that_was_given_up_before_its_turn_takes_none(store: SqliteStore) -> None:
    first, second = begin(store), begin(store)
    await insert(first, "a")
    waiting = asyncio.ensure_future(insert(second, "b"))
    await asyncio.sleep(0)
    waiting.cancel()
    await second.rollback()
    assert await first.commit(None)
    assert await names(store) == ["a"]


async def test_a_commit_that_nobody_waits_for_is_done(store: SqliteStore) -> None:
    transaction = begin(store)
    await insert(transaction, "a")
    commit = asyncio.ensure_future(transaction.commit(None))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    await run(store, "INSERT INTO effect(name) VALUES ('b')")
    assert await names(store) == ["a", "b"]


async def test_closing_waits_for_nobody_for_ever(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db", Settings(tx_hold_max_s=HOLD_S))
    await store.open(create=True)
    await run(store, "CREATE TABLE effect (name TEXT)")
    held, waiting = begin(store), begin(store)
    await insert(held, "a")
    task = asyncio.ensure_future(insert(waiting, "b"))
    await asyncio.sleep(0)
    await asyncio.wait_for(store.close(), 5)
    await asyncio.gather(task, return_exceptions=True)
    for transaction in (held, waiting):
        with pytest.raises((StateError, StoreError)):
            await transaction.execute(("SELECT 1", ()))


# --- deferred statements


async def settled(store: SqliteStore, deliveries: list[Delivery], *parts: Any) -> tuple[list[bool], dict[int, Any]]:
    settlements = [Settlement(one, State.SUCCEEDED, sql=sql) for one, sql in zip(deliveries, parts, strict=True)]
    done = await store.claim({}, HOLDER, LEASE_S, settlements)
    return done.settled, dict(done.unsettled)


def deferred(name: str, verb: str = "INSERT") -> tuple[str, tuple[str]]:
    return f"{verb} INTO effect(name) VALUES (?)", (name,)


async def test_a_statement_that_ends_the_transaction_of_others_fails_alone(store: SqliteStore) -> None:
    deliveries = await running(store, 4)
    sly = [deferred("a"), deferred("a", "INSERT OR ROLLBACK")]
    done, undone = await settled(store, deliveries, [deferred("1")], sly, [deferred("2")], sly[1:])
    assert (done[0], done[2], sorted(undone)) == (True, True, [1])
    assert isinstance(undone[1], apsw.ConstraintError)
    assert await names(store) == ["1", "2", "a"]


async def test_a_handler_that_ends_its_transaction_by_a_statement_is_told(store: SqliteStore) -> None:
    transaction = begin(store)
    await insert(transaction, "a")
    with pytest.raises(apsw.ConstraintError):
        await transaction.execute(deferred("a", "INSERT OR ROLLBACK"))
    with pytest.raises(apsw.ConstraintError):
        await transaction.commit(None)
    assert await names(store) == []


async def test_a_deferred_statement_that_does_not_end_fails_alone(store: SqliteStore) -> None:
    deliveries = await running(store, 3)
    endless = (f"{ENDLESS} INSERT INTO effect(name) SELECT i FROM n", ())
    _, undone = await settled(store, deliveries, [deferred("1")], [endless], [deferred("2")])
    while None in undone.values():  # no time was left for it in that commit
        again = [deliveries[place] for place, why in undone.items() if why is None]
        _, undone = await settled(store, again, *([deferred("2")] for _ in again))
    assert await names(store) == ["1", "2"]
    records = await store.read([one.id for one in deliveries])
    assert [record and record.state for record in records] == [State.SUCCEEDED, State.RUNNING, State.SUCCEEDED]


async def test_what_points_at_nothing_at_the_end_fails_alone(store: SqliteStore) -> None:
    await run(
        store,
        "CREATE TABLE owner (name TEXT PRIMARY KEY)",
        "CREATE TABLE owned (owner TEXT REFERENCES owner(name) DEFERRABLE INITIALLY DEFERRED)",
    )
    deliveries = await running(store, 2)
    child, parent = ("INSERT INTO owned VALUES (?)", ("ada",)), ("INSERT INTO owner VALUES (?)", ("ada",))
    done, undone = await settled(store, deliveries, [child], [deferred("1")])
    assert (done[1], list(undone)) == (True, [0])
    done, undone = await settled(store, deliveries[:1], [child, parent])
    assert (done, undone) == ([True], {})
    transaction = begin(store)
    await transaction.execute(("INSERT INTO owned VALUES ('eve')", ()))
    with pytest.raises(apsw.ConstraintError):
        await transaction.commit(None)


async def test_many_messages_statements_are_run_in_one_go(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run_many = sqlite_guard.Guard.run_many

    def counting(self: sqlite_guard.Guard, sql: str, parameters: Any, ends_s: float) -> None:
        runs.append(len(parameters))
        run_many(self, sql, parameters, ends_s)

    monkeypatch.setattr(sqlite_guard.Guard, "run_many", counting)
    deliveries = await running(store, 100)
    update = ("UPDATE effect SET owner = ? WHERE name = ?", ("x", "y"))
    done, _ = await settled(store, deliveries, *([deferred(str(number)), update] for number in range(100)))
    assert done == [True] * 100
    assert runs == [100, 100]


async def test_a_transaction_of_a_closed_store_says_so(store: SqliteStore) -> None:
    await store.close()
    with pytest.raises(RingpostError):
        await insert(begin(store), "a")
