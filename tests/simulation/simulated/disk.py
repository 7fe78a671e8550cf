"""A store as one simulated process sees it: shared with others, slow, and out of reach once the process is dead.

What was committed stays; a process may be killed before its commit, and after it before it has heard so.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ringpost.core.message import Message, Record, Settlement
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import (
    Changed,
    Claimed,
    Depth,
    Facts,
    Filter,
    Note,
    Order,
    Put,
    Renewed,
    SqlTransaction,
    Tended,
    Woken,
)
from simulated.machine import Process

COMMIT_S = 0.002
READ_S = 0.0005
_T = TypeVar("_T")
_outside = contextvars.Context()


class Disk:
    """The port's methods for one process, on the rows that all share."""

    def __init__(self, store: MemoryStore, process: Process, chance: random.Random) -> None:
        self._store = store
        self._process = process
        self._chance = chance
        self._waits: dict[asyncio.Task[Woken], None] = {}
        self.facts: Facts = store.facts

    def kill(self) -> None:
        """Forget what the process waited for."""
        for wait in tuple(self._waits):
            wait.cancel()

    async def _within(self, most_s: float, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do something, and take time for it: before, or after. The process may be killed in it."""
        self._check()
        time_s = self._chance.random() * most_s
        before = self._chance.random() < 0.5
        if before:
            await asyncio.sleep(time_s)
            self._check()
        done = await work()
        if not before:
            await asyncio.sleep(time_s)
            self._check()
        return done

    def _check(self) -> None:
        if not self._process.alive:  # only once it is buried
            raise asyncio.CancelledError

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts:
        return self.facts

    async def close(self) -> None:
        pass

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        return await self._within(COMMIT_S, lambda: self._store.put(messages))

    async def claim(
        self, want: Any, holder: int, lease_s: float, settlements: Sequence[Settlement] = (), *, suspects: int = 1
    ) -> Claimed:
        work = lambda: self._store.claim(want, holder, lease_s, settlements, suspects=suspects)  # noqa: E731
        return await self._within(COMMIT_S, work)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._within(COMMIT_S, lambda: self._store.settle(settlements))

    def begin(self, where: Callable[[], str]) -> SqlTransaction:
        return self._store.begin(where)

    def renew(self, holder: int, lease_s: float) -> Renewed:
        self._check()
        return self._store.renew(holder, lease_s)

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        return await self._within(COMMIT_S, lambda: self._store.change(orders))

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        return await self._within(READ_S, lambda: self._store.read(ids, bodies=bodies))

    async def find(self, filter: Filter, /) -> list[Record]:
        return await self._within(READ_S, lambda: self._store.find(filter))

    async def depths(self) -> list[Depth]:
        return await self._within(READ_S, self._store.depths)

    async def tend(self, limit: int = 1000) -> Tended:
        return await self._within(COMMIT_S, lambda: self._store.tend(limit))

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        return await self._within(COMMIT_S, lambda: self._store.note_put(note, expect=expect))

    async def note_drop(self, name: str) -> bool:
        return await self._within(COMMIT_S, lambda: self._store.note_drop(name))

    async def notes(self, prefix: str = "") -> list[Note]:
        return await self._within(READ_S, lambda: self._store.notes(prefix))

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        self._check()
        loop = asyncio.get_running_loop()
        wait = loop.create_task(self._store.wait(queues, ids, timeout_s), context=_outside.copy())
        self._waits[wait] = None
        try:
            return await wait
        finally:
            wait.cancel()
            self._waits.pop(wait)
