"""How much of an operation one process does at a time: integers, counted by calls and messages together.

A semaphore costs 0.7 µs a message. A call that finds all slots taken by calls is refused at once; a worker claims at
most as many messages as are free. What a claim under way has asked for is still free to calls: a store that is slow
must not keep them waiting. Where a claim then gives more than there is room for, the rest is released. Where messages
have the slots, one of which ends soon while a queue is drained, a call waits a moment: it goes before the next claim.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Slots:
    """The slots of one operation in this process. Not thread-safe: only the event loop counts.

    A slot is `lost` while a `def` handler that was given up still holds its thread; it comes back when that ends.
    """

    __slots__ = ("_waiting", "asked", "freed", "lost", "messages", "name", "total", "used")

    def __init__(self, total: int, name: str = "") -> None:
        self.total = total
        self.name = name
        self.used = 0
        self.messages = 0  # of the used ones: messages have them
        self.asked = 0  # a claim under way may bring so many more
        self.lost = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self.freed: Callable[[], None] | None = None  # called when a slot becomes free again in a full set

    @property
    def free(self) -> int:
        """How many messages more may be claimed now."""
        return self.total - self.used - self.asked

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self.used >= self.total:
            return False
        self.used += 1
        return True

    async def take_soon(self) -> bool:
        """Take the next slot that a message gives back; False where that is no use: as many calls wait for as many."""
        if len(self._waiting) >= self.messages:
            return False
        coming: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(coming)
        try:
            return await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled():
                self.give()  # it came, and nobody is there to use it
            elif coming in self._waiting:
                self._waiting.remove(coming)
            raise

    def ask(self, count: int) -> None:
        """Take note of how many messages a claim that is about to be made asks for."""
        self.asked += count

    def claimed(self, asked: int, got: int) -> int:
        """Take slots for the messages that a claim gave; says for how many there is none, as calls came before."""
        self.asked -= asked
        begun = min(got, max(self.total - self.used, 0))
        self.used += begun
        self.messages += begun
        return got - begun

    def begun(self) -> None:
        """Take note that a slot which was taken is a message's."""
        self.messages += 1

    def ended(self) -> None:
        """Give back the slot of a message."""
        self.messages -= 1
        self.give()

    def _handed_over(self) -> bool:
        """Hand a slot that is given back to a call that waits for it; else the next claim would be quicker."""
        while self._waiting:
            coming = self._waiting.popleft()
            if not coming.done():
                coming.set_result(True)
                return True
        return False

    def give(self) -> None:
        """Give a slot back."""
        assert self.used > 0, "a slot was given back twice"
        if self._waiting and self._handed_over():
            return
        self.used -= 1
        if self.freed is not None and self.used == self.total - 1:
            self.freed()

    def lose(self) -> None:
        """Count a slot as lost, beside the one that its handling gives back."""
        self.used += 1
        self.lost += 1

    def recover(self) -> None:
        """Take a lost slot back into use: its thread has ended."""
        self.lost -= 1
        self.give()
