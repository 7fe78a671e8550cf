"""Moving a store: nothing is lost, nothing handled twice and no line out of order, whoever is killed and whoever works.

The rows themselves are held to `ringpost.testing.conformance.moving`, in every store.
"""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import moving_process
import pytest
from click.testing import CliRunner, Result
from msgspec import structs
from servers.postgres import RealPostgres

from ringpost.cli.main import ringpost
from ringpost.client.posting import new_id
from ringpost.contract.errors import StateError, UsageError
from ringpost.core import notes
from ringpost.core.line import line_id
from ringpost.core.message import Answer, Cause, Failure, Kind, Message, Record, Reservation, Settlement, State
from ringpost.core.subscription import refilled
from ringpost.settings import Settings
from ringpost.store import moving
from ringpost.store.moving import Moved, Mover, Terms, move
from ringpost.store.moving_log import LogMover
from ringpost.store.port import Cancel, Exported, Filter, Note, Passage, Put, Store
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.sqlite.store import SqliteStore

QUEUE, OTHER, REPLIES = "shop.order", "mail.thank", "shop.paid"
TERMS = Terms(who="test", wait_s=0.2, lease_s=moving_process.LEASE_S)
ERROR = Failure("ValueError", "no such item", "Traceback …", 1, 1, "host")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "BATCH_ROWS", 10)


@asynccontextmanager
async def stores(folder: Path) -> AsyncGenerator[tuple[SqliteStore, SqliteStore], None]:
    """Give two open stores, an old and a new one."""
    old, new = SqliteStore(folder / "old.db"), SqliteStore(folder / "new.db")
    await old.open(create=True)
    await new.open(create=True)
    try:
        yield old, new
    finally:
        await old.close()
        await new.close()


async def filled(store: Store) -> None:
    """Put what can be in a store: in lines, scheduled, tried again, dead, ended with its key, away, owing a reply."""
    line = line_id("shop", "ada")
    await store.put([Message(new_id(), OTHER, b'"%d"' % number) for number in range(4)])
    deliveries = (await store.claim({OTHER: 4}, 1, 30.0)).deliveries
    ends = (
        Settlement(deliveries[0], State.DEAD, cause=Cause.HANDLER_ERROR, failure=ERROR),
        Settlement(deliveries[1], State.SCHEDULED, delay_s=300, failure=ERROR),
        Settlement(deliveries[2], State.FORWARDED, Answer(202, b'{"id":"there"}')),
        Settlement(deliveries[3], State.SUCCEEDED, Answer(200, b'"done"')),
    )
    assert all(await store.settle(ends))
    reserve = Reservation(1, 30.0)
    call = Message(new_id(), QUEUE, b'"k"', kind=Kind.CALL, dedup=b"k" * 16, digest=b"d" * 16, reserve=reserve)
    delivery = (await store.put([call]))[0].delivery
    assert delivery is not None
    await store.settle([Settlement(delivery, State.SUCCEEDED, Answer(200, b'"once"'))])
    waiting = [Message(new_id(), QUEUE, b'"%d"' % number, line=line) for number in range(25)]
    later = Message(new_id(), QUEUE, b'"later"', delay_s=300)
    owing = Message(new_id(), QUEUE, b'"owing"', headers=b'{"operation":"shop.order","reply_to":"shop.paid"}')
    await store.put([*waiting, later, owing])


async def records(store: Store) -> list[Record]:
    """Give all rows, without what belongs to one store alone."""
    found = await store.find(Filter(kind=None, limit=10_000))
    return [structs.replace(record, ref=0, fence=0) for record in found]


async def by_id(store: Store) -> dict[bytes, Record]:
    return {record.id: record for record in await records(store)}


async def handled(store: Store, queue: str = QUEUE) -> list[bytes]:
    """Handle all that can be claimed, one after the other; gives the bodies."""
    bodies: list[bytes] = []
    while claimed := (await store.claim({queue: 1}, 2, 30.0)).deliveries:
        bodies.append(claimed[0].body)
        await store.settle([Settlement(claimed[0], State.SUCCEEDED)])
    return bodies


@asynccontextmanager
async def on_postgres(server: RealPostgres) -> AsyncGenerator[PostgresStore, None]:
    store = PostgresStore(server.url(server.new_database()), Settings(durability="buffered"))
    await store.open(create=True)
    try:
        yield store
    finally:
        await store.close()


