"""Retries, budget, hedges and latency of calls: tables, properties, and twins that break a rule."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.contract.errors import DeadlineExceeded, Overloaded, TransportError, Unavailable
from ringpost.core import attempt
from ringpost.core.attempt import End, end_of_answer, end_of_error
from ringpost.core.budget import Budget
from ringpost.core.call_retry import Failed, Tries, backoff_s, may_repeat, next_at_s
from ringpost.core.hedge import SOONEST_S, hedge_at_s
from ringpost.core.latency import KEPT, STEP, Latency
from ringpost.core.outcome import PROBLEMS

# --- how an attempt ended


@pytest.mark.parametrize(
    ("status", "code", "end"),
    [
        (200, "", attempt.GOOD),
        (204, "", attempt.GOOD),
        (202, "", attempt.GOOD),
        (400, "invalid", attempt.GOOD),
        (404, "", attempt.GOOD),
        (404, "not_found", attempt.NEUTRAL),
        (409, "email_taken", attempt.GOOD),
        (409, "in_flight", attempt.WAITING),
        (418, "", attempt.GOOD),
        (421, "wrong_instance", attempt.NEUTRAL),
        (421, "", attempt.NEUTRAL),
        (422, "key_reused", attempt.GOOD),
        (429, "", attempt.SHED),
        (429, "queue_full", attempt.SHED),
        (500, "handler_error", attempt.BAD),
        (500, "", attempt.BAD),
        (502, "", attempt.DOWN),
        (503, "", attempt.DOWN),
        (503, "unavailable", attempt.DOWN),
        (503, "overloaded", attempt.SHED),
        (503, "maintenance", attempt.CLOSED),
        (504, "deadline_exceeded", attempt.LATE),
        (504, "", attempt.LATE),
        (507, "store_full", attempt.BAD),
        (508, "loop_detected", attempt.NEUTRAL),
        (301, "", attempt.GOOD),
        (101, "", attempt.BAD),
    ],
)
def test_an_answer_says_this_of_its_target(status: int, code: str, end: End) -> None:
    assert end_of_answer(status, code) == end


@pytest.mark.parametrize("code", PROBLEMS)
def test_what_failed_further_down_breaks_nothing_here_and_isn_t_tried_again(code: str) -> None:
    end = end_of_answer(PROBLEMS[code].status, code, retryable=False)
    if PROBLEMS[code].status >= 500:
        assert end == attempt.NEUTRAL


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Unavailable("no"), attempt.DOWN),
        (Unavailable("no", processed="maybe"), attempt.DOWN),
        (DeadlineExceeded("late"), attempt.LATE),
        (TransportError("broken"), attempt.BAD),
        (Overloaded("full"), attempt.BAD),
    ],
)
def test_no_answer_says_this_of_its_target(error: TransportError, end: End) -> None:
    assert end_of_error(error) == end


# --- retries


@pytest.mark.parametrize(
    ("number", "unprocessed", "safe", "tries", "may"),
    [
        (1, True, False, Tries(), True),
        (1, False, False, Tries(), False),
        (1, False, True, Tries(), True),
        (2, False, True, Tries(), True),
        (3, True, True, Tries(), False),
        (1, True, True, Tries(1), False),
        (4, True, True, Tries(5), True),
        (1, True, True, Tries(3, above=2), False),
    ],
)
def test_what_may_be_repeated(number: int, unprocessed: bool, safe: bool, tries: Tries, may: bool) -> None:
    assert may_repeat(Failed(number, 0.0, unprocessed), tries, safe=safe) is may


@pytest.mark.parametrize(
    ("number", "most_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (6, 1.0), (1000, 1.0)]
)
def test_the_backoff_doubles_up_to_a_second_and_all_of_it_is_chance(number: int, most_s: float) -> None:
    assert backoff_s(number, 1.0) == pytest.approx(most_s)
    assert backoff_s(number, 0.5) == pytest.approx(most_s / 2)
    assert backoff_s(number, 0.0) == 0.0


@pytest.mark.parametrize(
    ("retry_after_s", "deadline_s", "at_s"),
    [(None, 110.0, 100.05), (2.0, 110.0, 102.05), (2.0, 102.05, None), (9.99, 110.0, None), (60.0, 110.0, None)],
)
def test_a_retry_after_is_waited_for_or_not_at_all(
    retry_after_s: float | None, deadline_s: float, at_s: float | None
) -> None:
    assert next_at_s(Failed(1, 100.0, retry_after_s=retry_after_s), deadline_s, 0.5) == at_s


Next = Callable[[Failed, float, float], float | None]


def assert_in_time(next_: Next, failed: Failed, deadline_s: float, random01: float) -> None:
    at_s = next_(failed, deadline_s, random01)
    if at_s is not None:
        assert failed.at_s + (failed.retry_after_s or 0.0) <= at_s < deadline_s


@given(
    st.integers(1, 20),
    st.floats(0, 1e6),
    st.one_of(st.none(), st.floats(0, 100)),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_no_retry_lies_beyond_the_deadline_or_before_retry_after(
    number: int, at_s: float, retry_after_s: float | None, left_s: float, random01: float
) -> None:
    assert_in_time(next_at_s, Failed(number, at_s, retry_after_s=retry_after_s), at_s + left_s, random01)


def _heedless(failed: Failed, deadline_s: float, random01: float) -> float | None:
    """A twin that tries again beyond the deadline."""
    return failed.at_s + (failed.retry_after_s or 0.0) + backoff_s(failed.number, random01)


def _deaf(failed: Failed, deadline_s: float, random01: float) -> float | None:
    """A twin that doesn't wait for Retry-After."""
    at_s = failed.at_s + backoff_s(failed.number, random01)
    return at_s if at_s < deadline_s else None


