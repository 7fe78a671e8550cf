"""Waiting for work: woken from this process directly, from others by the bell, and by a poll that is the truth."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable

from ringpost.contract.errors import StoreError
from ringpost.store.port import Woken
from ringpost.store.waiter import Waiter, wake

POLL_S = 1.0

Look = Callable[[frozenset[str], frozenset[bytes]], Awaitable[Woken]]


class Waiting:
    """All that wait in this process."""

    def __init__(self, look: Look) -> None:
        self._loop = asyncio.get_running_loop()
        self._look = look
        self._waiters: list[Waiter] = []
        self._poll: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> frozenset[str]:
        """The queues that somebody here would claim from."""
        return frozenset[str]().union(*(waiter.queues for waiter in self._waiters))

    @property
    def _ids(self) -> frozenset[bytes]:
        return frozenset[bytes]().union(*(waiter.ids for waiter in self._waiters))

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait until something of this may have changed. What has changed already is seen at once."""
        waiter = Waiter(queues, ids, self._loop.create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                seen = await self._look(queues, ids)
                if seen.queues or seen.ids:
                    return seen
                if self._poll is None:
                    self._poll = self._loop.create_task(self._poll_on())
                return await waiter.future
        except TimeoutError:
            return Woken()
        finally:
            self._waiters.remove(waiter)

    def rang(self, queues: Iterable[str], ids: Iterable[bytes]) -> None:
        """Wake one waiter a queue, and every one of the ids."""
        if self._waiters:
            wake(self._waiters, queues, ids)

    def heard(self, queues: list[str], heads: set[bytes], more: bool) -> None:
        """Take what another process says; where it can't say all, look."""
        ids = [id for id in self._ids if id[:8] in heads]
        self.rang(queues, ids)
        if more and self._waiters:
            task = self._loop.create_task(self._look_around())
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    def close(self) -> None:
        for task in (self._poll, *self._looking):
            if task is not None:
                task.cancel()
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_result(Woken())

    async def _poll_on(self) -> None:
        """Look for oneself once a second while anybody waits: a wake-up may get lost."""
        while self._waiters:
            await asyncio.sleep(POLL_S * random.uniform(0.75, 1.0))
            await self._look_around()
        self._poll = None

    async def _look_around(self) -> None:
        try:
            seen = await self._look(self.idle, self._ids)
        except StoreError:
            return  # the next poll sees it; who claims hears what is wrong
        self.rang(seen.queues, seen.ids)
