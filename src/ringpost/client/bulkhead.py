"""A bulkhead: how many calls of one operation may be under way at one target, so that those which hang take neither all
connections nor all memory with them. Who finds no place stands in line, until its deadline or until the breaker opens.
A place is one of its operation's, of which there are `limit`, and one of the target's, which its operations share: how,
`core/share.py` says.

The limit stays as it is. What a target can carry is found by its door, which sees all who call; seen from here, calls
that take longer may as well be a sign of this process's own want of CPU, and to refuse them then would be a failure of
its own making. Standing in line costs nobody but the one who stands there.
"""

import asyncio
from collections import deque

from ringpost.contract.errors import DeadlineExceeded, Overloaded
from ringpost.core.share import may_take, next_of

WAITING_MAX = 1024
"""So many stand in line at most: as many as a process takes requests at a time."""
_AGAIN_S = 1.0


class Places:
    """The places at one target, for all operations of one event loop. `lines`: the bulkheads where somebody waits."""

    __slots__ = ("__weakref__", "free", "lines")

    def __init__(self, count: int) -> None:
        self.free = count
        self.lines: list[Bulkhead] = []

    def wake(self) -> None:
        """Hand free places to those in line."""
        while self.lines:
            able = [line for line in self.lines if line.taken < line.limit]
            at = next_of([line.taken for line in able], self.free)
            if at is None:
                return
            able[at].hand()


class Bulkhead:
    """Of one event loop. Whoever `may_take` a place takes it, the others wait for their `turn`.

    Where the breaker passes, that is asked at each call: there it is `taken < limit` and `taken < places.free`.
    """

    __slots__ = ("_loop", "limit", "name", "places", "taken", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, places: Places, name: str) -> None:
        """`name`: what the calls are, for errors."""
        self.taken = 0
        self.limit = limit
        self.places = places
        self.name = name
        self._loop = loop
        self.waiting: deque[asyncio.Future[bool]] = deque()

    def may_take(self) -> bool:
        """Say whether there is a place for one more."""
        return self.taken < self.limit and may_take(self.taken, self.places.free)

    def take(self) -> None:
        """Take a place, whether there is one or not."""
        self.taken += 1
        self.places.free -= 1

    async def turn(self, deadline_s: float) -> bool:
        """Wait for a place and take it; False where all were sent away. Raises Overloaded where the line is full,
        DeadlineExceeded."""
        if len(self.waiting) >= WAITING_MAX:
            raise Overloaded(
                f"{self.taken} calls of {self.name} are under way and {WAITING_MAX:,} wait: no more are taken on. It "
                "answers too slowly for what it is asked, or `limit` in [policies] is too low, or other operations "
                "there take the places. Many calls at a time are made by call_all.",
                retry_after=_AGAIN_S,
                processed="no",
            )
        turn: asyncio.Future[bool] = self._loop.create_future()
        if not self.waiting:
            self.places.lines.append(self)
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
        """Give a place back, to the next in line."""
        self.taken -= 1
        self.places.free += 1
        if self.places.lines:
            self.places.wake()

    def hand(self) -> None:
        """Hand a place to the first in line."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                self.take()
                turn.set_result(True)
                break
        self._unline()

    def dismiss(self) -> None:
        """Send away all who stand in line: nothing goes out any more."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(False)
        self._unline()

    def _leave(self, turn: "asyncio.Future[bool]") -> None:
        if turn in self.waiting:
            self.waiting.remove(turn)
            self._unline()

    def _unline(self) -> None:
        if not self.waiting and self in self.places.lines:
            self.places.lines.remove(self)
