"""The breaker of calls: opens on shares of enough calls, lets one probe out at a time, and forgets what is old."""

import random
from collections.abc import Callable, Iterable
from itertools import count as numbers
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core.breaker import (
    CALLS_MIN,
    ERRORS_S_MIN,
    GOOD_CLOSE,
    PAUSE_S_FIRST,
    PAUSE_S_MAX,
    WINDOW_S,
    Breaker,
    Rule,
    beyond_chance,
)

QUICK_S, SLOW_S = 0.01, 3.0


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(CALLS_MIN):
        breaker.bad(at_s, "it is down")
    assert breaker.state == "open"
    return breaker


def feed(breaker: Breaker, ends: str, now_s: float = 0.0) -> list[bool]:
    """Let calls end: `g`ood, `b`ad, `s`low but good."""
    changes = []
    for end in ends:
        if end == "b":
            changes.append(breaker.bad(now_s, "no"))
        else:
            changes.append(breaker.good(now_s, SLOW_S if end == "s" else QUICK_S))
    return changes


@pytest.mark.parametrize(
    ("ends", "opens"),
    [
        ("b" * 19, False),
        ("b" * 20, True),
        ("g" * 10 + "b" * 10, True),
        ("g" * 11 + "b" * 9, False),
        ("g" * 100 + "b" * 99, False),
        ("g" * 100 + "b" * 100, True),
        ("b" * 10 + "g" * 10, False),  # a good end opens nothing
        ("b" * 10 + "g" * 9 + "b", True),
        ("s" * 19, False),
        ("s" * 20, True),
        ("g" * 4 + "s" * 16, True),
        ("g" * 5 + "s" * 16, False),
        ("b" * 9 + "s" * 11, False),  # neither share is reached
    ],
)
def test_it_opens_at_half_failed_or_four_fifths_slow_of_twenty(ends: str, opens: bool) -> None:
    breaker = Breaker()
    changes = feed(breaker, ends)
    assert (breaker.state == "open") is opens
    assert any(changes) is opens
    assert breaker.passing is not opens


def test_thresholds_are_the_rule_s() -> None:
    breaker = Breaker(Rule(error_rate=0.1, slow_rate=1.0, slow_s=10.0))
    feed(breaker, "s" * 50)
    assert breaker.state == "closed"
    feed(breaker, "b" * 6)
    assert breaker.state == "open"


@given(st.lists(st.tuples(st.sampled_from("gb"), st.floats(0, 2)), max_size=150))
def test_only_the_last_ten_seconds_count(ends: list[tuple[str, float]]) -> None:
    """It never opens by calls older than the window, and always by those of its younger eight seconds."""
    breaker, seen, now_s = Breaker(), list[tuple[float, str]](), 100.0
    for end, pause_s in ends:
        now_s += pause_s
        seen.append((now_s, end))
        feed(breaker, end, now_s)

        def over(since_s: float, now_s: float = now_s) -> tuple[int, int]:
            found = [kind for at_s, kind in seen if at_s > now_s - since_s]
            return len(found), found.count("b")

        reading = breaker.reading(now_s)
        if breaker.state == "open":
            calls, bad = over(WINDOW_S + 0.001)
            assert bad > 0 and calls >= CALLS_MIN
            return
        for count, at in ((reading.calls, 0), (reading.errors, 1)):
            assert over(WINDOW_S - 2)[at] <= count <= over(WINDOW_S + 0.001)[at]


# --- by the newest calls

HEALTHY_S = 15.0
RATES = [20, 33, 100, 1000]
OFFSETS_S = [0.0, 0.13, 0.31, 0.49]  # where the buckets lie is chance


def instants(rate: float, begin_s: float, end_s: float) -> Iterable[float]:
    return takewhile(lambda at_s: at_s < end_s, (begin_s + number / rate for number in numbers()))


def opens_after_s(
    rate: float, offset_s: float, end: Callable[[Breaker, float], bool], breaker: Breaker | None = None
) -> float:
    """Give how long after the begin of bad times it opens, at the end of 15 good seconds."""
    breaker, bad_s = breaker or Breaker(), 100.0 + HEALTHY_S + offset_s
    for at_s in instants(rate, 100.0, bad_s):
        breaker.good(at_s, QUICK_S)
    return next((at_s - bad_s for at_s in instants(rate, bad_s, bad_s + WINDOW_S) if end(breaker, at_s)), WINDOW_S)


def failing(breaker: Breaker, now_s: float) -> bool:
    return breaker.bad(now_s, "it is down")


def crawling(breaker: Breaker, now_s: float) -> bool:
    return breaker.good(now_s, SLOW_S)


@pytest.mark.parametrize("offset_s", OFFSETS_S)
@pytest.mark.parametrize("rate", RATES)
def test_after_long_health_it_opens_within_two_seconds_at_any_rate(rate: float, offset_s: float) -> None:
    assert ERRORS_S_MIN / 2 <= opens_after_s(rate, offset_s, failing) <= 2.0
    assert opens_after_s(rate, offset_s, crawling) <= 2.0