async def test_everything_goes_from_a_file_to_postgresql_and_back(tmp_path: Path, fast_postgres: RealPostgres) -> None:
    async with stores(tmp_path) as (old, new), on_postgres(fast_postgres) as between:
        await filled(old)
        before = await by_id(old)
        for source, target in ((old, between), (between, new), (new, old)):
            moved = await move(source, target, TERMS)
            assert (moved.total, moved.known, moved.complete) == (len(before), 0, True)
            assert await records(source) == []
            assert await by_id(target) == before
            assert await source.notes(notes.PAUSE) == []
        once_each = {"scheduled": 2, "dead": 1, "forwarded": 1, "succeeded": 2}
        assert {state: moved.rows[state] for state in once_each} == once_each
        assert moved.rows["ready"] + moved.rows["waiting"] == 26, "the next of a line is ready once the first has gone"
        expected = [b'"%d"' % number for number in range(25)]
        assert [body for body in await handled(old) if body != b'"owing"'] == expected, "in the order of the key"
        assert len(await handled(old, REPLIES)) == 0, "who settles tells; and nobody was told by the move"


async def test_a_key_is_known_in_the_new_store(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        await move(old, new, TERMS)
        again = Message(new_id(), QUEUE, b'"k"', kind=Kind.CALL, dedup=b"k" * 16, digest=b"d" * 16)
        (put,) = await new.put([structs.replace(again, reserve=Reservation(1, 30.0))])
        assert (put.duplicate, put.delivery, put.state) == (True, None, State.SUCCEEDED)


async def test_what_has_ended_may_stay(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        moved = await move(old, new, structs.replace(TERMS, ended=False))
        assert moved.complete
        assert {record.state for record in await records(old)} == {State.SUCCEEDED}
        assert State.SUCCEEDED not in {record.state for record in await records(new)}
        assert State.DEAD in {record.state for record in await records(new)}


# --- killed


def killed(folder: Path, step: str, *twin: str) -> None:
    """Move in a process that is killed at a step."""
    script = Path(moving_process.__file__)
    argv = [sys.executable, str(script), str(folder / "old.db"), str(folder / "new.db"), step, *twin]
    done = subprocess.run(argv, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


async def bodies_of(*held: Store) -> set[bytes]:
    return {record.body for store in held for record in await records(store)}


@pytest.mark.parametrize("step", moving_process.STEPS)
async def test_a_mover_that_is_killed_loses_and_doubles_nothing(tmp_path: Path, step: str) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        every = await bodies_of(old)
        killed(tmp_path, step)
        assert await bodies_of(old, new) == every, "nothing is lost"
        assert await handled(old) == [], "whoever works the old store takes nothing of what may be in the new one"
        done = await handled(new)
        moved = await move(old, new, TERMS)
        assert moved.complete
        assert await records(old) == []
        done += await handled(new)
        assert [body for body in done if body != b'"owing"'] == [b'"%d"' % number for number in range(25)]
        assert Counter(done).most_common(1)[0][1] == 1
        assert await bodies_of(new) == every
        assert await old.notes(notes.PAUSE) == []


async def test_a_mover_that_takes_out_first_is_found_out(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        every = await bodies_of(old)
        killed(tmp_path, "after take out", "twin")
        assert await bodies_of(old, new) < every


# --- worked meanwhile


async def alive(store: Store) -> None:
    instance = notes.Instance(host="h1", pid=7, queues=(QUEUE,))
    await store.note_put(Note(notes.instance("i"), notes.encode(instance), lease_s=30.0))


async def test_a_store_that_is_worked_is_refused(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        await alive(old)
        with pytest.raises(StateError, match=r"1 processes work .*h1 7.*--live"):
            await move(old, new, TERMS)
        assert await records(new) == []
        assert await old.notes(notes.PAUSE) == []
        assert (await move(old, new, structs.replace(TERMS, live=True))).complete


async def test_what_runs_stays_until_it_has_ended_and_its_line_with_it(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        await alive(old)
        terms = structs.replace(TERMS, live=True)
        running = (await old.claim({QUEUE: 1}, 9, 30.0)).deliveries[0]
        moved = await move(old, new, terms)
        assert (moved.complete, moved.running) == (False, 1)
        left = {record.state for record in await records(old)}
        assert left == {State.RUNNING, State.WAITING}, "the first of the line runs, the others wait behind it"
        assert await handled(new) == [b'"owing"']
        assert await handled(old) == [], "its queues stay paused"
        assert await old.settle([Settlement(running, State.SUCCEEDED)]) == [True]
        assert (await move(old, new, terms)).complete
        assert await handled(new) == [b'"%d"' % number for number in range(1, 25)]


class Between(SqliteStore):
    """A new store; before its receipt is there, somebody tries to work the old one."""

    old: Store
    taken: tuple[bytes, ...] = ()

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        puts = await super().take_in(rows, passage)
        deliveries = (await self.old.claim({QUEUE: 100, OTHER: 100}, 9, 30.0)).deliveries
        self.taken += tuple(delivery.id for delivery in deliveries)
        return puts


@asynccontextmanager
async def worked_between(folder: Path) -> AsyncGenerator[tuple[SqliteStore, Between], None]:
    old, new = SqliteStore(folder / "old.db"), Between(folder / "new.db")
    await old.open(create=True)
    await new.open(create=True)
    new.old = old
    try:
        yield old, new
    finally:
        await old.close()
        await new.close()


async def test_nobody_claims_what_is_in_both_stores(tmp_path: Path) -> None:
    async with worked_between(tmp_path) as (old, new):
        await filled(old)
        assert (await move(old, new, structs.replace(TERMS, live=True))).complete
        assert new.taken == ()


async def test_a_mover_that_pauses_nothing_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: Mover) -> None:
        self._paused = {QUEUE, OTHER}

    monkeypatch.setattr(Mover, "_pause", forget)
    async with worked_between(tmp_path) as (old, new):
        await filled(old)
        moved = await move(old, new, structs.replace(TERMS, live=True))
        assert not moved.complete
        assert new.taken
        assert "may take effect twice" in moved.examples[0].why


async def test_that_one_is_cancelled_meanwhile_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores(tmp_path) as (old, new):
        (id,) = [put.id for put in await old.put([Message(new_id(), QUEUE, b"1")])]
        take_in = SqliteStore.take_in

        async def cancelled(self: SqliteStore, rows: Sequence[Exported], passage: Passage) -> list[Put]:
            puts = await take_in(self, rows, passage)
            await old.change([Cancel(id)])
            return puts

        monkeypatch.setattr(SqliteStore, "take_in", cancelled)
        assert (await move(old, new, TERMS)).complete
        assert [record.state for record in await records(new)] == [State.CANCELLED]
        assert await records(old) == []


async def test_what_is_put_meanwhile_comes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores(tmp_path) as (old, new):
        await old.put([Message(new_id(), QUEUE, b"1")])
        late = [Message(new_id(), "shop.new", b"late", line=b"l" * 16), Message(new_id(), QUEUE, b"2", line=b"l" * 16)]
        export = SqliteStore.export

        async def put_meanwhile(self: SqliteStore, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
            if late:
                await old.put([late.pop(0)])
            return await export(self, states, after, limit)

        monkeypatch.setattr(SqliteStore, "export", put_meanwhile)
        assert (await move(old, new, TERMS)).complete
        assert {record.body for record in await records(new)} == {b"1", b"2", b"late"}
        assert (await handled(new, "shop.new"), await handled(new)) == ([b"late"], [b"1", b"2"])


# --- one at a time, to one place


async def test_one_moves_at_a_time_and_to_one_place(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        held = Note(notes.MOVER, b"another", lease_s=60.0)
        await old.note_put(held)
        with pytest.raises(StateError, match="Another move"):
            await move(old, new, TERMS)
        await old.note_drop(notes.MOVER)
        begun = notes.Moving("m", "elsewhere", "sqlite:///third.db", "ada")
        await old.note_put(Note(notes.MOVING, notes.encode(begun)))
        with pytest.raises(StateError, match=r"is being moved to sqlite:///third.db, by ada"):
            await move(old, new, TERMS)
        with pytest.raises(StateError, match="itself"):
            await move(new, old, TERMS)
        with pytest.raises(UsageError, match="one store"):
            await move(old, old, TERMS)
        assert await records(new) == []


async def test_a_mover_that_was_away_too_long_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)

        async def overtaken(moved: Mover, rows: Sequence[Exported]) -> None:
            await old.note_put(Note(notes.MOVER, b"another", lease_s=60.0))
            moved._alone._renewed_s = -1e9

        monkeypatch.setattr(Mover, "carry", overtaken)
        with pytest.raises(StateError, match="has taken over"):
            await move(old, new, TERMS)
        assert [note.value for note in await old.notes(notes.MOVER)] == [b"another"]


async def test_what_the_old_store_was_told_the_new_one_knows(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await filled(old)
        await old.put([Message(new_id(), "", b'"told"', event="shop.sold", log_s=60)])
        name = notes.subscription("shop.sold", "mail.on.shop.sold")
        await old.note_put(Note(name, notes.encode(notes.Subscription("mail", gap_count=3, gap_at=7))))
        await old.note_put(Note(notes.pause(OTHER), notes.encode(notes.Pause("ada", 1, "bad data"))))
        logged = notes.Described(kind="event", log_s=60)
        for event in ("shop.sold", "shop.shut"):
            await old.note_put(Note(notes.operation(event), notes.encode(logged)))
        await alive(old)
        moved = await move(old, new, structs.replace(TERMS, live=True))
        assert (moved.told, moved.logs) == (1, [])
        assert [notes.decode_pause(note.value).reason for note in await new.notes(notes.PAUSE)] == ["bad data"]
        assert [note.name for note in await old.notes(notes.PAUSE)] == [notes.pause(OTHER)], "somebody else's stays"
        (subscription,) = await new.notes(notes.SUBSCRIPTION)
        assert notes.decode_subscription(subscription.value) == notes.Subscription("mail", gap_count=3)
        assert await new.notes(notes.INSTANCE) == []


async def test_a_subscription_that_is_behind_keeps_the_store(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        name = notes.subscription("shop.sold", "mail.on.shop.sold")
        await old.note_put(Note(name, notes.encode(notes.Subscription("mail", behind=True))))
        with pytest.raises(StateError, match="still being given what"):
            await move(old, new, TERMS)


# --- the logs of events


SOLD, THANK, COUNT = "shop.sold", "mail.on.shop.sold", "stats.on.shop.sold"
BEGAN, MISSED = 3, 12  # the first that the suspended one got, and the first that it missed


async def subscribe(store: Store, queue: str, subscription: notes.Subscription) -> None:
    await store.note_put(Note(notes.subscription(SOLD, queue), notes.encode(subscription)))


async def publish(store: Store, *numbers: int) -> None:
    for number in numbers:
        await store.put([Message(new_id(), "", b"%d" % number, event=SOLD, log_s=3600)])


async def told(store: Store) -> None:
    """Publish what a log keeps: one subscription gets all, another begins late and is suspended in the middle of it."""
    await store.note_put(Note(notes.operation(SOLD), notes.encode(notes.Described(kind="event", log_s=3600))))
    await subscribe(store, THANK, notes.Subscription("mail"))
    await publish(store, *range(BEGAN))
    await subscribe(store, COUNT, notes.Subscription("stats"))
    await publish(store, *range(BEGAN, MISSED))
    assert await handled(store, COUNT) == [b"%d" % number for number in range(BEGAN, MISSED)]
    await subscribe(store, COUNT, notes.Subscription("stats", suspended=True))
    await publish(store, *range(MISSED, 25))


async def catch_up(store: Store, queue: str) -> list[bytes]:
    """Let a subscription come to the end of the log; gives what that brings it."""
    while (await store.catch_up(SOLD, queue, 5)).behind:
        pass
    return await handled(store, queue)


async def check_the_log(store: Store, ends: int = 25) -> None:
    """The suspended one is given what it missed, who begins at the beginning all, who got all nothing."""
    await subscribe(store, "late.on.shop.sold", notes.Subscription("late", behind=True))
    assert await catch_up(store, "late.on.shop.sold") == [b"%d" % number for number in range(ends)]
    (note,) = await store.notes(notes.subscription(SOLD, COUNT))
    gap = notes.decode_subscription(note.value)
    assert (gap.suspended, gap.gap_count) == (True, 25 - MISSED)
    await subscribe(store, COUNT, structs.replace(refilled(gap), suspended=False))
    assert await catch_up(store, COUNT) == [b"%d" % number for number in range(MISSED, ends)]


async def test_logs_go_from_a_file_to_postgresql_and_back(tmp_path: Path, fast_postgres: RealPostgres) -> None:
    async with stores(tmp_path) as (old, new), on_postgres(fast_postgres) as between:
        await publish(between, 1)  # so that places aren't the same
        await between.put([Message(new_id(), "", b"1", event="shop.shut", log_s=3600)])
        await between.take_out_log(SOLD, await between.export_log(SOLD, 0, 10))
        await told(old)
        for source, target in ((old, between), (between, new)):
            moved = await move(source, target, TERMS)
            assert (moved.told, moved.logs, moved.complete) == (25, [], True)
            assert not await source.has_log(SOLD)
        await check_the_log(new)


async def test_what_is_published_in_the_old_store_comes_by_the_next_move(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await told(old)
        await move(old, new, TERMS)
        await publish(old, 25, 26)
        moved = await move(old, new, TERMS)
        assert (moved.told, moved.logs) == (2, [])
        await check_the_log(new, 27)


@pytest.mark.parametrize("step", moving_process.LOG_STEPS)
async def test_a_mover_that_is_killed_loses_and_doubles_nothing_of_a_log(tmp_path: Path, step: str) -> None:
    async with stores(tmp_path) as (old, new):
        await told(old)
        killed(tmp_path, step)
        moved = await move(old, new, TERMS)
        assert (moved.logs, moved.complete) == ([], True)
        await check_the_log(new)


async def test_a_mover_that_takes_a_log_out_first_is_found_out(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await told(old)
        killed(tmp_path, "after take out log", "twin")
        await move(old, new, TERMS)
        with pytest.raises(AssertionError):
            await check_the_log(new)


async def test_a_mover_that_mends_no_gaps_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave(*_: object) -> None: ...

    monkeypatch.setattr(LogMover, "_mend_gaps", leave)
    async with stores(tmp_path) as (old, new):
        await told(old)
        await move(old, new, TERMS)
        with pytest.raises(AssertionError):
            await check_the_log(new)


async def test_a_log_stays_where_somebody_works_the_new_store_or_has_published_there(tmp_path: Path) -> None:
    async with stores(tmp_path) as (old, new):
        await told(old)
        await alive(new)
        moved = await move(old, new, TERMS)
        assert (moved.told, moved.logs, moved.complete) == (0, [SOLD], True)
        await new.note_drop(notes.instance("i"))
        await publish(new, 100)
        moved = await move(old, new, TERMS)
        assert (moved.told, moved.logs, moved.complete) == (0, [SOLD], True)
        assert len(await old.export_log(SOLD, 0, 100)) == 25


# --- the command


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(ringpost, arguments)


def test_the_command_tells_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def make(key: bool) -> None:
        async with stores(tmp_path) as (old, new):
            await filled(old)
            if key:
                await new.put([Message(new_id(), QUEUE, b'"k"', dedup=b"k" * 16, digest=b"d" * 16)])

    asyncio.run(make(False))
    old, new = "sqlite:///old.db", "sqlite:///new.db"
    missing = ran("move", old, "sqlite:///none.db")
    assert (missing.exit_code, "there is no store at" in missing.stderr) == (4, True)
    done = ran("move", old, new)
    said = "moved 32 messages: 1 dead, 1 forwarded, 2 ready, 2 scheduled, 2 succeeded, 24 waiting\n"
    assert (done.exit_code, done.stdout) == (0, said), done.output
    assert ran("move", old, new).stdout == "moved 0 messages\n"
    (dead,) = ran("dead", "list", "--store", new, "--json").stdout.split('"id": "')[1:]
    shown = ran("dead", "show", dead.partition('"')[0], "--store", new).stdout
    assert "ValueError" in shown or "Traceback" in shown
    assert "move by" in shown
    asyncio.run(make(True))
    again = ran("move", old, new)
    assert again.exit_code == 1, again.output
    assert "1 stay where they are" in again.stderr
    assert "its idempotency key is that of" in again.stderr
    assert "stay paused" in again.stderr


def test_the_command_tells_of_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def make() -> None:
        async with stores(tmp_path) as (old, _):
            await told(old)

    asyncio.run(make())
    done = ran("move", "sqlite:///old.db", "sqlite:///new.db")
    assert (done.exit_code, done.stdout.splitlines()[1:]) == (0, ["moved 25 events of logs"]), done.output
    there = ("--store", "sqlite:///new.db")
    refilled_ = ran("subscriptions", "refill", SOLD, COUNT, *there)
    assert refilled_.exit_code == 0, refilled_.output


def test_progress_is_told(tmp_path: Path) -> None:
    async def work() -> list[int]:
        seen: list[int] = []

        def show(moved: Moved) -> None:
            seen.append(moved.total)

        async with stores(tmp_path) as (old, new):
            await filled(old)
            await move(old, new, TERMS, show)
        return seen

    assert asyncio.run(work()) == [10, 20, 30, 32]
