"""One timer for all that wait: nobody is told before the time is over, nor later than 10 ms after it."""

import heapq
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.client.sweep import NEVER_S, SWEEP_S, Earliest, Sweep

# What waits: when it begins, and for how long; in whole ms, so that sums are what they look like.
WAITS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 300)), min_size=1, max_size=20)


class Clock:
    """A loop of timers only, whose time leaps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rung_s: list[float] = []
        self._timers: list[tuple[float, int, _Timer]] = []
        self._made = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, at_s: float, callback: Callable[[], object]) -> "_Timer":
        timer = _Timer(callback)
        self._made += 1
        heapq.heappush(self._timers, (at_s, self._made, timer))
        return timer

    def pending(self) -> int:
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def run(self) -> None:
        while self._timers:
            at_s, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.now_s = max(self.now_s, at_s)
                timer.callback()


class _Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Waiting:
    """Waits, and notes when it was told."""

    def __init__(self, clock: Clock) -> None:
        self.deadline_s = NEVER_S
        self.until_s = 0.0
        self.told_s: list[float] = []
        self._clock = clock

    def expire(self) -> None:
        self.told_s.append(self._clock.now_s)


class Lazy(Earliest):
    """A twin: the instant that was asked for first stays."""

    def by(self, instant_s: float) -> None:
        if self._timer is None:
            super().by(instant_s)


class Eager(Earliest):
    """A twin: it rings whenever something is due, however often that is."""

    def by(self, instant_s: float) -> None:
        if instant_s < self.covered_s and instant_s != NEVER_S:
            self.covered_s = instant_s
            self._timer = self._loop.call_at(instant_s, self.rings)


def run(waits: list[tuple[int, int]], earliest: type[Earliest] = Earliest) -> tuple[Clock, list[Waiting]]:
    clock = Clock()
    sweep = Sweep(cast(Any, clock))

    def tell() -> None:
        clock.rung_s.append(clock.now_s)
        sweep._tell()

    sweep.due = earliest(cast(Any, clock), tell)
    all_waiting = [Waiting(clock) for _ in waits]

    def begin(one: Waiting, wait_s: float) -> None:
        sweep.watch(one)
        one.deadline_s = one.until_s = clock.now_s + wait_s
        if one.deadline_s < sweep.due.covered_s:
            sweep.due.by(one.deadline_s)

    for one, (begin_ms, wait_ms) in zip(all_waiting, waits, strict=True):
        clock.call_at(begin_ms / 1000, lambda one=one, wait_s=wait_ms / 1000: begin(one, wait_s))  # type: ignore[misc]
    clock.run()
    return clock, all_waiting


def check(clock: Clock, all_waiting: list[Waiting]) -> None:
    for one in all_waiting:
        assert len(one.told_s) == 1
        assert one.until_s <= one.told_s[0] <= one.until_s + SWEEP_S + 1e-9
    assert all(later - before >= SWEEP_S - 1e-9 for before, later in pairwise(clock.rung_s))


@given(WAITS)
def test_all_are_told_once_and_in_time_and_the_timer_rings_at_most_every_10_ms(waits: list[tuple[int, int]]) -> None:
    check(*run(waits))


@pytest.mark.parametrize(
    ("twin", "waits"),
    [
        pytest.param(Lazy, [(0, 300), (10, 20)], id="the first instant stays"),
        pytest.param(Eager, [(0, 20), (0, 22)], id="rings for each"),
    ],
)
def test_a_broken_timer_is_seen(twin: type[Earliest], waits: list[tuple[int, int]]) -> None:
    check(*run(waits))
    with pytest.raises(AssertionError):
        check(*run(waits, twin))


def test_a_long_wait_costs_one_ring_and_afterwards_no_timer_runs() -> None:
    clock, _ = run([(0, 60_000)])
    assert clock.rung_s == [60.0]
    assert clock.pending() == 0


def test_what_is_covered_makes_no_timer() -> None:
    clock = Clock()
    due = Earliest(cast(Any, clock), lambda: None)
    due.by(5.0)
    due.by(5.0)
    due.by(7.0)
    due.by(NEVER_S)
    due.by(4.995)  # it is told at 5.0
    assert len(clock._timers) == 1
    due.by(4.0)
    assert clock.pending() == 1
    due.cancel()
    assert clock.pending() == 0
    assert due.covered_s == NEVER_S
