"""Processes that end at a chosen operation of their disk: before or after each write, sync, truncation and removal.

usage: crash_points.py [--points N] [--pairs N] [--seed N] [--twin NAME] [--folder PATH]

For each point a process lives until it gets there and is gone at once; in every second run another process has the same
file open all the while. For a pair the one that takes over ends at a point of its recovery too. Then a third looks. It
prints what is wrong, and ends with 1 if anything is. The same seed does the same again.

This process has no loop and no thread, so that its forks are whole.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from disk import Op, Read, watched
from life import Ledger, Life, Word, examine, work_off
from surveys import SETTINGS, small_steps

from ringpost.contract.errors import StoreError
from ringpost.core.message import Message
from ringpost.store.hostclock import HostClock
from ringpost.store.port import Put
from ringpost.store.sqlite.store import SqliteStore

GONE = 9
MESSAGES = 60
RUN_S_MAX = 60


class Words:
    """Words in a file: each is there as soon as it is said, and outlives who said it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def say(self, word: Any) -> None:
        data = msgspec.msgpack.encode(word)
        os.write(self._file, len(data).to_bytes(4, "big") + data)

    @staticmethod
    def read(path: Path, of: Any) -> list[Any]:
        data, at, words = path.read_bytes(), 0, []
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            words.append(msgspec.msgpack.decode(data[at + 4 : end], type=of))
            at = end
        return words


class Gone:
    """End the process at the n-th moment. There are two at each operation: before it and after it."""

    def __init__(self, moment: int) -> None:
        self._moment = moment
        self.seen = 0

    def before(self, op: Op) -> None:
        if not isinstance(op, Read):
            self.seen += 1
            if self.seen == self._moment:
                os._exit(GONE)

    def after(self, op: Op) -> None:
        self.before(op)


# --- twins


class Hasty(SqliteStore):
    """Acknowledges before the commit."""

    async def put(self, messages: Any) -> list[Put]:
        self.putting = asyncio.ensure_future(super().put(messages))
        await asyncio.sleep(0)
        return [Put(message.id) for message in messages]


class InTwoCommits(SqliteStore):
    """Settles in one commit and puts what was staged in another."""

    async def settle(self, settlements: Any) -> list[bool]:
        staged: list[Message] = [message for one in settlements for message in one.staged]
        bare = [msgspec.structs.replace(one, staged=()) for one in settlements]
        done = await super().settle(bare)
        await self.put(staged)
        return done


STORES: dict[str, type[SqliteStore]] = {"": SqliteStore, "hasty": Hasty, "in-two-commits": InTwoCommits}


# --- what the processes do


async def live(home: Path, store_class: type[SqliteStore], seed: int, moment: int) -> int:
    """Live until the moment comes; gives how many there were if it doesn't."""
    words = Words(home / "words")
    gone = Gone(moment)
    with small_steps(), watched(gone):
        store = store_class(home / "a.db", SETTINGS)
        await store.open(create=True)
        await Life(store, seed, words.say).live(MESSAGES)
        await store.close()
    return gone.seen


async def take_over(home: Path, moment: int, later_s: int = 100) -> int:
    """When all leases are over, do what is left, until the moment comes; what is wrong is written down."""
    words, gone = Words(home / "words"), Gone(moment)
    ledger = Ledger(Words.read(home / "words", Word))
    now_ms = HostClock().uptime_ms() + 1000 * later_s

    def pass_time() -> None:
        nonlocal now_ms
        now_ms += 9_000

    with small_steps(), watched(gone):
        store = SqliteStore(home / "a.db", SETTINGS, clock=HostClock(uptime_ms=lambda: now_ms))
        try:
            await store.open(create=True)
            wrong = await examine(store, ledger)
            if store._writer.db.pragma("integrity_check") != "ok":
                wrong.append("the file is corrupt")
            wrong += await work_off(store, ledger, pass_time, words.say)
            wrong += await examine(store, Ledger(Words.read(home / "words", Word)))
            await store.close()
        except StoreError as error:
            wrong = [f"it can't be used: {error}"]
    complaints = Words(home / "wrong")
    for complaint in wrong:
        complaints.say(complaint)
    return gone.seen


