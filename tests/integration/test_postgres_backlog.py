"""A hundred thousand messages wait: each statement that runs all the time goes by an index, and looks at few rows."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import asyncpg
import pytest
from msgspec import Struct
from postgres_stores import PostgresStores

from ringpost.core import ids
from ringpost.core.message import Answer, Cause, Delivery, Failure, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Cancel
from ringpost.store.postgres import claim as postgres_claim
from ringpost.store.postgres import line as postgres_line
from ringpost.store.postgres import put as postgres_put
from ringpost.store.postgres import settle as postgres_settle
from ringpost.store.postgres import tend as postgres_tend
from ringpost.store.postgres.db import Db
from ringpost.store.postgres.store import PostgresStore
from ringpost.testing.conformance.suite import OTHER, QUEUE, lined, message, reservation

BATCH = 50
ROWS_MAX = 10 * BATCH  # that a node of a plan looks at
LEASE_S = 30.0
HOLDER, LOST_HOLDER = 4711, 4712
_BIG = ("message", "letter", "line", "outcome", "failure")
_PLANS = ("force_custom_plan", "force_generic_plan")  # the server takes the one or the other, as it likes

_LETTERS = f"""
INSERT INTO ringpost.letter (id, crc, headers, body)
SELECT id, crc32('{QUEUE}'::bytea || id || '{{}}' || '1'), '{{}}', '1'
FROM generate_series(1, $1::int) n, LATERAL (SELECT decode(lpad(to_hex(n), 32, '0'), 'hex')) given(id)
"""
_MESSAGES = """
INSERT INTO ringpost.message (seq, due_ms, created_ms, holder, lease_ms, queue, size, keep_s, losses, kind, state,
  priority, keyed, expires_ms, purge_ms, line, status)
SELECT n, {due}, now, {holder}, now - 1000, {queue}, 3, 0, {losses}, 2, {state}, 2 + n % 3,
  false, {expires}, {purge}, {line}, 200
FROM generate_series({first}, {last}) n, ringpost.now_ms() now
"""
_REST = """
INSERT INTO ringpost.line SELECT line, CASE state WHEN 3 THEN 3 ELSE 2 END, seq FROM ringpost.message
  WHERE line IS NOT NULL;
INSERT INTO ringpost.outcome SELECT seq, 'application/json', NULL, true, '1' FROM ringpost.message WHERE state = 10;
INSERT INTO ringpost.failure SELECT seq, 1, '{"type":"E","message":""}' FROM ringpost.message WHERE state = 14;
UPDATE ringpost.queue SET kept = 1000000;
ANALYZE
"""


def one_of_lines(count: int) -> str:
    """Give the SQL of a row's line, where there are so many of them."""
    return f"decode(lpad(to_hex(n % {count}), 32, '0'), 'hex')"


class Part(Struct):
    """So many rows of the backlog, in a state. Texts are SQL, `n` the row's number and `now` the server's time."""

    count: int
    state: State
    due: str = "now"
    losses: int = 0
    holder: int = 0
    expires: str = "NULL"
    purge: str = "NULL"
    line: str = "NULL"


PARTS = [
    Part(100_000, State.READY),
    Part(20_000, State.READY, line=one_of_lines(20_000)),
    Part(20_000, State.WAITING, line=one_of_lines(20_000)),
    Part(100, State.SCHEDULED, due="now - 1000"),
    Part(5_000, State.SCHEDULED, due="now + 3600000"),
    Part(100, State.READY, losses=2),
    Part(100, State.READY, expires="now - 1000"),
    Part(100, State.RUNNING, holder=LOST_HOLDER),
    Part(100, State.SUCCEEDED, purge="now - 1000"),
    Part(40_000, State.SUCCEEDED, purge="now + 3600000"),
    Part(5_000, State.DEAD, purge="now + 3600000"),
]


