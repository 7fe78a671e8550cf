"""Limits that find a capacity: properties of each step, and a closed loop with a simple queueing model behind it.

In the model `servers` work at a time, first come first served; an open loop offers more than they can do, whatever is
above the limit is turned away, and time is the model's own. Seeds are in the names of the tests.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from ringpost.core import limit
from ringpost.core.limit import LEAST, MOST, Adaptive, Aimd, Gradient, Kind, Limiter, Round, limiter

KINDS: tuple[Kind, ...] = ("aimd", "gradient")
Service = Callable[[float, Random], float]  # (now_s, chance) → seconds that one needs


class Phase(Struct):
    """What a stretch of time gave."""

    done: int = 0
    turned_away: int = 0
    latency_s: float = 0.0  # the sum
    limits: list[int] = []

    @property
    def mean_s(self) -> float:
        return self.latency_s / self.done


class Model:
    """A queueing model with a limiter before it."""

    def __init__(self, tested: Limiter, service: Service, servers: int, seed: int = 1) -> None:
        self.limiter, self.service, self.servers = tested, service, servers
        self.now_s, self.in_flight = 0.0, 0
        self._chance = Random(seed)
        self._line: deque[float] = deque()
        self._busy: list[tuple[float, float]] = []  # (ends, came)

    def run(self, seconds: float, rate: float) -> Phase:
        """Offer so many a second for so long."""
        phase, until_s = Phase(), self.now_s + seconds
        next_s = self.now_s + self._chance.expovariate(rate) if rate else until_s
        while self.now_s < until_s:
            ends_s = self._busy[0][0] if self._busy else inf
            if ends_s <= next_s:
                self._end(phase)
            elif next_s >= until_s:
                self.now_s = until_s
            else:
                self.now_s = next_s
                if self.in_flight < self.limiter.limit:
                    self.in_flight += 1
                    self._line.append(next_s)
                else:
                    phase.turned_away += 1
                next_s += self._chance.expovariate(rate)
            self._begin()
        phase.limits.append(self.limiter.limit)
        return phase

    def _begin(self) -> None:
        while self._line and len(self._busy) < self.servers:
            heappush(self._busy, (self.now_s + self.service(self.now_s, self._chance), self._line.popleft()))

    def _end(self, phase: Phase) -> None:
        self.now_s, came_s = heappop(self._busy)
        latency_s = self.now_s - came_s
        phase.done += 1
        phase.latency_s += latency_s
        self.limiter.sample(self.now_s, latency_s, self.in_flight)
        phase.limits.append(self.limiter.limit)
        self.in_flight -= 1


def steady(service_s: float) -> Service:
    return lambda now_s, chance: service_s


def varied(mean_s: float) -> Service:
    """As different as exponentially distributed times are."""
    return lambda now_s, chance: chance.expovariate(1 / mean_s)


def somewhat_varied(mean_s: float) -> Service:
    """From half to one and a half."""
    return lambda now_s, chance: chance.uniform(0.5 * mean_s, 1.5 * mean_s)


# --- each step


@given(
    st.sampled_from(KINDS),
    st.integers(1, 20),
    st.integers(0, 300),
    st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 60), st.integers(1, 400), st.booleans()),
        max_size=200,
    ),
)
def test_it_stays_within_its_bounds_and_says_when_it_has_changed(
    kind: Kind, least: int, more: int, samples: list[tuple[float, float, int, bool]]
) -> None:
    tested, now_s = limiter(kind, least, least + more), 0.0
    assert tested.limit == least + more
    for gap_s, latency_s, in_flight, dropped in samples:
        now_s += gap_s
        before = tested.limit
        changed = tested.sample(now_s, latency_s, in_flight, dropped=dropped)
        assert least <= tested.limit <= least + more
        assert changed == (tested.limit != before)


@pytest.mark.parametrize(("least", "most"), [(0, 4), (5, 4), (-1, 1)])
def test_bounds_that_cant_be_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="least"):
        limiter("aimd", least, most)


def test_a_fixed_one_stays() -> None:
    tested = limiter("fixed", 4, 9)
    for number in range(100):
        assert not tested.sample(number * 0.1, 60.0, 9, dropped=True)
    assert tested.limit == 9
    assert not tested.slow(60.0)


def a_round(tested: Limiter, from_s: float, latency_s: float, in_flight: int, *, dropped: bool = False) -> float:
    """Give samples for a bit more than a round; says when the last one was."""
    for number in range(21):
        now_s = from_s + number * limit.ROUND_S / 20
        tested.sample(now_s, latency_s, in_flight, dropped=dropped)
    return now_s


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_of_dropped_ones_takes_it_down_and_good_ones_up_again(kind: Kind) -> None:
    tested = limiter(kind)
    now_s = a_round(tested, 10.0, 0.02, 2)
    assert tested.limit == MOST
    for _ in range(40):
        now_s = a_round(tested, now_s + 0.01, 0.02, tested.limit, dropped=True)
    assert tested.limit == LEAST
    for _ in range(200):
        now_s = a_round(tested, now_s + 0.03, 0.02, tested.limit)
    assert tested.limit == MOST


@pytest.mark.parametrize("kind", KINDS)
def test_few_dropped_ones_are_no_overload(kind: Kind) -> None:
    tested = limiter(kind)
    for number in range(2_000):
        tested.sample(number * 0.01, 0.02, 200, dropped=number % 20 == 0)
    assert tested.limit == MOST


@pytest.mark.parametrize("kind", KINDS)
def test_what_isnt_in_use_doesnt_grow(kind: Kind) -> None:
    tested = limiter(kind)
    now_s = a_round(tested, 10.0, 0.02, 2)
    for _ in range(40):
        now_s = a_round(tested, now_s + 0.01, 0.02, tested.limit, dropped=True)
    for _ in range(100):
        now_s = a_round(tested, now_s + 0.03, 0.02, 1)
    assert tested.limit == LEAST


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_slow_before_anything_is_known(kind: Kind) -> None:
    tested = limiter(kind)
    assert not tested.slow(100.0)
    a_round(tested, 0.0, 0.1, 1)
    assert not tested.slow(0.1)
    assert tested.slow(0.5)


# --- the closed loop


@pytest.mark.parametrize("service", [steady(0.02), varied(0.02)], ids=["steady", "varied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_finds_the_capacity_under_ten_times_as_much(kind: Kind, service: Service, seed: int) -> None:
    model = Model(limiter(kind), service, servers=10, seed=seed)
    model.run(5, rate=100)  # a time without load
    model.run(5, rate=5_000)
    phase = model.run(10, rate=5_000)
    assert phase.done >= 0.95 * 10 * 500
    assert phase.mean_s <= 0.02 * 5, "queueing is bounded"
    assert max(phase.limits) <= 60


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_capacity_when_it_is_started_under_load(kind: Kind) -> None:
    model = Model(limiter(kind), varied(0.02), servers=10)
    model.run(10, rate=5_000)
    phase = model.run(10, rate=5_000)
    assert phase.done >= 0.95 * 10 * 500
    assert phase.mean_s <= 0.02 * 5


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_when_the_capacity_falls_and_comes_back(kind: Kind) -> None:
    model = Model(limiter(kind), steady(0.02), servers=20)
    model.run(5, rate=100)
    before = model.run(10, rate=5_000)
    model.servers = 4
    model.run(10, rate=5_000)
    during = model.run(10, rate=5_000)
    model.servers = 20
    model.run(10, rate=5_000)
    after = model.run(10, rate=5_000)
    assert during.done >= 0.95 * 10 * 200
    assert during.mean_s <= 0.02 * 5
    assert during.limits[-1] < before.limits[-1]
    assert after.done >= 0.95 * before.done


@pytest.mark.parametrize(("kind", "service"), [("aimd", varied), ("gradient", somewhat_varied)])
@pytest.mark.parametrize("service_s", [0.3, 3.0])
def test_long_operations_arent_taken_for_an_overload(
    kind: Kind, service: Callable[[float], Service], service_s: float
) -> None:
    model = Model(limiter(kind), service(service_s), servers=1_000)
    model.run(60, rate=1 / service_s)
    phase = model.run(120, rate=100 / service_s)  # a hundred at a time, and the servers don't mind
    assert phase.turned_away <= 0.01 * phase.done


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_time_changes_nothing(kind: Kind) -> None:
    model = Model(limiter(kind), steady(0.02), servers=10)
    model.run(5, rate=100)
    before = model.run(10, rate=5_000)
    model.run(3_600, rate=0)
    model.run(60, rate=0.5)  # and a few now and then
    assert model.limiter.limit <= max(before.limits)
    again = model.run(5, rate=5_000)
    assert again.done >= 0.9 * 5 * 500
    assert again.mean_s <= 0.02 * 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_latency_that_has_changed_for_good_costs_one_dip(kind: Kind) -> None:
    """Ten times as long, and no queue: the limit goes down, learns that this is usual now, and comes back."""
    model = Model(limiter(kind), lambda now_s, chance: 0.02 if now_s < 20 else 0.2, servers=1_000)
    model.run(20, rate=1_000)
    assert model.limiter.limit == MOST
    model.run(60, rate=200)
    phase = model.run(20, rate=200)
    assert phase.turned_away == 0


# --- twins


class NeverFalls(Aimd):
    """A limiter that sees no overload."""

    def slow(self, latency_s: float) -> bool:
        return False


class ForgetsWhatIsUsual(Aimd):
    """One that follows every latency, so that a slow overload becomes the usual thing."""

    def _learn(self, this: Round, unloaded: bool) -> None:
        self.usual_s = this.mean_s


class CallsLongSlow(Aimd):
    """One with a fixed idea of what is slow."""

    def slow(self, latency_s: float) -> bool:
        return latency_s > 0.1


class GrowsWhenIdle(Aimd):
    """One that goes up whether the limit is in use or not."""

    def _in_use(self, this: Round) -> bool:
        return True


def made(twin: type[Adaptive]) -> Limiter:
    return twin(float(LEAST), float(MOST), float(MOST))


@pytest.mark.parametrize("twin", [NeverFalls, ForgetsWhatIsUsual])
def test_twins_that_dont_find_the_capacity_are_caught(twin: type[Adaptive]) -> None:
    model = Model(made(twin), varied(0.02), servers=10)
    model.run(5, rate=100)
    model.run(5, rate=5_000)
    assert model.run(10, rate=5_000).mean_s > 0.02 * 5


def test_a_twin_with_a_fixed_idea_of_what_is_slow_is_caught() -> None:
    model = Model(made(CallsLongSlow), varied(0.3), servers=1_000)
    model.run(60, rate=3)
    phase = model.run(120, rate=100 / 0.3)
    assert phase.turned_away > 0.01 * phase.done


def test_a_twin_that_grows_when_it_isnt_in_use_is_caught() -> None:
    tested = made(GrowsWhenIdle)
    now_s = a_round(tested, 10.0, 0.02, 2)
    for _ in range(40):
        now_s = a_round(tested, now_s + 0.01, 0.02, tested.limit, dropped=True)
    for _ in range(100):
        now_s = a_round(tested, now_s + 0.03, 0.02, 1)
    assert tested.limit > LEAST


def test_the_two_are_what_their_names_say() -> None:
    assert isinstance(limiter("aimd"), Aimd)
    assert isinstance(limiter("gradient"), Gradient)
