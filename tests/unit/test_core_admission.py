"""Who runs, who waits, who is turned away: properties over any sequence of events, and twins that break each."""

from collections import deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringpost.core.admission import RETRY_AFTER_S_LEAST, RETRY_AFTER_S_MOST, Admission, Waiting
from ringpost.core.limit import Fixed
from ringpost.core.message import Priority

Real = Admission  # what twins are made of, whatever `Admission` means meanwhile
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
Made = Callable[[int, int], Admission]


def made(total: int = 2, limit: int = 2) -> Admission:
    return Admission(total=total, limiter=Fixed(limit))


def waiting(priority: Priority = NORMAL, deadline_s: float = 100.0) -> Waiting:
    return Waiting(priority, deadline_s)


def busy(admission: Admission) -> Admission:
    while admission.take():
        pass
    return admission


class Played:
    """An admission that is driven by random events, and what it decided."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.now_s = 0.0
        self.standing: list[Waiting] = []
        self.arrived: list[Waiting] = []
        self.ran_at_s: dict[int, float] = {}

    def decided(self, decided: Sequence[Waiting]) -> None:
        for one in decided:
            assert one.fate in ("runs", "shed", "late")
            if one in self.standing:
                self.standing.remove(one)
            if one.fate == "runs":
                self.ran_at_s[id(one)] = self.now_s

    def play(self, event: tuple[str, Priority, float]) -> None:
        kind, priority, number = event
        admission = self.admission
        match kind:
            case "call":
                one = Waiting(priority, self.now_s + number)
                self.arrived.append(one)
                if admission.take():
                    one.fate = "runs"
                else:
                    before = admission.waiting
                    expected = admission.expect(priority)
                    admission.came()
                    decided = admission.join(one, self.now_s)
                    if one.fate == "waits":
                        self.standing.append(one)
                    if expected:
                        assert one.fate != "shed"
                    assert admission.waiting <= max(before, admission.calls_max)
                    self.decided(decided)
            case "call ended" if admission.calls:
                admission.leave()
                self.decided(admission.advance(self.now_s))
            case "claimed":
                count = max(min(admission.free, int(number)), 0)
                admission.ask(count)
                admission.claimed(count, count)
            case "message ended" if admission.messages:
                admission.settled()
                self.decided(admission.advance(self.now_s))
            case "time":
                self.now_s += number
            case "gone" if self.standing:
                one = self.standing.pop(int(number) % len(self.standing))
                admission.withdraw(one)
                assert one.fate == "left"
            case "limit":
                assert isinstance(admission.limiter, Fixed)
                admission.limiter.limit = max(int(number), 1)
                admission.limited()
                self.decided(admission.advance(self.now_s))
            case "closed":
                self.decided(admission.close(number > 5))
            case _:
                pass

    def check(self) -> None:
        admission = self.admission
        assert admission.used == admission.calls + admission.messages + admission.lost <= admission.total
        assert admission.waiting == len(self.standing)
        assert all(one.fate == "waits" for one in self.standing)
        if admission.waiting:
            assert not admission.take(), "nobody overtakes"
            assert admission.free == 0, "claims yield"


KINDS = ["call", "call", "call", "call ended", "time", "claimed", "message ended", "gone", "limit", "closed"]
EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(Priority), st.floats(0, 6)), max_size=80)


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.integers(1, 6), st.integers(1, 6))
def test_whatever_happens_the_counts_hold(events: list[tuple[str, Priority, float]], total: int, limit: int) -> None:
    played = Played(made(total, limit))
    for event in events:
        played.play(event)
        played.check()


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.integers(1, 6))
def test_nobody_runs_after_its_deadline(events: list[tuple[str, Priority, float]], total: int) -> None:
    played = Played(made(total, total))
    for event in events:
        played.play(event)
    for one in played.arrived:
        assert played.ran_at_s.get(id(one), -1.0) < one.deadline_s


def served(admission: Admission, given: list[Waiting]) -> list[Waiting]:
    """Fill the slots, let these arrive, and end one call after the other: gives who ran, in their order."""
    busy(admission)
    for one in given:
        admission.join(one, 0.0)
    order: list[Waiting] = []
    for _ in range(len(given) + admission.total):
        if admission.calls:
            admission.leave()
            order += [one for one in admission.advance(1.0) if one.fate == "runs"]
    return order


def test_high_goes_first_and_equals_as_they_came() -> None:
    given = [waiting(LOW), waiting(NORMAL), waiting(HIGH), waiting(NORMAL), waiting(HIGH)]
    order = served(made(5, 5), given)
    assert order == [given[2], given[4], given[1], given[3], given[0]]


def test_the_newest_of_the_lowest_gives_way_to_a_higher_one() -> None:
    admission = busy(made(3, 3))
    first, second, third = waiting(LOW), waiting(LOW), waiting(NORMAL)
    for one in (first, second, third):
        assert not admission.join(one, 0.0)
    high = waiting(HIGH)
    assert admission.expect(HIGH)
    admission.came()
    assert list(admission.join(high, 0.0)) == [second]
    assert (second.fate, high.fate, first.fate) == ("shed", "waits", "waits")
    normal = waiting(NORMAL)
    assert list(admission.join(normal, 0.0)) == [first]
    last = waiting(NORMAL)
    assert not admission.expect(NORMAL)
    assert list(admission.join(last, 0.0)) == [last]
    assert last.fate == "shed"


def test_who_is_late_is_dropped_when_its_turn_comes() -> None:
    admission = busy(made(1, 4))
    late, good = waiting(deadline_s=1.0), waiting(deadline_s=9.0)
    admission.calls_max = 4
    admission.join(late, 0.0)
    admission.join(good, 0.0)
    admission.leave()
    assert list(admission.advance(1.0)) == [late, good]
    assert (late.fate, good.fate) == ("late", "runs")


def test_who_cant_make_it_any_more_is_dropped_too() -> None:
    admission = busy(Admission(total=1, limiter=Fixed(1, usual_s=2.0)))
    hopeless = waiting(deadline_s=5.5)
    admission.join(hopeless, 0.0)
    admission.leave()
    assert list(admission.advance(5.0)) == [hopeless]
    assert hopeless.fate == "late"
    assert admission.take()


def test_the_queue_is_never_longer_than_the_limit_or_what_it_was_given() -> None:
    for admission, most in ((made(8, 3), 3), (Admission(total=8, limiter=Fixed(5), queue_max=2), 2)):
        busy(admission)
        for _ in range(20):
            admission.join(waiting(), 0.0)
        assert admission.waiting == most


def test_without_a_queue_who_finds_no_slot_is_turned_away() -> None:
    admission = busy(Admission(total=1, queue_max=0))
    one = waiting()
    assert not admission.expect(NORMAL)
    assert list(admission.join(one, 0.0)) == [one]
    assert one.fate == "shed"


def test_calls_have_as_many_slots_as_the_limit_says_and_messages_the_others() -> None:
    admission = busy(made(10, 3))
    assert (admission.calls, admission.free) == (3, 7)
    admission.ask(7)
    assert admission.claimed(7, 7) == 0
    assert admission.used == 10


def test_closed_nothing_begins_and_who_waits_is_turned_away() -> None:
    admission = busy(made(1, 1))
    one = waiting()
    admission.join(one, 0.0)
    assert list(admission.close(True)) == [one]
    admission.leave()
    assert not admission.take()
    assert admission.free == 0
    assert not admission.close(False)
    assert admission.take()


def test_when_to_come_again_is_bounded_and_grows_with_what_waits() -> None:
    quick = busy(Admission(total=1, limiter=Fixed(1, usual_s=0.001)))
    assert quick.retry_after_s() == RETRY_AFTER_S_LEAST
    slow = busy(Admission(total=4, limiter=Fixed(4, usual_s=8.0)))
    alone = slow.retry_after_s()
    for _ in range(4):
        slow.join(waiting(), 0.0)
    assert RETRY_AFTER_S_LEAST < alone < slow.retry_after_s() <= RETRY_AFTER_S_MOST


# --- twins: each breaks one promise, and the test for it fails


class FirstInFirstOut(Real, eq=False):
    """One that knows no priority."""

    def join(self, newcomer: Waiting, now_s: float) -> Sequence[Waiting]:
        newcomer.priority = NORMAL
        return Real.join(self, newcomer, now_s)


class DropsNobody(Real, eq=False):
    """One that runs what nobody waits for any more."""

    def advance(self, now_s: float) -> Sequence[Waiting]:
        return Real.advance(self, -1e9)


class Unbounded(Real, eq=False):
    """One whose queue has no end."""

    def _room_in_queue(self) -> int:
        return 1


class Greedy(Real, eq=False):
    """One that claims while calls wait."""

    @property
    def free(self) -> int:
        return self.total - self.used - self.asked


@pytest.mark.parametrize(
    ("twin", "test"),
    [
        (FirstInFirstOut, "test_high_goes_first_and_equals_as_they_came"),
        (FirstInFirstOut, "test_the_newest_of_the_lowest_gives_way_to_a_higher_one"),
        (DropsNobody, "test_who_is_late_is_dropped_when_its_turn_comes"),
        (DropsNobody, "test_who_cant_make_it_any_more_is_dropped_too"),
        (Unbounded, "test_the_queue_is_never_longer_than_the_limit_or_what_it_was_given"),
        (Greedy, "test_whatever_happens_the_counts_hold"),
    ],
)
def test_twins_are_caught(twin: type[Admission], test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Admission", twin)
    with pytest.raises(AssertionError):
        globals()[test]()


def test_queues_are_in_the_order_of_priorities() -> None:
    assert list(made()._queues) == [HIGH, NORMAL, LOW]
    assert all(isinstance(queue, deque) for queue in made()._queues.values())
