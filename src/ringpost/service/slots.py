"""The admission of one operation, joined to the event loop: integers, counted by calls and messages together.

A semaphore costs 0.7 µs a message. Who decides is `core/admission.py`; here a call waits for its turn, and what becomes
free is handed to who stands in the queue before the next claim can ask for it. Not thread-safe: only the loop counts.
"""

import asyncio
from collections.abc import Callable, Sequence

from ringpost.core.admission import WAIT_S_MAX, Admission, Fate, Waiting
from ringpost.core.limit import Fixed
from ringpost.core.message import Priority

SHORT_S = 0.005
SKIPPED = 7
BURST = 8  # so many calls that were let in may be missing, before it is seen to that none is waited for in vain


class Slots(Admission, eq=False):
    """The slots of one operation in this process."""

    freed: Callable[[], None] | None = None  # called when messages may be claimed again after they could not
    skipped: int = 0  # calls that are yet to pass before the limiter is told of one
    _counting: bool = False

    async def enter(self, priority: Priority, deadline_s: float) -> Fate:
        """Stand in the queue for a slot: `runs` where it was given one, `shed` or `late` where it is turned away."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        turn: asyncio.Future[None] = loop.create_future()
        one = Waiting(priority, deadline_s, turn)
        self._tell(self.join(one, now_s))
        if turn.done():
            return one.fate
        try:
            async with asyncio.timeout_at(min(deadline_s, now_s + WAIT_S_MAX)):
                await turn
        except TimeoutError:
            self.withdraw(one)
        except asyncio.CancelledError:
            if one.fate == "runs":
                self.give()  # it came, and nobody is there to use it
            self.withdraw(one)
            raise
        if one.fate == "left":
            self._may_claim()
            return "late" if loop.time() >= deadline_s else "shed"
        return one.fate

    def let_in(self, priority: Priority) -> bool:
        """Take note of a call whose task is about to be made; False where it would be turned away: it needs no task.

        What is made in one turn of the loop begins in the next, and takes its slot then. Closed, all are let in, to be
        told for how long.
        """
        coming = self.coming
        if coming < BURST and self.calls + BURST < self.calls_max and not self.waiting:
            self.coming = coming + 1  # far from any limit: nearly every call passes here
            return True
        loop = asyncio.get_running_loop()
        if not self.expect(priority, loop.time()):
            return self.closed
        if not self._counting:
            self._counting = True
            loop.call_soon(self._all_came)
        return True

    def give(self) -> None:
        """Give back the slot of a call."""
        assert self.calls > 0, "a slot was given back twice"
        self.used -= 1  # as `leave`: every call passes here
        self.calls -= 1
        if self.waiting or self.used == self.total - 1:
            self._go_on()

    def ended(self) -> None:
        """Give back the slot of a message."""
        self.settled()
        if self.waiting or self.used == self.total - 1:
            self._go_on()

    def begun(self) -> None:
        """Take note that the slot which a call took is a message's from now on."""
        Admission.begun(self)
        if self.waiting:
            self._go_on()

    def lose(self) -> None:
        """Count a slot as lost, beside the one that its handling gives back."""
        self.lost_one()

    def recover(self) -> None:
        """Take a lost slot back into use: its thread has ended."""
        self.found()
        self._go_on()

    def sample(self, now_s: float, latency_s: float, in_flight: int, *, dropped: bool = False) -> None:
        """Tell the limiter of a call that has ended; of short ones it is enough to hear of some."""
        self.took(latency_s, cut_off=dropped)
        usual_s = self.average_s if isinstance(self.limiter, Fixed) else self.limiter.usual_s
        self.skipped = SKIPPED if 0.0 < usual_s < SHORT_S else 0
        if self.limiter.sample(now_s, latency_s, in_flight, dropped=dropped):
            self.limited()
            if self.waiting:
                self._go_on()

    def shut(self, closed: bool) -> None:
        """Begin nothing new from now on, or again."""
        if closed is not self.closed:
            self._tell(self.close(closed))
            self._go_on()

    def _go_on(self) -> None:
        if self.waiting:
            self._tell(self.advance(asyncio.get_running_loop().time()))
        self._may_claim()

    def _may_claim(self) -> None:
        if self.freed is not None and not self.waiting:
            self.freed()

    def _tell(self, decided: Sequence[Waiting]) -> None:
        for one in decided:
            if not one.told.done():
                one.told.set_result(None)

    def _all_came(self) -> None:
        self._counting = False
        self.came()
