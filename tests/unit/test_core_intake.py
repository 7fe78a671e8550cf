"""The intake breaker: an outage can't use up a backlog, and a few messages that never go well don't look like one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core.intake import GOOD_CLOSE, PAUSE_S_FIRST, PAUSE_S_MAX, WINDOW, Intake, counts


def opened(at_s: float = 0.0) -> Intake:
    intake = Intake()
    assert intake.note(0, WINDOW, at_s)
    return intake


@pytest.mark.parametrize(
    ("batches", "opens"),
    [
        ([(0, 19)], False),
        ([(0, 20)], True),
        ([(10, 10)], True),
        ([(11, 9)], False),
        ([(5, 5), (5, 5)], True),
        ([(1000, 0), (0, 9)], False),
        ([(1000, 0), (0, 10)], True),
        ([(0, 19), (1000, 0)], False),
        ([(1000, 1000)], True),
        ([(0, 9), (20, 0), (0, 9)], False),
        ([(20, 0)], False),
    ],
)
def test_half_of_twenty_opens(batches: list[tuple[int, int]], opens: bool) -> None:
    intake = Intake()
    changed = [intake.note(good, bad, 0.0) for good, bad in batches]
    assert intake.open is opens
    assert any(changed) is opens
    assert intake.charging is not opens


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_it_opens_exactly_when_half_of_the_last_twenty_failed(batches: list[tuple[int, int]]) -> None:
    intake, outcomes = Intake(), list[bool]()
    for good, bad in batches:
        outcomes += [False] * good + [True] * bad
        intake.note(good, bad, 0.0)
        expected = bad > 0 and len(outcomes) >= WINDOW and sum(outcomes[-WINDOW:]) >= WINDOW // 2
        assert intake.open is expected
        if intake.open:
            return


def test_closed_it_lets_everything_in() -> None:
    assert Intake().allowance(100, 50, 0.0) == 100


def test_open_it_lets_one_in_after_a_pause() -> None:
    intake = opened(at_s=100.0)
    assert intake.allowance(100, 0, 100.0) == 0
    assert intake.allowance(100, 0, 100.0 + PAUSE_S_FIRST) == 1
    assert intake.allowance(100, 1, 200.0) == 0, "one at a time"
    assert intake.allowance(0, 0, 200.0) == 0


def test_the_pause_grows_to_its_limit() -> None:
    intake, now_s, pauses = opened(), 0.0, list[float]()
    for _ in range(10):
        intake.note(0, 1, now_s)
        pauses.append(intake.probe_at_s - now_s)
        now_s = intake.probe_at_s
    assert pauses == sorted(pauses)
    assert pauses[0] == 2 * PAUSE_S_FIRST
    assert pauses[-1] == PAUSE_S_MAX


def test_good_probes_close_it() -> None:
    intake = opened()
    closed = [intake.note(1, 0, 1.0) for _ in range(GOOD_CLOSE)]
    assert closed == [False] * (GOOD_CLOSE - 1) + [True]
    assert intake.charging
    assert intake.allowance(7, 0, 1.0) == 7
    assert not intake.note(0, WINDOW - 1, 1.0), "it starts to count anew"


def test_after_a_good_probe_the_next_follows_at_once() -> None:
    intake = opened()
    intake.note(1, 0, 5.0)
    assert intake.allowance(1, 0, 5.0) == 1


def test_a_failure_starts_the_good_ones_again() -> None:
    intake = opened()
    intake.note(GOOD_CLOSE - 1, 0, 1.0)
    intake.note(0, 1, 2.0)
    intake.note(GOOD_CLOSE - 1, 0, 3.0)
    assert intake.open
    assert intake.note(1, 0, 4.0)


def test_what_was_under_way_when_it_opened_doesnt_close_it() -> None:
    intake = opened()
    intake.note(50, 50, 1.0)
    assert intake.open


def test_nothing_new_changes_nothing() -> None:
    for intake in (Intake(), opened()):
        before = repr(intake)
        assert not intake.note(0, 0, 9.0)
        assert repr(intake) == before


def test_counts_arent_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        Intake().note(-1, 0, 0.0)


@pytest.mark.parametrize(
    ("feeds", "attempt", "counted"),
    [
        ("good", 1, "good"),
        ("good", 9, "good"),
        ("bad", 1, "bad"),
        ("bad", 2, ""),
        ("downstream", 1, "bad"),
        ("downstream", 9, "bad"),
        ("", 1, ""),
    ],
)
def test_how_outcomes_count(feeds: str, attempt: int, counted: str) -> None:
    assert counts(feeds, attempt) == counted  # type: ignore[arg-type]


def test_a_few_that_never_go_well_die_all_the_same() -> None:
    intake = Intake()
    for attempt in range(1, 21):
        for _ in range(3):
            counted = counts("bad", attempt)
            intake.note(int(counted == "good"), int(counted == "bad"), float(attempt))
    assert intake.charging, "their attempts are charged to the last"
