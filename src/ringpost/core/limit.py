"""How many may run at a time: limits that find a capacity by themselves, from how long what ran took.

No number in a configuration stays right: it depends on the machine, the neighbours, the data and what stands behind.
What shows that there are too many is that each takes longer than it does alone. So a limiter learns the *usual*
latency, while no more run than its least limit, looks at rounds of samples, and goes down when a round was slow or
many were dropped, and up when it was not and the limit was in use. Two ways of going:

- **AIMD**, additive increase and multiplicative decrease, as TCP: one step up, a fifth down. Coarse and robust: it
  waits for latency to have tripled.
- **gradient**: down in proportion to how much slower the round was, up by the square root of the limit. Finer; for
  operations whose latency is steady. The idea is that of Netflix's concurrency-limits
  (https://netflixtechblog.medium.com/performance-under-load-3e6fa9a60581).

Both begin at their most, as who has just started doesn't know of any overload, and forget what they saw before an idle
time. A usual latency that has changed for good costs one dip: at the least limit it is learned anew. Instants are of
one monotonic clock, in seconds.
"""

from math import inf, sqrt
from typing import Literal, Protocol

from msgspec import Struct, field

LEAST = 4
MOST = 256
ROUND_S = 0.1
"""A round takes at least so long, and has `ROUND_SAMPLES`, or as many as the limit where that is less."""
ROUND_SAMPLES = 20
DROPPED_MAX = 0.1
"""The share of a round's samples that may be dropped without its being taken for an overload."""
IDLE_S = 1.0
STEP = 2.0
DOWN = 0.8
AIMD_TOLERANCE = 3.0
AIMD_SLACK_S = 0.010
GRADIENT_TOLERANCE = 1.5
GRADIENT_SLACK_S = 0.005
_LEARN_UNLOADED = 0.3
_LEARN_LOADED = 0.1
_LUCK = 0.7
_DOWN_MOST = 0.5

Kind = Literal["aimd", "gradient", "fixed"]


class Limiter(Protocol):
    """How many may run at a time, from `least` to `most`; it learns from samples of what has run."""

    @property
    def limit(self) -> int:
        """How many may run now."""
        ...

    @property
    def usual_s(self) -> float:
        """How long one takes when nothing else runs, as far as it is known; 0 while it isn't."""
        ...

    def slow(self, latency_s: float) -> bool:
        """Say whether that is longer than an unloaded one takes, beyond what is tolerated. False while nothing is
        known. A latency cut off by somebody's deadline says something of the load only if it is slow."""
        ...

    def sample(self, now_s: float, latency_s: float, in_flight: int, *, dropped: bool = False) -> bool:
        """Take note of one that has ended now, while as many ran (itself included); True if the limit has changed.

        `dropped`: it was refused for overload, or it was slow and given up. It counts whatever its latency is, from
        which nothing else is learned then.
        """
        ...


def limiter(kind: Kind, least: int = LEAST, most: int = MOST) -> Limiter:
    """Make a limiter. `fixed` is always at its most."""
    if not 1 <= least <= most:
        raise ValueError(f"a limit is from 1 up, and the least isn't above the most: {least} to {most}")
    if kind == "fixed":
        return Fixed(most)
    return (Gradient if kind == "gradient" else Aimd)(float(least), float(most), float(most))


class Fixed(Struct):
    """A limit that stays."""

    limit: int
    usual_s: float = 0.0

    def slow(self, latency_s: float) -> bool:
        return False

    def sample(self, now_s: float, latency_s: float, in_flight: int, *, dropped: bool = False) -> bool:
        return False


class Round(Struct):
    """Some samples in a row."""

    began_s: float = -inf
    count: int = 0  # of those that weren't dropped
    dropped: int = 0
    total_s: float = 0.0
    shortest_s: float = inf
    in_flight: int = 0  # the most

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count if self.count else 0.0

    @property
    def lossy(self) -> bool:
        return self.dropped > DROPPED_MAX * (self.count + self.dropped)


