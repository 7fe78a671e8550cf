"""What a batch costs: a fixed number of steps, a sync only where somebody is told, and no body moved twice."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringpost.core.message import Answer, Delivery, Message, Progress, Settlement, State
from ringpost.store.port import Report
from ringpost.store.sqlite import schema as sqlite_schema
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.writer import Ask


class Spied:
    """A connection that writes down its statements."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self.statements: list[str] = []

    def execute(self, statements: str, bindings: Any = ()) -> Any:
        self.statements.append(statements)
        return self.db.execute(statements, bindings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def __enter__(self) -> Any:
        return self.db.__enter__()

    def __exit__(self, *exc: Any) -> Any:
        return self.db.__exit__(*exc)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Spied]]:
    made: list[Spied] = []
    connect = sqlite_schema.connect

    def spied(path: Path) -> Any:
        made.append(Spied(connect(path)))
        return made[-1]

    monkeypatch.setattr(sqlite_schema, "connect", spied)
    yield made


def messages(start: int, count: int, body: bytes = b"{}", line: bytes | None = None) -> list[Message]:
    return [Message(number.to_bytes(16, "big"), "a.b", body, line=line) for number in range(start, start + count)]


async def drained(store: SqliteStore, count: int) -> list[Delivery]:
    return (await store.claim({"a.b": count}, 1 << 40, 30.0)).deliveries


@pytest.mark.parametrize("what", ["put", "put in lines", "claim", "settle", "settle with answers", "retry", "release"])
async def test_a_batch_has_a_fixed_number_of_steps(what: str, tmp_path: Path, spies: list[Spied]) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    steps: list[int] = []
    at = 0
    for size in (20, 20, 200):
        batch = messages(at, size)
        at += size
        if what == "put in lines":
            for message in batch:
                message.line = bytes(8) + message.id[8:]
        if what.startswith("put"):
            spies[0].statements.clear()
            await store.put(batch)
        else:
            await store.put(batch)
            spies[0].statements.clear()
            deliveries = await drained(store, size)
            if what != "claim":
                spies[0].statements.clear()
                to = {"retry": State.SCHEDULED, "release": State.READY}.get(what, State.SUCCEEDED)
                answer = Answer(200, b"1") if what == "settle with answers" else None
                assert all(await store.settle([Settlement(one, to, answer, delay_s=99.0) for one in deliveries]))
            if what == "release":
                await store.settle([Settlement(one, State.SUCCEEDED) for one in await drained(store, size)])
        steps.append(len(spies[0].statements))
    assert steps[1] == steps[2], spies[0].statements
    assert steps[2] <= 20
    await store.close()


async def test_only_what_somebody_is_told_waits_for_the_disk(tmp_path: Path, spies: list[Spied]) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    level = 2

    def synchronous() -> int:
        """Give the level that the last commit was made at."""
        nonlocal level
        for statement in spies[0].statements:
            if statement.startswith("PRAGMA synchronous"):
                level = int(statement[-1])
        spies[0].statements.clear()
        return level

    await store.put(messages(0, 3))
    assert synchronous() == 2
    first, second, third = await drained(store, 3)
    assert synchronous() == 1
    await asyncio.to_thread(store.renew, 1 << 40, 30.0)
    assert synchronous() == 1
    await store.change([Report(first, Progress(0.5, "half"))])
    assert synchronous() == 1
    await store.settle([Settlement(second, State.READY)])
    assert synchronous() == 1
    await store.settle([Settlement(third, State.READY, staged=messages(10, 1))])
    assert synchronous() == 2
    await store.claim({"a.b": 1}, 1, 30.0, [Settlement(first, State.SUCCEEDED)])
    assert synchronous() == 2
    await store.close()


async def test_everything_of_one_loop_turn_is_one_commit(tmp_path: Path, spies: list[Spied]) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    spies[0].statements.clear()
    await asyncio.gather(*(store.put(messages(number, 1)) for number in range(50)))
    assert spies[0].statements.count("COMMIT") == 1
    await store.close()


async def test_one_transaction_holds_a_thousand_rows_at_most(tmp_path: Path, spies: list[Spied]) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    spies[0].statements.clear()
    puts = await store.put(messages(0, 2500))
    assert len(puts) == 2500
    assert not any(put.duplicate or put.refused for put in puts)
    assert spies[0].statements.count("COMMIT") == 3
    await store.close()


async def test_a_body_is_written_once_in_a_life(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    await store.put(messages(0, 20, body=b"x" * 100_000))
    before = (tmp_path / "a.db-wal").stat().st_size
    deliveries = await drained(store, 20)
    assert all(await store.settle([Settlement(one, State.SUCCEEDED, Answer(200, b"{}")) for one in deliveries]))
    written = (tmp_path / "a.db-wal").stat().st_size - before
    assert before > 2_000_000
    assert written < 100_000
    await store.close()


async def test_rows_keep_their_width_from_put_to_end(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    await store.put(messages(0, 500))
    sizes: list[int] = []

    def payload(turn: Any) -> None:
        found = turn.db.execute("SELECT sum(payload) FROM dbstat WHERE name = 'ringpost_message'").fetchall()
        sizes.append(found[0][0])

    async def weigh() -> None:
        await store._ask(Ask(act=payload, reads=True))

    await weigh()
    deliveries = await drained(store, 500)
    await weigh()
    assert all(await store.settle([Settlement(one, State.SCHEDULED, delay_s=0.0) for one in deliveries]))
    await weigh()
    assert (await store.tend()).due == 500
    deliveries = await drained(store, 500)
    assert all(await store.settle([Settlement(one, State.SUCCEEDED, Answer(204)) for one in deliveries]))
    await weigh()
    assert len(set(sizes)) == 1
    await store.close()


async def test_a_bad_entry_fails_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    bad = messages(1, 1)[0]
    bad.keep_s = "long"  # type: ignore[assignment]
    good, failed = await asyncio.gather(store.put(messages(0, 1)), store.put([bad]), return_exceptions=True)
    assert not isinstance(good, BaseException)
    assert isinstance(failed, BaseException)
    assert (await store.read([messages(0, 1)[0].id]))[0] is not None
    await store.close()


async def test_what_was_claimed_for_nobody_is_given_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open(create=True)
    await store.put(messages(0, 5))
    claim = asyncio.ensure_future(store.claim({"a.b": 5}, 1, 30.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is with the store thread by now
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim
    found: list[Delivery] = []
    async with asyncio.timeout(5):
        while len(found) < 5:
            found += await drained(store, 5)
    assert {one.attempt for one in found} == {1}
    await store.close()