@pytest.mark.parametrize("rate", RATES)
def test_a_target_that_is_started_anew_opens_nothing(rate: float) -> None:
    """All fails for half a second, then nothing."""
    breaker = Breaker()
    for at_s in instants(rate, 0.0, HEALTHY_S):
        breaker.good(at_s, QUICK_S)
    for at_s in instants(rate, HEALTHY_S, HEALTHY_S + ERRORS_S_MIN / 2):
        assert not breaker.bad(at_s, "nobody listens there")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [20, 33, 100])
def test_three_of_ten_that_fail_by_chance_open_nothing(rate: float, seed: int) -> None:
    """After a healthy time; of the first 20 calls of a process half may fail by chance, and then it opens."""
    chance, breaker = random.Random(seed), Breaker()
    for at_s in instants(rate, 0.0, 40.0):
        if at_s > WINDOW_S and chance.random() < 0.3:
            breaker.bad(at_s, "no")
        else:
            breaker.good(at_s, QUICK_S)
    assert breaker.state == "closed"


@pytest.mark.parametrize(("calls", "bad"), [(20, 17), (100, 65), (1000, 548)])
def test_the_fewer_calls_the_more_of_them_must_be_bad(calls: int, bad: int) -> None:
    assert bad - 1 < beyond_chance(calls, 0.5) <= bad


@pytest.mark.parametrize("calls", [20, 1000])
def test_all_of_them_are_always_enough_unless_nothing_ever_is(calls: int) -> None:
    assert beyond_chance(calls, 0.99) <= calls
    assert beyond_chance(calls, 1.0) <= calls
    assert beyond_chance(calls, 2.0) > calls


def test_a_failure_that_was_counted_as_slow_is_one_call() -> None:
    breaker = Breaker()
    for _ in range(CALLS_MIN - 1):
        breaker.good(0.0, SLOW_S)
        breaker.bad(0.0, "no answer in time", slow=True, counted=True)
    reading = breaker.reading(0.0)
    assert (reading.calls, reading.errors, reading.slow) == (CALLS_MIN - 1,) * 3
    assert breaker.passing


# --- probes


def test_open_it_lets_one_probe_out_after_a_pause() -> None:
    breaker = opened(at_s=100.0)
    assert not breaker.probe(100.0 + PAUSE_S_FIRST - 0.01, 200.0)
    assert breaker.probe(100.0 + PAUSE_S_FIRST, 103.0)
    assert breaker.state == "half_open"
    assert not breaker.probe(101.0, 104.0), "one at a time"


def test_five_good_probes_in_a_row_close_it() -> None:
    breaker = opened()
    now_s = PAUSE_S_FIRST
    for number in range(GOOD_CLOSE):
        assert not breaker.passing
        assert breaker.probe(now_s, now_s + 1)
        assert breaker.probed(now_s, good=True) is (number == GOOD_CLOSE - 1)
    assert breaker.state == "closed" and breaker.passing
    feed(breaker, "b" * 19, now_s)
    assert breaker.passing, "it begins with an empty window"


def test_a_probe_that_fails_doubles_the_pause_up_to_a_limit_and_begins_the_count_again() -> None:
    breaker, now_s = opened(), PAUSE_S_FIRST
    pauses = []
    for _ in range(5):
        assert breaker.probe(now_s, now_s)
        assert not breaker.probed(now_s, good=False, error="still down")
        pauses.append(breaker.probe_at_s - now_s)
        now_s = breaker.probe_at_s
    assert pauses == [1.0, 2.0, 2.0, 2.0, 2.0] and pauses[-1] == PAUSE_S_MAX
    assert breaker.error == "still down"
    for _ in range(GOOD_CLOSE - 1):
        assert breaker.probe(now_s, now_s)
        breaker.probed(now_s, good=True)
    assert breaker.probe(now_s, now_s)
    breaker.probed(now_s, good=False)
    now_s = breaker.probe_at_s
    assert breaker.probe(now_s, now_s)
    assert not breaker.probed(now_s, good=True), "four before a failure are forgotten"


def closes_after_s(rate: float, offset_s: float, took_s: float = 0.1) -> float:
    """Give how long after its healing a target is called again, at the end of eight seconds in which probes failed."""
    breaker, healed_s = opened(), 8.0 + offset_s
    probe_ends_s = None
    for now_s in instants(rate, 0.0, healed_s + 10 * WINDOW_S):
        if probe_ends_s is not None and now_s >= probe_ends_s:
            breaker.probed(now_s, good=probe_ends_s - took_s >= healed_s)
            probe_ends_s = None
        if breaker.passing:
            return now_s - healed_s
        if breaker.probe(now_s, now_s + 1.0):
            assert probe_ends_s is None, "two probes at once"
            probe_ends_s = now_s + took_s
    return WINDOW_S * 10.0


@pytest.mark.parametrize("offset_s", [0.0, 0.3, 0.9, 1.7])
@pytest.mark.parametrize("rate", RATES)
def test_it_closes_within_five_seconds_of_healing(rate: float, offset_s: float) -> None:
    assert closes_after_s(rate, offset_s) <= 5.0


def test_a_twin_whose_pause_grows_for_ever_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpost.core.breaker.PAUSE_S_MAX", 60.0)
    assert closes_after_s(100, 9.0) > 5.0


