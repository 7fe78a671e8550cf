"""Waiting for work: woken from this process directly, from others by the bell, and by a poll that is the truth."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from ringpost.store.port import Woken
from ringpost.store.sqlite.wakeup import Bell, tone
from ringpost.store.waiter import Waiter, wake

POLL_S = 1.0

Look = Callable[[frozenset[str], frozenset[bytes], bool], Awaitable[Woken]]


class Waiting:
    """All that wait in this process; on the loop's thread, but for `wants`, `idle` and `watching`."""

    def __init__(self, bell: Bell, look: Look) -> None:
        self._loop = asyncio.get_running_loop()
        self._bell = bell
        self._look = look
        self._waiters: list[Waiter] = []
        self._poll: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self.watching = False  # somebody here waits for ids
        self.idle: frozenset[str] = frozenset()  # what somebody here would claim
        self._loop.add_reader(bell.socket.fileno(), self._heard)

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait until something of this may have changed. What has changed already is seen at once."""
        waiter = Waiter(queues, ids, self._loop.create_future())
        self._waiters.append(waiter)
        self._show()
        try:
            seen = await self._look(queues, ids, True)
            if seen.queues or seen.ids:
                return seen
            if self._poll is None:
                self._poll = self._loop.create_task(self._poll_on())
            async with asyncio.timeout(timeout_s):
                return await waiter.future
        except TimeoutError:
            return Woken()
        finally:
            self._waiters.remove(waiter)
            self._show()

    def rang(self, queues: Iterable[str], ids: Iterable[bytes]) -> None:
        """Wake one waiter a queue, and every one of the ids."""
        wake(self._waiters, queues, ids)

    def look(self) -> None:
        """Look for oneself: something has changed, and who committed it didn't know yet that it was waited for."""
        if self._waiters:
            task = self._loop.create_task(self._look_on(at_once=True))
            self._looking.add(task)
            task.add_done_callback(self._looked)

    def close(self) -> None:
        self._loop.remove_reader(self._bell.socket.fileno())
        if self._poll is not None:
            self._poll.cancel()
        for task in self._looking:
            task.cancel()
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_result(Woken())

    def _show(self) -> None:
        """Tell this process's store thread and the other processes what is waited for here."""
        self.watching = any(waiter.ids for waiter in self._waiters)
        self.idle = frozenset().union(*(waiter.queues for waiter in self._waiters))
        self._bell.wait_for([tone(name) for name in self.idle], watching=self.watching)

    def _heard(self) -> None:
        rings = self._bell.heard()
        ids = [id for ring in rings for id in ring.each_id()]
        tones = {heard for ring in rings for heard in ring.queues}
        if any(not ring.ids and not ring.queues for ring in rings):
            self.look()
        if tones:
            queues = [name for name in self.idle if tone(name) in tones]
            self.rang(queues, ids)
            self._show()
        else:
            self.rang((), ids)

    async def _poll_on(self) -> None:
        """Look for oneself once a second while anybody waits: a datagram may get lost."""
        while self._waiters:
            await asyncio.sleep(POLL_S)
            await self._look_on(at_once=False)
        self._poll = None

    async def _look_on(self, *, at_once: bool) -> None:
        ids = frozenset[bytes]().union(*(waiter.ids for waiter in self._waiters))
        seen = await self._look(self.idle, ids, at_once)
        self.rang(seen.queues, seen.ids)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking.discard(task)
        if not task.cancelled():
            task.exception()  # the poll looks again, and says what is wrong