@pytest.mark.parametrize("twin", [_heedless, _deaf])
def test_twins_of_the_retry_rule_are_caught(twin: Next) -> None:
    with pytest.raises(AssertionError):
        assert_in_time(twin, Failed(1, 0.0, retry_after_s=2.0), 1.0 if twin is _heedless else 10.0, 0.5)


# --- budget


def test_a_full_budget_gives_five_retries_and_then_none() -> None:
    budget = Budget()
    assert [budget.take() for _ in range(7)] == [True] * 5 + [False] * 2


def test_ten_successes_earn_one() -> None:
    budget = Budget()
    while budget.take():
        pass
    for _ in range(9):
        budget.earn()
        assert not budget.take()
    budget.earn()
    assert budget.take()
    assert not budget.take()


def assert_within(budget: Budget, successes: list[bool]) -> None:
    taken = 0
    for success in successes:
        if success:
            budget.earn()
        else:
            taken += budget.take()
    assert taken <= 5 + sum(successes) / 10
    assert budget.tokens <= 10


@given(st.lists(st.booleans(), max_size=1000))
def test_there_are_never_more_retries_than_five_and_a_tenth_of_what_went_well(successes: list[bool]) -> None:
    assert_within(Budget(), successes)


class Lavish(Budget):
    """A twin that gives whatever is left."""

    def take(self) -> bool:
        self.tenths -= 10
        return self.tenths >= 0


def test_a_lavish_twin_is_caught() -> None:
    with pytest.raises(AssertionError):
        assert_within(Lavish(), [False] * 10)


# --- latency and hedges


def test_the_percentile_is_unknown_at_first_and_follows() -> None:
    latency = Latency()
    for _ in range(STEP - 1):
        latency.note(0.01)
    assert latency.p95_s is None
    latency.note(0.01)
    assert latency.p95_s == 0.01
    for _ in range(KEPT):
        latency.note(0.5)
    assert latency.p95_s == 0.5


@given(st.lists(st.floats(0, 100), min_size=STEP, max_size=4 * KEPT))
def test_about_one_of_twenty_is_above_it(lengths: list[float]) -> None:
    latency = Latency()
    for one in lengths:
        latency.note(one)
    whole = len(lengths) - len(lengths) % STEP
    kept = lengths[max(0, whole - KEPT) : whole]
    assert latency.p95_s is not None
    assert sum(one > latency.p95_s for one in kept) <= len(kept) * 0.05
    assert sum(one >= latency.p95_s for one in kept) >= len(kept) * 0.05
    assert len(latency._kept) <= KEPT and len(latency._fresh) < STEP


@pytest.mark.parametrize(
    ("deadline_s", "p95_s", "at_s"),
    [
        (105.0, 0.2, 100.2),
        (105.0, 0.001, 100.0 + SOONEST_S),
        (100.3, 0.2, None),
        (100.5, 0.2, 100.2),
    ],
)
def test_a_hedge_goes_after_the_percentile_where_there_is_time_for_it(
    deadline_s: float, p95_s: float, at_s: float | None
) -> None:
    assert hedge_at_s(100.0, deadline_s, p95_s) == at_s
