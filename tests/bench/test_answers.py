"""The arithmetic of the experiments: an open loop's schedule, goodput, percentiles, amplification, recovery.

The twin is a generator that waits for each answer before it asks again: it must be seen to hide a hang.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
from bench.answers import NONE, Answer, Span
from bench.cases.offering import STEP, highest

from bench import answers, arrivals


def test_a_schedule_is_the_same_for_one_seed_and_keeps_its_rate() -> None:
    instants = arrivals.poisson(500, 20, seed=7)
    assert instants == arrivals.poisson(500, 20, seed=7)
    assert instants != arrivals.poisson(500, 20, seed=8)
    assert len(instants) == pytest.approx(10_000, rel=0.05)
    assert all(0 < before < after < 20 for before, after in pairwise(instants))


def test_arrivals_are_independent_of_each_other() -> None:
    gaps = [after - before for before, after in pairwise(arrivals.poisson(1000, 20, seed=3))]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(1, rel=0.05)  # an even beat has 0


def test_kinds_come_as_often_as_they_should() -> None:
    which = arrivals.kinds(10_000, [1, 3, 0], seed=5)
    assert which.count(0) == pytest.approx(2_500, rel=0.1)
    assert which.count(1) == pytest.approx(7_500, rel=0.1)
    assert which.count(2) == 0


def test_what_was_nothing_before_is_no_target_reached() -> None:
    assert answers.against(3, 2, 0.0) == 1.5
    assert answers.against(0, 0, 0.0) == 0.0
    assert answers.against(5, 0, float("inf")) == float("inf")


def _answer(at_s: float, taken_s: float = 0.01, status: int = 200, *, kind: int = 0, late_s: float = 0.0) -> Answer:
    return Answer(kind, at_s, late_s, taken_s, status)


def test_goodput_counts_what_was_meant_for_a_time_and_answered_well() -> None:
    some = [_answer(0.5), _answer(1.0), _answer(1.5, status=503), _answer(1.9, status=NONE), _answer(2.0)]
    second = answers.within(some, Span(1.0, 2.0))
    assert [one.at_s for one in second] == [1.0, 1.5, 1.9]
    assert answers.good_share(second) == pytest.approx(1 / 3)
    assert answers.good_share([]) == 0
    assert answers.curve(some, Span(0.0, 3.0), 1.0) == [(0.5, 1.0), (1.5, 1.0), (2.5, 1.0)]
    assert answers.shares(some, Span(0.0, 2.0), 1.0) == [(0.5, 100.0), (1.5, pytest.approx(100 / 3))]


def test_only_the_kinds_asked_for_count() -> None:
    some = [_answer(0.1, kind=0), _answer(0.2, kind=1), _answer(0.3, kind=2)]
    assert [one.kind for one in answers.within(some, Span(0.0, 1.0), (0, 2))] == [0, 2]


def test_who_waited_in_vain_counts_among_the_latencies_and_who_was_refused_does_not() -> None:
    some = [_answer(0, 0.010)] * 98 + [_answer(0, 1.0, NONE)] * 2 + [_answer(0, 0.001, 503)] * 900
    assert answers.latency_ms(some, 0.99) == pytest.approx(1000)
    assert answers.latency_ms(some, 0.50) == pytest.approx(10)


def test_a_refusal_counts_from_when_it_was_asked_for() -> None:
    some = [_answer(0, 0.007, 503, late_s=0.004), _answer(0, 0.5)]
    assert answers.refusal_ms(some, 0.99) == pytest.approx(3)


def test_amplification_is_what_came_for_each_that_was_needed() -> None:
    assert answers.amplification(120, 100) == pytest.approx(1.2)
    assert answers.amplification(0, 0) == 0


def test_a_recovery_that_falls_back_is_none() -> None:
    def second(at: int, good: int) -> list[Answer]:
        return [_answer(at + step / 10, status=200 if step < good else 503) for step in range(10)]

    some = second(0, 0) + second(1, 10) + second(2, 5) + second(3, 10) + second(4, 10)
    assert answers.recovered_s([*some, _answer(5.0, status=503)], 0.0, 0.95) == 3  # the last one isn't whole
    assert answers.recovered_s([*some, *second(5, 0), _answer(6.0)], 0.0, 0.95) == float("inf")


@pytest.mark.parametrize("limit", [100.0, 60.0, 350.0])
def test_the_highest_rate_is_found_from_below_and_from_above(limit: float) -> None:
    found = highest(lambda rate: rate <= limit, 100, steps=16)
    assert limit / STEP < found <= limit


def test_the_first_long_pause_is_found_and_how_many_overlapped() -> None:
    instants = [0.0, 0.1, 0.2, 0.3, 1.3, 1.4]
    assert answers.silent_from_s(instants, 0.0, 0.5) == 0.3
    assert answers.silent_from_s(instants, 0.0, 2.0) == float("inf")
    intervals = [(0.0, 1.0), (0.5, 0.7), (0.6, 0.8), (1.0, 2.0), (5.0, 6.0), (5.1, 5.2)]
    assert answers.at_once(intervals, Span(0.0, 3.0)) == 3
    assert answers.at_once(intervals, Span(0.9, 3.0)) == 1


Server = Callable[[float], float]  # the instant of asking → the instant of the answer


def _hangs_for_a_second(at_s: float) -> float:
    return 6.0 if 5.0 <= at_s < 6.0 else at_s + 0.001


def _open_loop(server: Server, schedule: list[float]) -> list[Answer]:
    return [_answer(at_s, server(at_s) - at_s) for at_s in schedule]


def _waits_for_each_answer(server: Server, schedule: list[float]) -> list[Answer]:
    """The twin: it asks when the last answer is there, and counts from then."""
    found, free_s = list[Answer](), 0.0
    for at_s in schedule:
        asked_s = max(at_s, free_s)
        free_s = server(asked_s)
        found.append(_answer(asked_s, free_s - asked_s))
    return found


def test_a_hang_shows_in_an_open_loop_and_is_hidden_by_one_that_waits() -> None:
    schedule = arrivals.poisson(100, 10, seed=1)
    offered = _open_loop(_hangs_for_a_second, schedule)
    waiting = _waits_for_each_answer(_hangs_for_a_second, schedule)
    assert answers.latency_ms(offered, 0.99) > 800  # a tenth of the callers waited, up to a second
    assert answers.latency_ms(waiting, 0.99) < 10  # one request waited; the others were never asked
