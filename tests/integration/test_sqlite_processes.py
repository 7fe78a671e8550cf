"""Several processes on one file: killed, woken, in turn."""

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from ringpost.core import ids
from ringpost.core.message import Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.turn import Turn
from ringpost.store.sqlite.wakeup import Bell, tone

SETTINGS = Settings(lease_s=1.0)
QUEUE = "mail.welcome"


def new_message(body: bytes = b"{}") -> Message:
    return Message(ids.uuid7(time.time_ns() // 1_000_000, random.getrandbits(74)), QUEUE, body)


async def opened(path: Path, *, create: bool = False) -> SqliteStore:
    store = SqliteStore(path, SETTINGS)
    await store.open(create=create)
    return store


async def started(role: str, path: Path) -> asyncio.subprocess.Process:
    """Start this file as another process, and wait until it is open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, role, str(path), stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE
    )
    assert await line(process) == "open"
    return process


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


async def ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(20):
        await process.wait()


async def killed(process: asyncio.subprocess.Process) -> list[str]:
    """Kill it without warning; gives what it had said."""
    process.send_signal(signal.SIGKILL)
    out, _ = await process.communicate()
    return out.decode().split()


# --- what the other processes do


async def send_on(store: SqliteStore) -> None:
    """Send one after the other, and say each id once its receipt is there."""
    while True:
        (put,) = await store.put([message := new_message()])
        assert not put.refused
        print(message.id.hex(), flush=True)


async def work_on(store: SqliteStore) -> None:
    """Claim and settle; say the fence and id of each once it is settled."""
    settlements: list[Settlement] = []
    while True:
        claimed = await store.claim({QUEUE: 10}, os.getpid() << 20, 1.0, settlements)
        for one, won in zip(settlements, claimed.settled, strict=True):
            if won:
                print(one.delivery.id.hex(), flush=True)
        settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]
        if not settlements:
            await store.wait(frozenset({QUEUE}), frozenset(), 1.0)


async def hold_on(store: SqliteStore) -> None:
    """Claim once, say what came, and hang."""
    claimed = await store.claim({QUEUE: 100}, 7, 1.0)
    print(len(claimed.deliveries), claimed.deliveries[0].fence, flush=True)
    await asyncio.Event().wait()


async def wait_once(store: SqliteStore) -> None:
    """Wait idle, and say what was claimed when it was woken, and how long the wait was at most."""
    while True:
        await store.wait(frozenset({QUEUE}), frozenset(), 30.0)
        for one in (await store.claim({QUEUE: 1}, 8, 30.0)).deliveries:
            print(one.body.decode(), flush=True)


async def other(role: str, path: str) -> None:
    store = await opened(Path(path))
    print("open", flush=True)
    doing = asyncio.ensure_future(ROLES[role](store))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await asyncio.wait([doing, asyncio.ensure_future(reader.read())], return_when=asyncio.FIRST_COMPLETED)
    if doing.done():
        doing.result()
    doing.cancel()
    await store.close()


ROLES = {"send": send_on, "work": work_on, "hold": hold_on, "wait": wait_once}


# --- the tests


async def test_a_killed_sender_loses_nothing_that_it_had_a_receipt_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, create=True)
    receipts: list[str] = []
    for _ in range(3):
        process = await started("send", path)
        for _ in range(random.randint(5, 40)):
            receipts.append(await line(process))
        receipts += [said for said in await killed(process) if len(said) == 32]
        await store.put([new_message()])  # the file is nobody's: whoever held it is gone
    records = await store.read([bytes.fromhex(receipt) for receipt in receipts])
    assert all(record is not None for record in records)
    await store.close()


async def test_what_a_killed_worker_held_is_done_by_another_under_a_higher_fence(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, create=True)
    await store.put([new_message() for _ in range(20)])
    process = await started("hold", path)
    held, fence = (int(word) for word in (await line(process)).split())
    assert held == 20
    await killed(process)
    got = 0
    async with asyncio.timeout(10):
        while got < 20:
            await store.tend()
            claimed = await store.claim({QUEUE: 100}, 9, 30.0)
            assert all(one.fence > fence and one.losses == 1 and one.attempt == 1 for one in claimed.deliveries)
            got += len(claimed.deliveries)
            assert all(await store.settle([Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]))
            await asyncio.sleep(0.05)
    await store.close()


async def test_workers_that_share_a_queue_settle_each_message_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, create=True)
    workers = [await started("work", path) for _ in range(2)]
    sent = [new_message() for _ in range(300)]
    for start in range(0, 300, 30):
        await store.put(sent[start : start + 30])
    async with asyncio.timeout(30):
        for message in sent:
            while not (await store.wait(frozenset(), frozenset({message.id}), 30.0)).ids:
                pass
    settled: list[str] = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.stdout is not None
        settled += (await worker.stdout.read()).decode().split()
        await worker.wait()
    assert sorted(settled) == sorted(message.id.hex() for message in sent)
    await store.close()


async def test_an_idle_process_is_woken_by_a_send_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, create=True)
    process = await started("wait", path)
    waited_s: list[float] = []
    for number in range(5):
        await asyncio.sleep(0.05)
        begun_s = time.monotonic()
        await store.put([new_message(str(number).encode())])
        assert await line(process) == str(number)
        waited_s.append(time.monotonic() - begun_s)
    # Without the bell the poll of a second would be the only thing to find them.
    assert sorted(waited_s)[2] < 0.4
    await ended(process)
    await store.close()


async def test_an_end_elsewhere_wakes_who_waits_for_the_ticket(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store, other_store = await opened(path, create=True), await opened(path)
    await store.put([sent := new_message()])
    (delivery,) = (await other_store.claim({QUEUE: 1}, 1, 30.0)).deliveries
    waiting = asyncio.ensure_future(store.wait(frozenset(), frozenset({sent.id}), 20.0))
    async with asyncio.timeout(5):
        await asyncio.sleep(0)  # the wait has begun
        await store.read([sent.id])  # and has looked
        await other_store.settle([Settlement(delivery, State.SUCCEEDED)])
        assert (await waiting).ids == {sent.id}
    await store.close()
    await other_store.close()


async def test_a_lost_datagram_costs_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store, other_store = await opened(path, create=True), await opened(path)
    waiting = asyncio.ensure_future(store.wait(frozenset({QUEUE}), frozenset(), 20.0))
    async with asyncio.timeout(5):
        await asyncio.sleep(0)  # the wait has begun
        await store.read([bytes(16)])  # and has looked
        assert store._bell is not None
        store._bell.wait_for([], watching=False)  # nobody will ring
        await other_store.put([new_message()])
        assert (await waiting).queues == {QUEUE}
    await store.close()
    await other_store.close()


async def test_three_writers_all_get_on(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, create=True)
    senders = [await started("send", path) for _ in range(3)]
    for _ in range(50):
        for sender in senders:
            assert await line(sender)
    for sender in senders:
        await killed(sender)
    await store.close()


def test_who_is_gone_is_rung_no_more(tmp_path: Path) -> None:
    one, two = Bell(tmp_path / "a.db"), Bell(tmp_path / "a.db")
    two.wait_for([tone("a")], watching=True)
    two.socket.close()  # killed: its place and its socket are still there
    assert (tmp_path / "a.db.wake" / "1.sock").exists()
    one.ring([tone("a")], [bytes(16)])
    assert not (tmp_path / "a.db.wake" / "1.sock").exists()
    three = Bell(tmp_path / "a.db")
    three.wait_for([tone("a")], watching=False)
    one.ring([tone("a"), tone("b")], [bytes(16)])
    (ring,) = three.heard()
    assert (ring.queues, ring.each_id()) == ([tone("a")], [])
    one.ring([tone("a")], [])
    assert three.heard() == []  # rung once it counts as busy
    one.close()
    three.close()
    two.close()


def test_a_bell_says_what_somebody_was_woken_for(tmp_path: Path) -> None:
    one, two = Bell(tmp_path / "a.db"), Bell(tmp_path / "a.db")
    two.wait_for([tone("a")], watching=False)
    assert one.ring([tone("a"), tone("b")], []) == [tone("a")]
    assert one.ring([tone("a"), tone("b")], []) == []
    one.close()
    two.close()


async def test_who_is_idle_is_woken_once_and_before_the_commit_who_becomes_so_meanwhile_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await opened(tmp_path / "a.db", create=True), Bell(tmp_path / "a.db")
    before: list[list[int]] = []
    waking = store._writer._committing_hook

    def look(turn: Turn) -> None:
        waking(turn)
        before.extend(ring.queues for ring in other.heard())
        if not before:
            other.wait_for([tone(QUEUE)], watching=False)

    monkeypatch.setattr(store._writer, "_committing_hook", look)
    other.wait_for([tone(QUEUE)], watching=False)
    await store.put([new_message()])
    assert before == [[tone(QUEUE)]]
    assert other.heard() == []
    before.clear()
    await store.put([new_message()])  # it counts as busy, and is idle again just before the commit
    assert before == []
    assert [ring.queues for ring in other.heard()] == [[tone(QUEUE)]]
    other.close()
    await store.close()


def test_the_folder_of_a_bell_may_be_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    one, two = Bell(deep / "a.db"), Bell(deep / "a.db")
    two.wait_for([tone("a")], watching=False)
    one.ring([tone("a")], [])
    assert [ring.queues for ring in two.heard()] == [[tone("a")]]
    one.close()
    two.close()


if __name__ == "__main__":
    asyncio.run(other(sys.argv[1], sys.argv[2]))
