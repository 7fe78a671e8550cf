"""The intake breaker of a queue: when what handlers depend on is broken, stop taking messages only to fail with them.

Closed, it counts the last 20 outcomes; when half of them were failures it opens. Open, one message at a time is taken
as a probe, with a growing pause after each that fails, and no failure is charged to any message: an outage can't use up
the attempts of a backlog and make dead letters of it. Five probes that go well, one after the other, close it.

A few messages that can never be handled must not look like an outage, or they would never die: of failures that are
the handler's own (`bad`) only first attempts count, while a service behind it that isn't there (`downstream`) counts
each time. `counts` says which.
"""

from typing import Literal

from msgspec import Struct

WINDOW = 20
"""How many outcomes are looked back on, and how many there must be."""
_MASK = (1 << WINDOW) - 1
_FAILURES_OPEN = WINDOW // 2
GOOD_CLOSE = 5
PAUSE_S_FIRST = 0.5
PAUSE_S_MAX = 10.0


def counts(feeds: Literal["", "good", "bad", "downstream"], attempt: int) -> Literal["", "good", "bad"]:
    """Say how an outcome (`feeds` of its Disposition) counts, of the attempt of that number; empty: not at all."""
    if feeds == "downstream":
        return "bad"
    return "" if feeds == "bad" and attempt > 1 else feeds


class Intake(Struct):
    """The breaker of one queue in one process. Instants are seconds of a monotonic clock."""

    open: bool = False
    probe_at_s: float = 0.0  # open: not before this
    _outcomes: int = 0  # the last ones as bits, a failure is 1
    _seen: int = 0
    _good: int = 0  # probes in a row
    _pause_s: float = 0.0

    @property
    def charging(self) -> bool:
        """Whether failures count as attempts."""
        return not self.open

    def allowance(self, free: int, running: int, now_s: float) -> int:
        """Say how many messages may be taken, of as many free slots, while as many are running."""
        if not self.open:
            return free
        return 1 if free > 0 and running == 0 and now_s >= self.probe_at_s else 0

    def note(self, good: int, bad: int, now_s: float) -> bool:
        """Take note of outcomes since the last time; True if it has opened or closed by them."""
        if good < 0 or bad < 0:
            raise ValueError("outcomes are counted, and counts aren't negative")
        if self.open:
            return self._note_probes(good, bad, now_s)
        if good:
            self._outcomes = self._outcomes << min(good, WINDOW) & _MASK
        if bad:
            bits = min(bad, WINDOW)
            self._outcomes = (self._outcomes << bits | (1 << bits) - 1) & _MASK
        self._seen = min(self._seen + good + bad, WINDOW)
        if bad == 0 or self._seen < WINDOW or self._outcomes.bit_count() < _FAILURES_OPEN:
            return False
        self.open = True
        self._good = 0
        self._pause_s = PAUSE_S_FIRST
        self.probe_at_s = now_s + self._pause_s
        return True

    def _note_probes(self, good: int, bad: int, now_s: float) -> bool:
        """What ends while it is open may also have begun before: a failure starts the count of good ones again."""
        if bad:
            self._good = 0
            self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)
            self.probe_at_s = now_s + self._pause_s
            return False
        self._good += good
        if good:
            self._pause_s = PAUSE_S_FIRST
            self.probe_at_s = now_s
        if self._good < GOOD_CLOSE:
            return False
        self.open = False
        self._outcomes = self._seen = 0
        return True
