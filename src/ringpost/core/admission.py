"""Who may run now, who waits a moment, and who is turned away: one operation in one process.

Calls and messages have `total` slots together, and a limiter says how many of them calls may have. A call that finds
none waits in a queue no longer than that limit: who came first is first, within its priority. Where the queue is full,
the newest of the lowest priority gives way to a higher one, and else the newcomer is turned away at once. Whose
deadline has passed by the time it would run, or can't be met any more, is dropped there: nobody waits for its answer.

Messages never stand in that queue, as they wait in their store: a worker claims as many as there are free slots, and
none while calls stand in it. What a claim under way has asked for is still free to calls: a store that is slow must
not keep them waiting. Where a claim then gives more than there is room for, the rest is released.

Nothing here waits: `service/slots.py` joins it to the event loop. Instants are seconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, field

from ringpost.core.limit import Fixed, Limiter
from ringpost.core.message import Priority

Fate = Literal["waits", "runs", "shed", "late", "left"]

WAIT_S_MAX = 0.5
"""How long a call stands in the queue at most, where its deadline leaves it more."""
RETRY_AFTER_S_LEAST = 1.0
RETRY_AFTER_S_MOST = 30.0


class Waiting(Struct, eq=False):
    """A call in the queue, and what becomes of it. `told` is for whoever waits for that."""

    priority: Priority
    deadline_s: float
    told: Any = None
    fate: Fate = "waits"


Queues = dict[Priority, deque[Waiting]]


def _queues() -> Queues:
    return {priority: deque() for priority in sorted(Priority)}


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
    _queues: Queues = field(default_factory=_queues)

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

    def close(self, closed: bool) -> Sequence[Waiting]:
        """Begin nothing new from now on, or again. Gives who stood in the queue and is turned away by that."""
        self.closed = closed
        self.limited()
        queues = self._queues.values() if closed else ()
        return [self._decide(queue.popleft(), "shed") for queue in queues for _ in range(len(queue))]

    # --- the queue

    def expect(self, priority: Priority) -> bool:
        """Take note of a call on its way in; False where it would be turned away. `came` once all must be here."""
        coming = self.coming + 1
        if not self.waiting and self.calls + coming <= self.calls_max and self.used + coming <= self.total:
            self.coming = coming
            return True
        slots = max(min(self.total - self.used, self.calls_max - self.calls), 0)
        if slots + max(self._room_in_queue(), 0) < coming and self._who_gives_way(priority) is None:
            return False
        self.coming = coming
        return True

    def came(self) -> None:
        """Forget whom it expects: some never come to take a slot, as they are refused for something else before."""
        self.coming = 0

    def join(self, newcomer: Waiting, now_s: float) -> Sequence[Waiting]:
        """Put a call that found no slot in the queue. Gives those whose fate is known by that: itself, where it was
        shed; who gave way; who was dropped from the front."""
        decided: list[Waiting] = []
        if self._room_in_queue() <= 0:
            decided += self.advance(now_s)
        if self._room_in_queue() <= 0:
            lower = self._who_gives_way(newcomer.priority)
            if lower is None:
                newcomer.fate = "shed"
                decided.append(newcomer)
                return decided
            decided.append(self._decide(lower.pop(), "shed"))
        self._queues[newcomer.priority].append(newcomer)
        self.waiting += 1
        decided += self.advance(now_s)
        return decided

    def advance(self, now_s: float) -> Sequence[Waiting]:
        """Let run who may, and drop who is late; gives both."""
        decided: list[Waiting] = []
        until_s = now_s + self.limiter.usual_s / 2  # who has less than that is not served by being served
        for queue in self._queues.values():
            while queue:
                if queue[0].deadline_s <= until_s:
                    decided.append(self._decide(queue.popleft(), "late"))
                elif self.used < self.total and self.calls < self.calls_max:
                    self.used += 1
                    self.calls += 1
                    decided.append(self._decide(queue.popleft(), "runs"))
                else:
                    return decided
        return decided

    def withdraw(self, one: Waiting) -> None:
        """Take a call out of the queue: its caller has gone away, or has stood there for too long."""
        if one.fate == "waits":
            self._queues[one.priority].remove(one)
            self._decide(one, "left")

    def retry_after_s(self) -> float:
        """Say when it is of use to come again: when what is here now should have been served."""
        usual_s = self.limiter.usual_s * (self.waiting + 1) / max(self.calls_max, 1)
        return min(max(usual_s, RETRY_AFTER_S_LEAST), RETRY_AFTER_S_MOST)

    def _room_in_queue(self) -> int:
        return min(self.queue_max, self.calls_max) - self.waiting

    def _who_gives_way(self, priority: Priority) -> deque[Waiting] | None:
        """Give the queue of the lowest priority below, of those in which somebody stands."""
        for lower in sorted(Priority, reverse=True):
            if lower <= priority:
                return None
            if self._queues[lower]:
                return self._queues[lower]
        return None

    def _decide(self, one: Waiting, fate: Fate) -> Waiting:
        one.fate = fate
        self.waiting -= 1
        return one