def test_a_probe_that_says_nothing_is_followed_by_another() -> None:
    breaker = opened()
    assert breaker.probe(1.0, 2.0)
    breaker.unprobed(1.1, pause=False)
    assert breaker.probe(1.1, 2.0)
    breaker.unprobed(1.2, pause=True)
    assert not breaker.probe(1.2, 2.0)
    assert breaker.probe(1.2 + PAUSE_S_FIRST, 2.0)


def test_a_probe_that_is_never_heard_of_again_holds_it_only_until_its_time_is_over() -> None:
    breaker = opened()
    assert breaker.probe(1.0, 3.0)
    assert not breaker.probe(3.5, 5.0)
    assert breaker.probe(4.0, 6.0)


def test_each_change_begins_another_epoch() -> None:
    breaker = Breaker()
    assert breaker.epoch == 0
    feed(breaker, "b" * 20)
    assert breaker.epoch == 1
    for number in range(GOOD_CLOSE):
        breaker.probe(1.0 + number, 9.0)
        breaker.probed(1.0 + number, good=True)
    assert breaker.epoch == 2


def test_an_operator_holds_it_and_lets_it_go() -> None:
    breaker = Breaker()
    assert breaker.force("open", 0.0)
    assert not breaker.force("open", 0.0)
    assert not breaker.passing and not breaker.probe(100.0, 101.0), "forced open it probes nothing"
    breaker.force("", 1.0)
    assert breaker.passing

    breaker = opened(at_s=0.0)
    breaker.force("closed", 0.1)
    assert breaker.passing
    breaker.force("", 0.2)
    assert not breaker.passing
    assert breaker.probe(0.2, 1.0), "what is true is looked at at once"


def test_a_forced_breaker_doesn_t_open_by_what_fails() -> None:
    breaker = Breaker()
    breaker.force("closed", 0.0)
    feed(breaker, "b" * 100)
    assert breaker.passing


@given(st.lists(st.sampled_from("tpgbxn"), max_size=60))
def test_never_are_two_probes_out(moves: list[str]) -> None:
    assert_one_probe(opened(), moves)


def assert_one_probe(breaker: Breaker, moves: list[str]) -> None:
    now_s, out = 0.0, 0
    for move in moves:
        match move:
            case "t":
                now_s += 0.4
            case "p" if not breaker.passing and breaker.probe(now_s, now_s + 1000):
                out += 1
            case "g" | "b" if out:
                out -= 1
                breaker.probed(now_s, good=move == "g")
            case "x" | "n" if out:
                out -= 1
                breaker.unprobed(now_s, pause=move == "n")
            case _:
                pass
        assert out <= 1
        if breaker.state == "closed":
            return


class Generous(Breaker):
    """A twin that lets a probe out whenever the pause is over, whatever is out already."""

    def probe(self, now_s: float, until_s: float) -> bool:
        if now_s < self.probe_at_s:
            return False
        self.state = "half_open"
        return True


class Patient(Breaker):
    """A twin that closes by a single good probe."""

    def probed(self, now_s: float, *, good: bool, error: str = "") -> bool:
        if good:
            self._change("closed", now_s)
        return good


class Forgetful(Breaker):
    """A twin whose window never ends."""

    def turn(self, now_s: float) -> None:
        self.turn_s = now_s + 1


class Remembering(Breaker):
    """A twin that judges by the whole window alone: five good seconds outweigh four bad ones."""

    def _bad_of_late(self, now_s: float) -> bool:
        return False


def _health_outweighs() -> None:
    assert opens_after_s(100, 0.0, failing, Remembering()) <= 2.0


class Hasty(Breaker):
    """A twin that judges the newest calls by the rule's share itself, however few they are."""

    def _bad_of_late(self, now_s: float) -> bool:
        return self.calls >= CALLS_MIN and self._errors >= self.calls * self.rule.error_rate


def _a_restart_opens() -> None:
    assert opens_after_s(1000, 0.0, failing, Hasty()) >= ERRORS_S_MIN / 2


def _as(twin: type[Breaker]) -> Breaker:
    breaker = twin()
    for _ in range(CALLS_MIN):
        breaker.bad(0.0, "it is down")
    return breaker


def _two_probes() -> None:
    assert_one_probe(_as(Generous), list("ttppp"))


def _one_is_enough() -> None:
    breaker = _as(Patient)
    assert breaker.probe(1.0, 2.0)
    breaker.probed(1.0, good=True)
    assert not breaker.passing


def _old_calls_count() -> None:
    breaker = Forgetful()
    feed(breaker, "b" * 19, 0.0)
    feed(breaker, "b", 1000.0)
    assert breaker.passing


@pytest.mark.parametrize("broken", [_two_probes, _one_is_enough, _old_calls_count, _health_outweighs, _a_restart_opens])
def test_twins_are_caught(broken: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        broken()


def test_what_the_forgetful_twin_gets_wrong_is_right_here() -> None:
    breaker = Breaker()
    feed(breaker, "b" * 19, 0.0)
    feed(breaker, "b", 1000.0)
    assert breaker.passing
