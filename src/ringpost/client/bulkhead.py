"""A bulkhead: how many calls of one operation may be under way at one target, so that one which hangs takes neither all
connections nor all memory with it. The limit adapts to how long calls take (`core/limit.py`); a queue no longer than
the limit evens out bursts, and who stands in it goes when the time is over."""

import asyncio
from collections import deque

from ringpost.contract.errors import DeadlineExceeded, Overloaded
from ringpost.core.limit import LEAST, limiter

_AGAIN_S = 1.0


class Bulkhead:
    """Of one event loop. Who takes a place counts `taken` up while it is below `limit`, else waits for a `turn`."""

    __slots__ = ("_limiter", "_loop", "limit", "name", "taken", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, name: str) -> None:
        """`name`: what the calls are, for errors."""
        self.taken = 0
        self.limit = most
        self.name = name
        self._loop = loop
        self._limiter = limiter("aimd", LEAST, most)
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self, deadline_s: float) -> None:
        """Wait for a place and take it. Raises Overloaded where the line is full, DeadlineExceeded."""
        if len(self.waiting) >= self.limit:
            raise Overloaded(
                f"{self.taken} calls of {self.name} are under way and as many wait: no more are taken on. It answers "
                "too slowly for what it is asked, or `limit` in [policies] is too low.",
                retry_after=_AGAIN_S,
                processed="no",
            )
        turn: asyncio.Future[None] = self._loop.create_future()
        self.waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give()  # it came in the moment of giving up: it belongs to the next in line
            elif turn in self.waiting:
                self.waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"{self.taken} calls of {self.name} were under way until the deadline.", processed="no"
                ) from error
            raise

    def learn(self, now_s: float, took_s: float, *, dropped: bool = False) -> None:
        """Learn from how long a place was held, before it is given back. `dropped`: refused for overload."""
        if self._limiter.sample(now_s, took_s, self.taken, dropped=dropped):
            self.limit = self._limiter.limit

    def given_up(self, now_s: float, took_s: float) -> None:
        """Give a place back after somebody's deadline: what was given up early says nothing."""
        if self._limiter.slow(took_s):
            self.learn(now_s, took_s, dropped=True)
        self.give()

    def give(self) -> None:
        """Give a place back to the next in line."""
        self.taken -= 1
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Hand free places to those in line, the first one first."""
        while self.waiting and self.taken < self.limit:
            turn = self.waiting.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)
