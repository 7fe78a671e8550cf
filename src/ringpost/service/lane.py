"""One queue as this process works it: how much room there is, and whether it is worth while to claim from it."""

from ringpost.core.intake import Intake, counts
from ringpost.core.maintenance import Drain
from ringpost.core.message import Settlement, State
from ringpost.service.handler import Handler
from ringpost.service.slots import Slots

_EMPTY_WAKES_MAX = 2
_HUSH_S_FIRST = 0.005
_HUSH_S_MAX = 1.0
_STALE_S = 0.020
_FEW = 8  # what is less than this part of all slots


class Lane:
    """What a worker knows of one queue. It is *hungry* while there may be something to claim, as far as it knows."""

    __slots__ = (
        "_bad",
        "_empty_wakes",
        "_good",
        "_hush_s",
        "_hushed_until_s",
        "_paused_until_s",
        "_warm",
        "_woken",
        "_woken_s",
        "claimed_s",
        "drain",
        "handler",
        "hungry",
        "intake",
        "looked_s",
        "queue",
        "slots",
    )

    def __init__(self, handler: Handler, slots: Slots) -> None:
        self.handler = handler
        self.queue = handler.queue
        self.slots = slots
        self.intake = Intake()
        self.drain: Drain | None = None  # after maintenance: no faster than this until nothing waits any more
        self.hungry = True
        self.looked_s = 0.0
        self.claimed_s = 0.0  # when a claim gave something
        self._good = self._bad = 0  # outcomes since the intake breaker was told
        self._warm = False  # the last claim gave something
        self._woken = False  # since the last claim was made
        self._woken_s = 0.0
        self._empty_wakes = 0
        self._hush_s = 0.0
        self._hushed_until_s = 0.0
        self._paused_until_s = 0.0

    # --- claiming

    def room(self, now_s: float) -> int:
        """Say how many may be claimed now."""
        room = self.intake.allowance(self.slots.free, self.slots.messages + self.slots.asked, now_s)
        return room if self.drain is None else min(room, self.drain.allowance(now_s))

    def worth_a_look(self, now_s: float) -> bool:
        """Say whether a turn that is taken anyway should look here too: a busy process is sent no wake-ups."""
        return self._warm or now_s - self.looked_s > _STALE_S

    def few(self, count: int, now_s: float, gap_s: float) -> bool:
        """Say whether that many are few to ask for so soon after the last time."""
        return count * _FEW < self.slots.total and now_s - self.looked_s < gap_s

    def reserve(self, count: int, now_s: float) -> None:
        """Take note of a claim that is about to be made."""
        self.slots.ask(count)
        self.looked_s = now_s
        self._woken = False

    def returned(self, asked: int, got: int, now_s: float) -> int:
        """Take note of a claim's result, and say for how many messages there is no slot. If the claim left nothing it
        is quiet here until a wake-up."""
        excess = self.slots.claimed(asked, got)
        if self.drain is not None:
            self.drain.took(got)
            if got < asked:
                self.drain = None
        self._warm = got > 0
        if got:
            self.claimed_s = now_s
            self._hush_s = 0.0
            self._empty_wakes = 0
        elif self._woken_s:
            self._empty_handed(now_s)
        self._woken_s = 0.0
        self.hungry = got == asked or excess > 0 or self._woken
        return excess

    def failed_claim(self, asked: int) -> None:
        """Take note that a claim failed: it is as before it was made."""
        self.slots.claimed(asked, 0)
        self.hungry = True

    # --- outcomes

    def ended(self, settlement: Settlement) -> None:
        """Take note of how a message ended, and free its slot."""
        self.slots.ended()
        if settlement.to is State.SUCCEEDED:
            self._good += 1
            return
        match counts(settlement.feeds, settlement.delivery.attempt):
            case "good":
                self._good += 1
            case "bad":
                self._bad += 1
            case _:
                pass

    def look_at_outcomes(self, now_s: float) -> bool:
        """Tell the intake breaker what has ended since the last time; True if it has opened or closed."""
        good, bad, self._good, self._bad = self._good, self._bad, 0, 0
        if good or bad:
            return self.intake.note(good, bad, now_s)
        return False

    def new_pause_s(self, now_s: float) -> float:
        """Say how long the intake breaker pauses, once for each pause."""
        if not self.intake.open or self._paused_until_s == self.intake.probe_at_s:
            return 0.0
        self._paused_until_s = self.intake.probe_at_s
        return max(self.intake.probe_at_s - now_s, 0.0)

    # --- wake-ups

    def wake(self, now_s: float) -> None:
        """Take note that there may be something to claim."""
        self.hungry = True
        self._woken = True
        self._woken_s = now_s

    def hush_s(self, now_s: float) -> float:
        """Say for how long not to listen to this queue's wake-ups."""
        return max(self._hushed_until_s - now_s, 0.0)

    def _empty_handed(self, now_s: float) -> None:
        """Stop listening for a while where wake-ups give nothing again and again, as from a queue that is paused."""
        if now_s - self._hushed_until_s > _HUSH_S_MAX:
            self._empty_wakes, self._hush_s = 0, 0.0
        self._empty_wakes += 1
        if self._empty_wakes > _EMPTY_WAKES_MAX:
            self._hush_s = min(max(self._hush_s * 2, _HUSH_S_FIRST), _HUSH_S_MAX)
        self._hushed_until_s = now_s + self._hush_s
