"""One queue as this process works it: how much room there is, and whether it is worth while to claim from it."""

from ringpost.service.handler import Handler
from ringpost.service.slots import Slots

_EMPTY_WAKES_MAX = 2
_HUSH_S_FIRST = 0.005
_HUSH_S_MAX = 1.0
_STALE_S = 0.020


class Lane:
    """What a worker knows of one queue. It is *hungry* while there may be something to claim, as far as it knows."""

    __slots__ = (
        "_empty_wakes",
        "_hush_s",
        "_hushed_until_s",
        "_woken_s",
        "asked",
        "charging",
        "claimed_s",
        "failed",
        "full",
        "handler",
        "hungry",
        "looked_s",
        "queue",
        "slots",
        "succeeded",
        "warm",
        "woken",
    )

    def __init__(self, handler: Handler, slots: Slots) -> None:
        self.handler = handler
        self.queue = handler.queue
        self.slots = slots
        self.hungry = True
        self.full = False  # the last claim took all that it asked for: there is probably more
        self.warm = False  # the last claim gave something
        self.asked = 0  # slots taken for claims under way
        self.woken = False  # since the last claim was made
        self.looked_s = 0.0
        self.claimed_s = 0.0
        self._hushed_until_s = 0.0
        self.charging = True  # False: the intake breaker is open, failures cost no attempt
        self.failed = 0  # since the last look of the intake breaker
        self.succeeded = 0
        self._empty_wakes = 0
        self._hush_s = 0.0
        self._woken_s = 0.0

    def room(self) -> int:
        """Say how many to claim now. Half of the slots at most: the store works on one half while handlers run the
        other."""
        return min(self.slots.free, (self.slots.total + 1) // 2)

    def worth_a_turn(self) -> bool:
        """Say whether a turn should be taken to claim from this queue."""
        return self.hungry and (self.asked == 0 or self.full)

    def worth_a_look(self, now_s: float) -> bool:
        """Say whether a turn that is taken anyway should look here too: a busy process is sent no wake-ups."""
        return self.asked == 0 and (self.warm or now_s - self.looked_s > _STALE_S)

    def reserve(self, count: int, now_s: float) -> None:
        """Take slots for a claim that is about to be made."""
        self.slots.used += count
        self.asked += count
        self.looked_s = now_s
        self.woken = False

    def returned(self, asked: int, got: int, now_s: float) -> None:
        """Take note of a claim's result. If it left nothing it is quiet here until a wake-up."""
        self.asked -= asked
        self.slots.give_back(asked - got)
        self.full = got == asked
        self.warm = got > 0
        if got:
            self.claimed_s = now_s
            self._hush_s = 0.0
            self._empty_wakes = 0
        elif self._woken_s:
            self._empty_handed(now_s)
        self._woken_s = 0.0
        self.hungry = self.full or self.woken

    def hush_s(self, now_s: float) -> float:
        """Say for how long not to listen to this queue's wake-ups."""
        return max(self._hushed_until_s - now_s, 0.0)

    def failed_claim(self, asked: int) -> None:
        """Take note that a claim failed: it is as before it was made."""
        self.asked -= asked
        self.slots.give_back(asked)
        self.hungry = True

    def wake(self, now_s: float) -> None:
        """Take note that there may be something to claim."""
        self.hungry = True
        self.woken = True
        self._woken_s = now_s

    def _empty_handed(self, now_s: float) -> None:
        """Stop listening for a while where wake-ups give nothing again and again, as from a queue that is paused."""
        if now_s - self._hushed_until_s > _HUSH_S_MAX:
            self._empty_wakes, self._hush_s = 0, 0.0
        self._empty_wakes += 1
        if self._empty_wakes > _EMPTY_WAKES_MAX:
            self._hush_s = min(max(self._hush_s * 2, _HUSH_S_FIRST), _HUSH_S_MAX)
        self._hushed_until_s = now_s + self._hush_s
