"""Workers in processes of their own on one SQLite file: killed, stopped, blocked, and side by side."""

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ringpost.core import ids
from ringpost.core.message import Message, Record, State
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore

QUEUE = "mail.welcome"
LEASE_S = 1.0
SCRIPT = Path(__file__).with_name("worker_process.py")


class WorkerProcess:
    """One worker process, and what it has said so far. It is heard all the time: where nobody reads what a process
    says, it stands still sooner or later, and its end is never seen."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._hearing = asyncio.ensure_future(self._hear())

    async def _hear(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said.append(json.loads(line))
            self._news.set()
        self._news.set()

    async def until(self, word: str) -> dict[str, Any]:
        """Wait until it has said something with that word; gives that."""
        async with asyncio.timeout(60):
            while (found := next((line for line in self.said if word in line), None)) is None:
                assert not self._hearing.done(), f"the process ended: {self.said[-10:]}"
                self._news.clear()
                await self._news.wait()
        return found

    async def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        return await self.until("settled")

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()
        await self._hearing


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "store.db"
        self.processes: list[WorkerProcess] = []
        self.store: SqliteStore

    async def start(self, how: str) -> WorkerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), str(self.path), str(LEASE_S), how, stdout=PIPE
        )
        worker = WorkerProcess(process)
        self.processes.append(worker)
        await worker.until("ready")
        return worker

    async def put(self, count: int = 1) -> list[bytes]:
        now_ms = time.time_ns() // 1_000_000
        messages = [Message(id=ids.uuid7(now_ms, number), queue=QUEUE, body=b"{}") for number in range(count)]
        await self.store.put(messages)
        return [message.id for message in messages]

    async def until_ended(self, id: bytes) -> Record:
        async with asyncio.timeout(60):
            while True:
                (record,) = await self.store.read([id])
                assert record is not None
                if record.state.terminal:
                    return record
                await self.store.wait(frozenset(), frozenset([id]), 5)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    scene.store = SqliteStore(scene.path, Settings(lease_s=LEASE_S))
    await scene.store.open(create=True)
    try:
        yield scene
    finally:
        for worker in scene.processes:
            if worker.process.returncode is None:
                await worker.kill()
            worker.process._transport.close()  # type: ignore[attr-defined]
        await scene.store.close()


async def test_what_a_killed_worker_held_is_taken_over_under_a_higher_fence(scene: Scene) -> None:
    first = await scene.start("hang")
    (id,) = await scene.put()
    held = await first.until("began")
    await first.kill()
    second = await scene.start("quick")
    taken = await second.until("ended")
    assert taken["ended"] == id.hex()
    assert taken["fence"] > held["fence"]
    record = await scene.until_ended(id)
    assert (record.state, record.losses, record.attempts) == (State.SUCCEEDED, 1, 1)


async def test_a_blocked_event_loop_keeps_its_lease(scene: Scene) -> None:
    blocked = await scene.start(f"block={4 * LEASE_S}")
    (id,) = await scene.put()
    await blocked.until("began")
    other = await scene.start("quick")
    record = await scene.until_ended(id)
    assert (record.state, record.losses) == (State.SUCCEEDED, 0)
    assert (await other.stop())["settled"] == 0
    assert (await blocked.stop())["fences_lost"] == 0


async def test_a_worker_that_slept_through_its_lease_takes_no_effect(scene: Scene) -> None:
    go_on = scene.folder / "go-on"
    sleeper = await scene.start(f"wait={go_on}")
    (id,) = await scene.put()
    held = await sleeper.until("began")
    sleeper.process.send_signal(signal.SIGSTOP)
    other = await scene.start("quick")
    taken = await other.until("ended")
    assert taken["fence"] > held["fence"]
    go_on.touch()
    sleeper.process.send_signal(signal.SIGCONT)
    assert (await sleeper.stop())["settled"] == 0
    assert (await scene.until_ended(id)).attempts == 1


async def test_two_workers_share_a_queue_and_handle_each_message_once(scene: Scene) -> None:
    workers = [await scene.start("quick"), await scene.start("quick")]
    put = await scene.put(2000)
    for id in put:
        assert (await scene.until_ended(id)).state is State.SUCCEEDED
    for worker in workers:
        await worker.stop()
    handled = Counter(line["ended"] for worker in workers for line in worker.said if "ended" in line)
    assert handled == {id.hex(): 1 for id in put}


async def test_a_worker_that_is_asked_to_stop_gives_back_what_it_holds_at_once(scene: Scene) -> None:
    first = await scene.start("hang")
    (id,) = await scene.put()
    await first.until("began")
    await first.stop()
    (record,) = await scene.store.read([id])
    assert record is not None
    assert (record.state, record.attempts, record.losses) == (State.READY, 0, 0)
