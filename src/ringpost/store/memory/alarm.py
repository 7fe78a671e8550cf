"""Wake-ups of the memory store: who waits for which queues and ids, and which queues may hold unclaimed work."""

import asyncio
from collections import defaultdict
from collections.abc import Hashable
from typing import TypeVar

from ringpost.store.port import Woken

Key = TypeVar("Key", bound=Hashable)


class _Waiter:
    """One `wait`: it collects what rang until its task runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.rung: asyncio.Future[None] = loop.create_future()
        self.queues: set[str] = set()
        self.ids: set[bytes] = set()

    def ring(self) -> None:
        if not self.rung.done():
            self.rung.set_result(None)


class Alarm:
    """Ring waiters. A queue stays lit from the first ready row until a claim finds it empty, so no ring is lost."""

    def __init__(self) -> None:
        self._lit: set[str] = set()
        # Each with its waiters in the order in which they came.
        self._by_queue: defaultdict[str, dict[_Waiter, None]] = defaultdict(dict)
        self._by_id: defaultdict[bytes, dict[_Waiter, None]] = defaultdict(dict)
        self._all: dict[_Waiter, None] = {}

    def ring_queue(self, queue: str) -> None:
        self._lit.add(queue)
        for waiter in self._by_queue.get(queue, ()):
            waiter.queues.add(queue)
            waiter.ring()

    def ring_id(self, id: bytes) -> None:
        for waiter in self._by_id.get(id, ()):
            waiter.ids.add(id)
            waiter.ring()

    def ring_all(self) -> None:
        for waiter in self._all:
            waiter.ring()

    def clear(self, queue: str) -> None:
        """Forget a queue in which a claim found less than it wanted."""
        self._lit.discard(queue)

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        lit = queues & self._lit
        if lit:
            return Woken(queues=lit)
        waiter = _Waiter(asyncio.get_running_loop())
        self._enter(waiter, queues, ids)
        timer = waiter.loop.call_later(timeout_s, waiter.ring)
        try:
            await waiter.rung
        finally:
            timer.cancel()
            self._leave(waiter, queues, ids)
        return Woken(queues=frozenset(waiter.queues), ids=frozenset(waiter.ids))

    def _enter(self, waiter: _Waiter, queues: frozenset[str], ids: frozenset[bytes]) -> None:
        self._all[waiter] = None
        for queue in queues:
            self._by_queue[queue][waiter] = None
        for id in ids:
            self._by_id[id][waiter] = None

    def _leave(self, waiter: _Waiter, queues: frozenset[str], ids: frozenset[bytes]) -> None:
        self._all.pop(waiter, None)
        _strike(self._by_queue, waiter, queues)
        _strike(self._by_id, waiter, ids)


def _strike(places: dict[Key, dict[_Waiter, None]], waiter: _Waiter, keys: frozenset[Key]) -> None:
    """Take a waiter from its places, and empty places away: nothing here may grow with what once was."""
    for key in keys:
        places[key].pop(waiter, None)
        if not places[key]:
            del places[key]