async def stand_by(home: Path) -> int:
    """Have the store open, say so, and do nothing until killed."""
    store = SqliteStore(home / "a.db", SETTINGS)
    await store.open(create=True)
    Words(home / "standing").say("by")
    await asyncio.Event().wait()
    return 0


# --- the process that starts them


def forked(work: Coroutine[Any, Any, int], home: Path) -> int:
    """Let a child do something, and write down what it gave."""
    pid = os.fork()
    if pid:
        work.close()
        return pid
    code = 1
    try:
        signal.alarm(RUN_S_MAX)
        Words(home / "gave").say(asyncio.run(work))
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Runs:
    """Run after run, each in a folder of its own."""

    def __init__(self, folder: Path, store: str, seed: int) -> None:
        self._folder = folder
        self._store = STORES[store]
        self._seed = seed
        self._number = 0
        self.wrong: list[str] = []
        self.crashed = 0

    def home(self) -> Path:
        self._number += 1
        home = self._folder / str(self._number)
        home.mkdir()
        return home

    def moments(self) -> tuple[int, int]:
        """Say how many moments a life has, and how many a recovery."""
        home = self.home()
        assert ended(forked(live(home, self._store, self._seed, 0), home)) == 0
        assert ended(forked(take_over(home, 0), home)) == 0
        first, second = Words.read(home / "gave", int)
        shutil.rmtree(home)
        return first, second

    def run(self, first: int, second: int = 0) -> None:
        """Crash at a moment of a life, perhaps at one of the recovery, and look."""
        home = self.home()
        beside = self._stand_by(home) if self._number % 2 else None
        code = ended(forked(live(home, self._store, self._seed, first), home))
        self.crashed += code == GONE
        if second:
            code = max(code, ended(forked(take_over(home, second), home)))
        last = ended(forked(take_over(home, 0, 1_000), home))
        if beside is not None:
            os.kill(beside, signal.SIGKILL)
            ended(beside)
        where = f"crash at {first}" + (f", then at {second}" if second else "")
        if code not in (0, GONE) or last:
            self.wrong.append(f"{where}: a process ended with {code} and the last with {last}")
        if (home / "wrong").exists():
            self.wrong += [f"{where}: {complaint}" for complaint in Words.read(home / "wrong", str)]
        shutil.rmtree(home)

    def _stand_by(self, home: Path) -> int:
        os.mkfifo(home / "standing")
        pid = forked(stand_by(home), home)
        with (home / "standing").open("rb") as standing:
            standing.read(1)
        return pid


def chosen(count: int, most: int, chance: random.Random) -> list[int]:
    """All moments, or so many of them."""
    return list(range(1, most + 1)) if count >= most else sorted(chance.sample(range(1, most + 1), count))


def main(told: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=10**9, help="how many single crashes; default: at every moment")
    parser.add_argument("--pairs", type=int, default=100, help="how many crashes with another during recovery")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--twin", default="", choices=sorted(STORES), help="a store that is broken on purpose")
    asked = parser.parse_args()
    told(f"seed {asked.seed}")
    chance = random.Random(asked.seed)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="ringpost-", dir=memory))
    try:
        runs = Runs(folder, asked.twin, asked.seed)
        lives, recoveries = runs.moments()
        told(f"a life has {lives} moments, a recovery {recoveries}")
        points = chosen(asked.points, lives, chance)
        for number, point in enumerate(points, 1):
            runs.run(point)
            if number % 100 == 0:
                told(f"{number} of {len(points)} points, {len(runs.wrong)} wrong")
        for number in range(1, asked.pairs + 1):
            runs.run(chance.randint(1, lives), chance.randint(1, recoveries))
            if number % 100 == 0:
                told(f"{number} of {asked.pairs} pairs, {len(runs.wrong)} wrong")
    finally:
        shutil.rmtree(folder)
    for complaint in runs.wrong[:20]:
        told(complaint)
    told(f"{len(points)} points and {asked.pairs} pairs, {runs.crashed} crashed, {len(runs.wrong)} wrong")
    return 1 if runs.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
