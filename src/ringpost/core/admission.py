"""Who may run now, who waits a moment, and who is turned away: one operation in one process.

Calls and messages have `total` slots together, and a limiter says how many of them calls may have. A call that finds
none waits in a queue of at most half of that limit, first come, first served. It is told at once where there
is no place for it, and who has one keeps it:

- each priority may enter only up to a height of its own: low while less than a third of the queue stands there, normal
  less than two thirds, high all of it. So the higher ones find room in any overload by the lower ones, and nobody has
  to be sent away for them after having waited. Where even a higher one found none, the lower ones stay out for the
  time of a call, which is as long as the queue lasts: what comes free meanwhile is for the higher ones.
- who would come too late by its place, or would stand there for too long, is turned away instead of let in: so many
  before it, each for the average time, over as many slots, and then its own. Else an overload would fill the queue
  with calls that begin and are cut off, and nothing at all would come to its end.

Where that was too hopeful all the same, whose deadline has passed by the time it would run, or can't be met any more,
is dropped then: nobody waits for its answer.

Messages never stand in that queue, as they wait in their store: a worker claims as many as there are free slots, and
none while calls stand in it. What a claim under way has asked for is still free to calls: a store that is slow must
not keep them waiting. Where a claim then gives more than there is room for, the rest is released.

Nothing here waits: `service/slots.py` joins it to the event loop. Instants are seconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct, field

from ringpost.core.limit import Fixed, Limiter
from ringpost.core.message import Priority

Fate = Literal["waits", "runs", "shed", "late", "left"]

WAIT_S_MAX = 0.5
"""How long a call stands in the queue at most, where its deadline leaves it more."""
THIRDS: Mapping[Priority, int] = MappingProxyType({Priority.HIGH: 3, Priority.NORMAL: 2, Priority.LOW: 1})
"""Up to how many thirds of the queue each priority may enter it, rounded up."""
_LEARN = 0.1  # how much of the average time is the last one's
RETRY_AFTER_S_LEAST = 1.0
RETRY_AFTER_S_MOST = 30.0


def queue_most(calls_max: int) -> int:
    """Give how many calls may wait at most, where so many may run: half, rounded up. Who waits for half as many as run
    takes one and a half times as long as alone, and a little more; the rest of twice as long is for what an overload
    does to the process and its connections."""
    return -(-calls_max // 2)


class Waiting(Struct, eq=False):
    """A call in the queue, or before it, and what becomes of it. `told` is for whoever waits for that."""

    priority: Priority
    deadline_s: float
    told: Any = None
    fate: Fate = "waits"


class Admission(Struct, eq=False):
    """The slots of one operation, and the queue before them.

    A slot is `lost` while a `def` handler that was given up still holds its thread; it comes back when that ends.
    """

    total: int
    name: str = ""
    limiter: Limiter = field(default_factory=lambda: Fixed(1 << 30))
    queue_max: int = 1 << 30  # beside the limit: how many may wait
    used: int = 0  # by calls, messages and lost threads
    calls: int = 0
    messages: int = 0
    asked: int = 0  # a claim under way may bring so many messages more
    lost: int = 0
    waiting: int = 0
    coming: int = 0  # calls that are let in and have yet to take their slot
    closed: bool = False  # nothing new is begun: maintenance
    calls_max: int = 0
    average_s: float = 0.0  # that calls have taken of late; 0: none has ended yet
    _queue: deque[Waiting] = field(default_factory=deque)
    _full_s: dict[Priority, float] = field(default_factory=dict)  # when one of it found no room in the queue, the last

    def __post_init__(self) -> None:
        self.limited()

    # --- slots

    @property
    def free(self) -> int:
        """How many messages more may be claimed now."""
        if self.waiting or self.closed:
            return 0
        return self.total - self.used - self.asked

    def take(self) -> bool:
        """Take a slot for a call, if there is one and nobody stands before it."""
        if self.coming:
            self.coming -= 1
        if self.used >= self.total or self.calls >= self.calls_max or self.waiting:
            return False
        self.used += 1
        self.calls += 1
        return True

    def leave(self) -> None:
        """Give back the slot of a call."""
        assert self.calls > 0, "a slot was given back twice"
        self.used -= 1
        self.calls -= 1

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
        """Take note that the slot which a call took is a message's from now on."""
        self.calls -= 1
        self.messages += 1

    def settled(self) -> None:
        """Give back the slot of a message."""
        assert self.messages > 0, "a slot was given back twice"
        self.used -= 1
        self.messages -= 1

    def lost_one(self) -> None:
        """Count a slot as lost, beside the one that its handling gives back."""
        self.used += 1
        self.lost += 1

    def found(self) -> None:
        """Take a lost slot back: its thread has ended."""
        self.used -= 1
        self.lost -= 1

    def limited(self) -> None:
        """Take over what the limiter says now."""
        self.calls_max = 0 if self.closed else min(self.limiter.limit, self.total)

    def took(self, latency_s: float, *, cut_off: bool = False) -> None:
        """Take note of how long a call took; one that was cut off would have taken longer, and tells no more."""
        if cut_off and latency_s < self.average_s:
            return
        self.average_s += (latency_s - self.average_s) * (_LEARN if self.average_s else 1.0)

    def close(self, closed: bool) -> Sequence[Waiting]:
        """Begin nothing new from now on, or again. Gives who stood in the queue and is turned away by that."""
        self.closed = closed
        self.limited()
        return [self._first("shed") for _ in range(self.waiting if closed else 0)]

    # --- the queue

    def expect(self, priority: Priority, now_s: float) -> bool:
        """Take note of a call on its way in; False where it would be turned away. `came` once all must be here."""
        coming = self.coming + 1
        if not self.waiting and self.calls + coming <= self.calls_max and self.used + coming <= self.total:
            self.coming = coming
            return True
        slots = max(min(self.total - self.used, self.calls_max - self.calls), 0)
        if slots + max(self._height(priority, now_s) - self.waiting, 0) < coming:
            self._full_s[priority] = now_s
            return False
        self.coming = coming
        return True

    def came(self) -> None:
        """Forget whom it expects: some never come to take a slot, as they are refused for something else before."""
        self.coming = 0

    def join(self, newcomer: Waiting, now_s: float) -> Sequence[Waiting]:
        """Put a call that found no slot in the queue, or turn it away. Gives those whose fate is known by that: itself,
        or who was let run or dropped from the front."""
        decided: Sequence[Waiting] = ()
        height = self._height(newcomer.priority, now_s)
        if self.waiting >= height:
            decided = self.advance(now_s)
        if self.waiting >= height:
            self._full_s[newcomer.priority] = now_s
        elif self._in_time(newcomer, now_s):
            self._queue.append(newcomer)
            self.waiting += 1
            return [*decided, *self.advance(now_s)]
        newcomer.fate = "shed"
        return [*decided, newcomer]

    def advance(self, now_s: float) -> Sequence[Waiting]:
        """Let run who may, and drop who is late; gives both."""
        decided: list[Waiting] = []
        until_s = now_s + self._time_s / 2  # who has less than that is not served by being served
        while self.waiting:
            if self._queue[0].deadline_s <= until_s:
                decided.append(self._first("late"))
            elif self.used < self.total and self.calls < self.calls_max:
                self.used += 1
                self.calls += 1
                decided.append(self._first("runs"))
            else:
                break
        return decided

    def withdraw(self, one: Waiting) -> None:
        """Take a call out of the queue: its caller has gone away, or has stood there for too long."""
        if one.fate == "waits":
            self._queue.remove(one)
            self.waiting -= 1
            one.fate = "left"

    def retry_after_s(self) -> float:
        """Say when it is of use to come again: when what is here now should have been served."""
        return min(max(self._wait_s(self.waiting), RETRY_AFTER_S_LEAST), RETRY_AFTER_S_MOST)

    @property
    def _time_s(self) -> float:
        """How long a call takes now, as far as it is known; 0 while it isn't."""
        return self.average_s or self.limiter.usual_s

    def _height(self, priority: Priority, now_s: float) -> int:
        """Say how many may stand in the queue once one of that priority has entered it."""
        for higher, full_s in self._full_s.items():
            if higher < priority and now_s - full_s < self.average_s:
                return 0
        return -(-min(self.queue_max, queue_most(self.calls_max)) * THIRDS[priority] // 3)

    def _wait_s(self, before: int) -> float:
        """Say how long it takes until it is the turn of one with so many before it."""
        return self._time_s * (before + 1) / max(self.calls_max, 1)

    def _in_time(self, newcomer: Waiting, now_s: float) -> bool:
        wait_s = self._wait_s(self.waiting)
        return wait_s <= WAIT_S_MAX and now_s + wait_s + self._time_s < newcomer.deadline_s

    def _first(self, fate: Fate) -> Waiting:
        """Take the first one out of the queue."""
        one = self._queue.popleft()
        self.waiting -= 1
        one.fate = fate
        return one