class Adaptive(Struct):
    """What the two have in common: rounds, and the usual latency. `_after` says where a round leads."""

    least: float
    most: float
    _limit: float
    usual_s: float = 0.0  # 0: not known yet
    _round: Round = field(default_factory=Round)
    _settled_s: float = -inf
    _seen_s: float = -inf

    @property
    def limit(self) -> int:
        return int(self._limit)

    def slow(self, latency_s: float) -> bool:
        return self.usual_s > 0.0 and latency_s > self._tolerated_s()

    def sample(self, now_s: float, latency_s: float, in_flight: int, *, dropped: bool = False) -> bool:
        this, idle_s = self._round, now_s - self._seen_s
        if idle_s > IDLE_S and idle_s > max(4 * self.usual_s, latency_s):
            self._round = this = Round(began_s=now_s)
        self._seen_s = now_s
        if dropped:
            this.dropped += 1
        elif now_s < self._settled_s:
            return False  # most of what ends now began under another limit, and tells of that one
        else:
            this.count += 1
            this.total_s += latency_s
            if latency_s < this.shortest_s:
                this.shortest_s = latency_s
        if in_flight > this.in_flight:
            this.in_flight = in_flight
        if now_s - this.began_s < ROUND_S:
            return False  # as it is in most calls
        wanted = self.least if this.in_flight <= self.least else self._limit
        if this.count + this.dropped < min(wanted, ROUND_SAMPLES):
            return False
        self._round = Round(began_s=now_s)
        return self._judge(this, now_s)

    def _judge(self, this: Round, now_s: float) -> bool:
        before, was = self.limit, self._limit
        unloaded = this.in_flight <= self.least
        if this.count:
            self._learn(this, unloaded)
        if not unloaded or this.lossy or before <= self.least:  # so few can't be the reason why one is slow
            self._limit = min(max(self._after(this), self.least), self.most)
        if self._limit != was:
            self._settled_s = now_s + this.mean_s
        return self.limit != before

    def _learn(self, this: Round, unloaded: bool) -> None:
        """Follow the latency where no load can be its reason; else only downwards, and only what is more than chance.

        At the begin the shortest of a loaded round is the best guess: it may be among those that came first.
        """
        if not self.usual_s:
            self.usual_s = this.mean_s if unloaded else this.shortest_s
        elif unloaded and not this.lossy:
            self.usual_s += _LEARN_UNLOADED * (this.mean_s - self.usual_s)
        elif this.mean_s < _LUCK * self.usual_s:
            self.usual_s += _LEARN_LOADED * (this.mean_s - self.usual_s)

    def _in_use(self, this: Round) -> bool:
        return this.in_flight * 2 >= self._limit

    def _tolerated_s(self) -> float:
        raise NotImplementedError

    def _after(self, this: Round) -> float:
        raise NotImplementedError


class Aimd(Adaptive):
    """A step up after each good round in which the limit was in use, a fifth down after each bad one."""

    def _tolerated_s(self) -> float:
        return max(AIMD_TOLERANCE * self.usual_s, self.usual_s + AIMD_SLACK_S)

    def _after(self, this: Round) -> float:
        if this.lossy or self.slow(this.mean_s):
            return self._limit * DOWN
        return self._limit + STEP if self._in_use(this) else self._limit


class Gradient(Adaptive):
    """Towards the limit at which a round takes the usual time, with room for a short queue."""

    def _tolerated_s(self) -> float:
        return max(GRADIENT_TOLERANCE * self.usual_s, self.usual_s + GRADIENT_SLACK_S)

    def _after(self, this: Round) -> float:
        if this.lossy:
            return self._limit * _DOWN_MOST
        if self.slow(this.mean_s):
            return self._limit * max(self._tolerated_s() / this.mean_s, _DOWN_MOST)
        return self._limit + sqrt(self._limit) if self._in_use(this) else self._limit
