"""Windows and drains: tables and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core import notes
from ringpost.core.maintenance import DRAIN_S_MAX, RETRY_AFTER_S_LEAST, RETRY_AFTER_S_MOST, Drain, Window

T = 1_000_000_000


@pytest.mark.parametrize(
    ("rate", "now_ms", "state"),
    [
        (0.0, T - 1, "closed"),
        (0.0, T, "over"),
        (5.0, T - 1, "closed"),
        (5.0, T, "draining"),
        (5.0, T + int(DRAIN_S_MAX * 1000) - 1, "draining"),
        (5.0, T + int(DRAIN_S_MAX * 1000), "over"),
    ],
)
def test_a_window_is_closed_then_drains_then_is_over(rate: float, now_ms: int, state: str) -> None:
    window = Window(T, rate)
    said = {"closed": window.closed(now_ms), "draining": window.draining(now_ms), "over": window.over(now_ms)}
    assert [name for name, true in said.items() if true] == [state]


@given(st.integers(0, 2 * T))
def test_when_to_come_again_is_bounded(now_ms: int) -> None:
    assert RETRY_AFTER_S_LEAST <= Window(T).retry_after_s(now_ms) <= RETRY_AFTER_S_MOST


def test_a_note_that_cant_be_read_closes_nothing() -> None:
    assert notes.decode_maintenance(b"nonsense").over(0)
    assert notes.decode_maintenance(notes.encode(Window(T, 5.0, "disk", "me", 7))) == Window(T, 5.0, "disk", "me", 7)


@given(st.floats(0.5, 1_000), st.lists(st.floats(0, 3), min_size=1, max_size=100))
def test_a_drain_lets_no_more_through_than_its_rate(rate: float, gaps_s: list[float]) -> None:
    drain, now_s, taken = Drain(rate), 50.0, 0
    began_s = now_s
    for gap_s in gaps_s:
        now_s += gap_s
        allowed = drain.allowance(now_s)
        assert allowed >= 0
        drain.took(allowed)
        taken += allowed
        assert taken <= rate * (now_s - began_s) + rate * 0.25 + 1.0 + 1e-3


@pytest.mark.parametrize("rate", [0.7, 5.0, 50 / 3, 100.0])
@pytest.mark.parametrize("step_s", [0.01, 0.1, 0.17])
def test_a_drain_reaches_its_rate(rate: float, step_s: float) -> None:
    drain, taken, steps = Drain(rate), 0, 5_000
    for step in range(steps):
        allowed = drain.allowance(step * step_s)
        drain.took(allowed)
        taken += allowed
    assert taken / (steps * step_s) == pytest.approx(rate, rel=0.03)