class Looking:
    """Explains each statement of a store just before it runs, undoes that, and keeps what is wrong with its plan."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.wrong: defaultdict[str, set[str]] = defaultdict(set)

    def into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run_as_is = Db._guarded_as_is

        async def run_explained(db: Db, run: Callable[..., Awaitable[Any]], sql: str, *values: object) -> Any:
            if run.__name__ == "fetch" and '"ringpost".' in sql:
                for plan in _PLANS:
                    await self._explain(db.driver, plan, sql, values)
            return await run_as_is(db, run, sql, *values)

        monkeypatch.setattr(Db, "_guarded_as_is", run_explained)

    async def _explain(self, driver: Any, plan: str, sql: str, values: Sequence[object]) -> None:
        begin, undo = "BEGIN", "ROLLBACK"
        if driver.is_in_transaction():
            begin, undo = "SAVEPOINT looking", "ROLLBACK TO SAVEPOINT looking; RELEASE SAVEPOINT looking"
        arguments = f"({', '.join(map(literal, values))})" if values else ""
        await driver.execute(f"{begin}; SET LOCAL plan_cache_mode = {plan}")
        await driver.execute(f"PREPARE looked AS {sql}")
        rows = await driver.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON) EXECUTE looked{arguments}")
        await driver.execute(f"{undo}; DEALLOCATE looked")
        self.seen.add(sql)
        self.wrong[sql].update(f"{plan}: {one}" for one in wrong_in(json.loads(rows[0][0])[0]["Plan"]))

    @property
    def faults(self) -> list[str]:
        return [f"{' '.join(sql.split())[:200]} … {sorted(found)}" for sql, found in self.wrong.items() if found]

    def saw(self, sql: str) -> bool:
        return sql.replace("ringpost.", '"ringpost".') in self.seen


def wrong_in(node: dict[str, Any]) -> Iterator[str]:
    """Give the places of a plan that read a whole table, or too many rows."""
    kind, table, index = node["Node Type"], node.get("Relation Name", ""), node.get("Index Name", "")
    big = table in _BIG or index.partition("_")[0] in _BIG
    if big and kind != "ModifyTable":
        looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        looked_at = (looked_at + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
        if kind == "Seq Scan" or looked_at > ROWS_MAX:
            yield f"{kind} of {index or table} looks at {looked_at:.0f} rows"
    for child in node.get("Plans", ()):
        yield from wrong_in(child)


def literal(value: object) -> str:
    """Write a value as SQL; what type it has the statement says."""
    if value is None:
        return "NULL"
    return "'" + text_of(value).replace("'", "''") + "'"


def text_of(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return "\\x" + value.hex()
        case list() | tuple():
            return "{" + ",".join(quoted(one) for one in value) + "}"
        case int():  # also a state
            return str(int(value))
        case _:
            return str(value)


def quoted(value: object) -> str:
    if isinstance(value, bytes | str):
        return '"' + text_of(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text_of(value)


async def fill(store: PostgresStore, url: str, parts: Sequence[Part]) -> None:
    """Put a backlog into an empty store."""
    await store.put([message(), message(queue=OTHER)])  # so that there are queues
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM ringpost.message; DELETE FROM ringpost.letter")
    await connection.execute("ALTER SEQUENCE ringpost.seq RESTART")
    await connection.execute(_LETTERS, sum(part.count for part in parts))
    number = await connection.fetchval("SELECT no FROM ringpost.queue WHERE name = $1", QUEUE)
    first = 1
    for part in parts:
        values = {name: getattr(part, name) for name in part.__struct_fields__} | {"state": int(part.state)}
        await connection.execute(_MESSAGES.format(queue=number, first=first, last=first + part.count - 1, **values))
        first += part.count
    await connection.execute(_REST)
    await connection.close()


async def claimed(store: PostgresStore, settlements: Sequence[Settlement]) -> list[Delivery]:
    found = await store.claim({QUEUE: BATCH}, HOLDER, LEASE_S, settlements)
    assert all(found.settled)
    assert len(found.deliveries) == BATCH
    return found.deliveries


async def served(store: PostgresStore) -> None:
    """Do what services do all the time."""
    await store.put([message()])
    await store.put([message() for _ in range(BATCH)])
    head = lined(b"1")
    await store.put([head, lined(b"2")])
    await store.put([reservation(holder=HOLDER)])
    held = await claimed(store, [])
    held = await claimed(store, [Settlement(one, State.SUCCEEDED) for one in held])
    held = await claimed(store, [Settlement(one, State.SUCCEEDED, Answer(200, b"1")) for one in held])
    failure = Failure("ValueError", "broken")
    held = await claimed(store, [Settlement(one, State.SCHEDULED, failure=failure, delay_s=60.0) for one in held])
    staged = [Message(ids.derived(one.id, b"staged"), QUEUE, b"3") for one in held]
    settlements = [Settlement(one, State.SUCCEEDED, staged=[two]) for one, two in zip(held, staged, strict=True)]
    held = await claimed(store, settlements)
    assert all(await store.settle([Settlement(one, State.DEAD, cause=Cause.HANDLER_ERROR) for one in held]))
    await asyncio.to_thread(store.renew, HOLDER, LEASE_S)
    await store.change([Cancel(held[0].id), Cancel(staged[0].id), Cancel(head.id)])
    await store.read([one.id for one in held], bodies=True)
    assert not (await store.claim({OTHER: BATCH}, HOLDER, LEASE_S)).deliveries
    assert not (await store.wait(frozenset({OTHER}), frozenset(), 0.2)).queues
    await store.wait(frozenset({QUEUE}), frozenset(one.id for one in held), 1.0)


async def tended(store: PostgresStore) -> None:
    """Let upkeep do something of each kind."""
    left = {"lost", "due", "expired", "purged"}
    for _ in range(3 * len(PARTS)):
        done = await store.tend(BATCH)
        store._upkeep.since_ms = 0  # it has seen the server's time for long enough
        left -= {name for name in left if getattr(done, name)}
    assert not left


HOT = [
    postgres_put._INSERT,
    postgres_claim._CLAIM,
    postgres_claim.NEXT_DUE,
    postgres_settle._TURN,
    postgres_settle._TURN_MORE,
    postgres_settle._SETTLE,
    postgres_tend.RENEW,
    postgres_tend._LOOK,
    postgres_tend._DUE,
    postgres_tend._MAKE_DUE,
    postgres_tend._OVERDUE,
    postgres_tend._LAPSED,
    postgres_tend._LOSE,
    postgres_tend._PURGEABLE,
    postgres_tend._OLDEST,
    postgres_line._FIRSTS,
    postgres_line._WAKE,
]


async def test_every_statement_goes_by_an_index_to_few_rows(
    stores: PostgresStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = stores.empty(Settings(durability="buffered", lease_s=LEASE_S, keep_bytes=0))
    await store.open()
    await fill(store, stores.url, PARTS)
    looking = Looking()
    looking.into(monkeypatch)
    await served(store)
    await tended(store)
    await store.close()
    assert looking.faults == []
    assert [sql for sql in HOT if not looking.saw(sql)] == []


async def test_a_line_that_sleeps_among_many_is_found(stores: PostgresStores) -> None:
    store, _ = stores.empty(Settings(durability="buffered", lease_s=LEASE_S))
    await store.open()
    lines = one_of_lines(1_000)
    await fill(store, stores.url, [Part(1_000, State.READY, line=lines), Part(1_000, State.WAITING, line=lines)])
    connection = await asyncpg.connect(stores.url)
    await connection.execute("DELETE FROM ringpost.line WHERE seq = 700")  # a head that left and woke nobody
    woken = [(await store.tend()).woken for _ in range(11)]
    assert sum(woken) == 1, "in one round through all lines, and not again"
    assert await connection.fetchval("SELECT state FROM ringpost.message WHERE seq = 1700") == State.READY
    await connection.close()
    await store.close()


async def test_without_the_index_a_claim_is_found_out(stores: PostgresStores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = stores.empty(Settings(durability="buffered", lease_s=LEASE_S))
    await store.open()
    await fill(store, stores.url, [Part(5_000, State.READY)])
    connection = await asyncpg.connect(stores.url)
    await connection.execute("DROP INDEX ringpost.message_ready")
    looking = Looking()
    looking.into(monkeypatch)
    await claimed(store, [])
    await connection.close()
    await store.close()
    assert any("looks at" in one for one in looking.faults)
