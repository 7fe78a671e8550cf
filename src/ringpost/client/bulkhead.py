"""A bulkhead: how many calls of one operation may be under way at one target, so that one which hangs takes neither all
connections nor all memory with it. Who finds no place stands in line, until its deadline or until the breaker opens.

The limit stays as it is. What a target can carry is found by its door, which sees all who call; seen from here, calls
that take longer may as well be a sign of this process's own want of CPU, and to refuse them then would be a failure of
its own making. Standing in line costs nobody but the one who stands there.
"""

import asyncio
from collections import deque

from ringpost.contract.errors import DeadlineExceeded, Overloaded

WAITING_MAX = 1024
"""So many stand in line at most: as many as a process takes requests at a time."""
_AGAIN_S = 1.0


class Bulkhead:
    """Of one event loop. Who takes a place counts `taken` up while it is below `limit`, else waits for a `turn`."""

    __slots__ = ("_loop", "limit", "name", "taken", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, name: str) -> None:
        """`name`: what the calls are, for errors."""
        self.taken = 0
        self.limit = limit
        self.name = name
        self._loop = loop
        self.waiting: deque[asyncio.Future[bool]] = deque()

    async def turn(self, deadline_s: float) -> bool:
        """Wait for a place and take it; False where all were sent away. Raises Overloaded where the line is full,
        DeadlineExceeded."""
        if len(self.waiting) >= WAITING_MAX:
            raise Overloaded(
                f"{self.taken} calls of {self.name} are under way and {WAITING_MAX:,} wait: no more are taken on. It "
                "answers too slowly for what it is asked, or `limit` in [policies] is too low. Many calls at a time "
                "are made by call_all.",
                retry_after=_AGAIN_S,
                processed="no",
            )
        turn: asyncio.Future[bool] = self._loop.create_future()
        self.waiting.append(turn)
        try:
            async with asyncio.timeout_at(deadline_s):
                return await turn
        except BaseException as error:
            if not turn.done() or turn.cancelled():
                self._leave(turn)
            elif turn.result():
                self.give()  # it came in the moment of giving up: it belongs to the next in line
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(
                    f"{self.taken} calls of {self.name} were under way until the deadline.", processed="no"
                ) from error
            raise

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
                turn.set_result(True)

    def dismiss(self) -> None:
        """Send away all who stand in line: nothing goes out any more."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(False)

    def _leave(self, turn: "asyncio.Future[bool]") -> None:
        if turn in self.waiting:
            self.waiting.remove(turn)
