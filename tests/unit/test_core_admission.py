"""Who runs, who waits, who is turned away: properties over any sequence of events, and twins that break each."""

import heapq
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringpost.core.admission import RETRY_AFTER_S_LEAST, RETRY_AFTER_S_MOST, THIRDS, WAIT_S_MAX, Admission, Waiting
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


def full(limit: int, average_s: float = 0.0) -> Admission:
    """One whose slots are all taken by calls that take so long."""
    return busy(Admission(total=limit, limiter=Fixed(limit), average_s=average_s))


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
                    expected = admission.expect(priority, self.now_s)
                    admission.came()
                    hopeful = admission._in_time(one, self.now_s)
                    decided = admission.join(one, self.now_s)
                    assert all(other is one for other in decided if other.fate == "shed"), "who is in stays in"
                    if one.fate == "waits":
                        self.standing.append(one)
                    if expected and hopeful:
                        assert one.fate != "shed"
                    assert admission.waiting <= max(before, admission.calls_max * THIRDS[priority] // 3 + 1)
                    self.decided(decided)
            case "call ended" if admission.calls:
                admission.took(number / 100)
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
@example([("call", NORMAL, 5.0), ("call", NORMAL, 5.0)], 4, 1)  # one waits though slots are free
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


def enter(admission: Admission, *entering: Waiting) -> list[str]:
    """Let these join one after the other, and say what became of each."""
    for one in entering:
        admission.join(one, 0.0)
    return [one.fate for one in entering]


def enter_at(admission: Admission, priority: Priority, now_s: float) -> str:
    one = waiting(priority)
    admission.join(one, now_s)
    return one.fate


def test_first_come_first_served_whatever_the_priority() -> None:
    admission = full(9)
    given = [waiting(LOW), waiting(NORMAL), waiting(HIGH), waiting(NORMAL), waiting(HIGH)]
    assert enter(admission, *given) == ["waits"] * 5
    order: list[Waiting] = []
    for _ in given:
        admission.leave()
        order += admission.advance(1.0)
    assert order == given


HEIGHTS = [(1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 2, 2), (4, 1, 2, 2), (8, 2, 3, 4), (18, 3, 6, 9), (128, 22, 43, 64)]


@pytest.mark.parametrize(("limit", "low", "normal", "high"), HEIGHTS)
def test_each_priority_enters_up_to_a_height_of_its_own(limit: int, low: int, normal: int, high: int) -> None:
    for priority, height in ((LOW, low), (NORMAL, normal), (HIGH, high)):
        alone = full(limit)
        assert enter(alone, *(waiting(priority) for _ in range(limit + 1))).count("waits") == height
        assert not alone.expect(priority, 0.0)


def test_whatever_the_lower_ones_do_the_higher_find_room_and_nobody_is_sent_away_for_them() -> None:
    admission = full(18)  # nine may wait
    for priority in (LOW, NORMAL, HIGH):
        fates = enter(admission, *(waiting(priority) for _ in range(20)))
        assert fates == ["waits"] * 3 + ["shed"] * 17
    assert [one.priority for one in admission._queue] == [LOW] * 3 + [NORMAL] * 3 + [HIGH] * 3


def test_where_a_higher_one_found_no_room_the_lower_ones_stay_out_for_the_time_of_a_call() -> None:
    for told_at_the_door in (True, False):
        admission = full(18, 0.2)
        enter(admission, *(waiting(HIGH) for _ in range(9)))
        if told_at_the_door:
            assert not admission.expect(HIGH, 1.0)
        else:
            admission.join(waiting(HIGH), 1.0)
        for _ in range(9):  # all end at once, and all that waited run
            admission.leave()
        assert len(admission.advance(1.1)) == 9
        given = [(LOW, 1.1), (NORMAL, 1.19), (HIGH, 1.19), (NORMAL, 1.21), (LOW, 1.21), (LOW, 1.4)]
        fates = [enter_at(admission, priority, now_s) for priority, now_s in given]
        # The second last one: one of normal priority was turned away just before.
        assert fates == ["shed", "shed", "waits", "waits", "shed", "waits"]


def test_one_that_only_has_too_little_time_keeps_nobody_out() -> None:
    admission = full(4, 0.4)
    assert enter(admission, waiting(HIGH, 0.01), waiting(LOW)) == ["shed", "waits"]


@pytest.mark.parametrize(
    ("limit", "average_s", "before", "left_s", "fate"),
    [
        (5, 0.0, 2, 0.001, "waits"),  # nothing is known yet
        (4, 0.4, 0, 0.51, "waits"),  # one of four slots comes free in a quarter of the time, and then it takes its own
        (4, 0.4, 0, 0.49, "shed"),
        (4, 0.4, 1, 0.61, "waits"),
        (4, 0.4, 1, 0.59, "shed"),
        (8, 0.4, 1, 0.59, "waits"),  # the more slots, the sooner
        (2, 2 * WAIT_S_MAX, 0, 100.0, "waits"),
        (2, 2.1 * WAIT_S_MAX, 0, 100.0, "shed"),  # it would stand there for too long
    ],
)
def test_who_would_come_too_late_by_its_place_is_told_at_once(
    limit: int, average_s: float, before: int, left_s: float, fate: str
) -> None:
    admission = full(limit, average_s)
    assert set(enter(admission, *(waiting(HIGH) for _ in range(before)))) <= {"waits"}
    assert enter(admission, waiting(HIGH, left_s)) == [fate]


def test_before_any_has_ended_the_usual_time_counts() -> None:
    admission = busy(Admission(total=4, limiter=Fixed(4, usual_s=0.4)))
    assert enter(admission, waiting(deadline_s=0.49), waiting(deadline_s=0.51)) == ["shed", "waits"]


def test_what_was_cut_off_makes_the_average_longer_but_never_shorter() -> None:
    admission = full(1, 0.8)
    admission.took(0.5, cut_off=True)
    assert admission.average_s == 0.8
    admission.took(1.8, cut_off=True)
    assert admission.average_s == pytest.approx(0.9)


def test_an_overload_in_which_a_call_takes_nearly_all_of_its_time_brings_many_to_their_end() -> None:
    """A model: 16 slots, calls of 0.8 s whose callers wait for 1 s, and fourteen times as many as can be served."""
    took_s, slots, every_s = 0.8, 16, 1 / 280
    admission = Admission(total=slots, limiter=Fixed(slots), average_s=took_s)
    running: list[tuple[float, float, float]] = []  # when it ends, its deadline, when it began
    well = 0

    def end_until(instant_s: float) -> None:
        nonlocal well
        while running and running[0][0] <= instant_s:
            end_s, deadline_s, began_s = heapq.heappop(running)
            admission.took(end_s - began_s, cut_off=end_s >= deadline_s)
            well += end_s < deadline_s
            admission.leave()
            for one in admission.advance(end_s):
                if one.fate == "runs":
                    begin(end_s, one.deadline_s)

    def begin(now_s: float, deadline_s: float) -> None:
        heapq.heappush(running, (min(now_s + took_s, deadline_s), deadline_s, now_s))

    for number in range(slots):  # they end one after the other, so that each finds another one waiting
        assert admission.take()
        heapq.heappush(running, (number * took_s / slots, took_s, number * took_s / slots - took_s))
    for number in range(280 * 30):
        now_s = number * every_s
        end_until(now_s)
        if admission.take():
            begin(now_s, now_s + 1.0)
        else:
            admission.join(waiting(HIGH, now_s + 1.0), now_s)
    assert well > 0.7 * 30 / took_s * slots


def test_the_average_follows_what_calls_take() -> None:
    admission = made()
    admission.took(2.0)
    assert admission.average_s == 2.0
    for _ in range(50):
        admission.took(0.1)
    assert admission.average_s == pytest.approx(0.1, rel=0.2)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from(Priority), st.floats(0, 0.3)), max_size=60))
def test_where_each_takes_the_same_no_wait_is_longer_than_was_foreseen_by_more_than_one_call(
    limit: int, arrivals: list[tuple[Priority, float]]
) -> None:
    """A model: calls of 0.2 s, `limit` at a time. The estimate takes it that slots come free one after the other."""
    took_s = 0.2
    admission = Admission(total=limit, limiter=Fixed(limit), average_s=took_s)
    ends_s: list[float] = []
    due_s: dict[int, float] = {}
    now_s = 0.0

    def run_until(instant_s: float) -> None:
        while ends_s and ends_s[0] <= instant_s:
            end_s = ends_s.pop(0)
            admission.leave()
            for one in admission.advance(end_s):
                assert one.fate == "runs"
                assert end_s <= due_s[id(one)] + took_s + 1e-9
                ends_s.append(end_s + took_s)

    for priority, pause_s in arrivals:
        now_s += pause_s
        run_until(now_s)
        if admission.take():
            ends_s.append(now_s + took_s)
            continue
        one = waiting(priority, 1e6)
        due_s[id(one)] = now_s + (admission.waiting + 1) * took_s / limit
        admission.join(one, now_s)
        one.told = one  # kept, so that its id stays its own
    run_until(now_s + 1e6)
    assert admission.waiting == 0


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
    admission = full(1)
    hopeless = waiting(deadline_s=5.5)
    admission.join(hopeless, 0.0)
    admission.took(2.0)  # longer than was known when it was let in
    admission.leave()
    assert list(admission.advance(5.0)) == [hopeless]
    assert hopeless.fate == "late"
    assert admission.take()


def test_the_queue_is_never_longer_than_half_of_the_limit_or_what_it_was_given() -> None:
    for admission, most in ((made(8, 3), 2), (Admission(total=8, limiter=Fixed(5), queue_max=2), 2)):
        busy(admission)
        for _ in range(20):
            admission.join(waiting(HIGH), 0.0)
        assert admission.waiting == most


def test_without_a_queue_who_finds_no_slot_is_turned_away() -> None:
    admission = busy(Admission(total=1, queue_max=0))
    one = waiting()
    assert not admission.expect(NORMAL, 0.0)
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
    assert full(1, 0.001).retry_after_s() == RETRY_AFTER_S_LEAST
    assert full(1, 3_600.0).retry_after_s() == RETRY_AFTER_S_MOST
    slow = full(4)
    enter(slow, *(waiting(HIGH) for _ in range(2)))
    slow.took(8.0)
    assert slow.retry_after_s() == 6.0
    assert full(4, 8.0).retry_after_s() == 2.0


# --- twins: each breaks one promise, and the test for it fails


class KnowsNoPriority(Real, eq=False):
    """One that lets everybody in as long as there is room."""

    def _height(self, priority: Priority, now_s: float) -> int:
        return Real._height(self, HIGH, now_s)


class Forgetful(Real, eq=False):
    """One that lets the lower ones in as soon as there is room again."""

    def _height(self, priority: Priority, now_s: float) -> int:
        return Real._height(self, priority, 1e9)


class SendsAway(Real, eq=False):
    """One that sends away who stands last for a higher priority: that one has waited for nothing."""

    def join(self, newcomer: Waiting, now_s: float) -> Sequence[Waiting]:
        if self._queue and self._queue[-1].priority > newcomer.priority:
            last = self._queue.pop()
            self.waiting -= 1
            last.fate = "shed"
            return [last, *Real.join(self, newcomer, now_s)]
        return Real.join(self, newcomer, now_s)


class Hopeful(Real, eq=False):
    """One that lets in who can't be served in time."""

    def _in_time(self, newcomer: Waiting, now_s: float) -> bool:
        return True


class LastInFirstOut(Real, eq=False):
    """One in which who came last goes first."""

    def _first(self, fate: str) -> Waiting:
        self._queue.rotate(1)
        return Real._first(self, fate)  # type: ignore[arg-type]


class DropsNobody(Real, eq=False):
    """One that runs what nobody waits for any more."""

    def advance(self, now_s: float) -> Sequence[Waiting]:
        return Real.advance(self, -1e9)


class Unbounded(Real, eq=False):
    """One whose queue has no end."""

    def _height(self, priority: Priority, now_s: float) -> int:
        return 1_000


class Greedy(Real, eq=False):
    """One that claims while calls wait."""

    @property
    def free(self) -> int:
        return self.total - self.used - self.asked


@pytest.mark.parametrize(
    ("twin", "test"),
    [
        (KnowsNoPriority, "test_whatever_the_lower_ones_do_the_higher_find_room_and_nobody_is_sent_away_for_them"),
        (Forgetful, "test_where_a_higher_one_found_no_room_the_lower_ones_stay_out_for_the_time_of_a_call"),
        (SendsAway, "test_whatever_the_lower_ones_do_the_higher_find_room_and_nobody_is_sent_away_for_them"),
        (Hopeful, "test_before_any_has_ended_the_usual_time_counts"),
        (Hopeful, "test_an_overload_in_which_a_call_takes_nearly_all_of_its_time_brings_many_to_their_end"),
        (LastInFirstOut, "test_first_come_first_served_whatever_the_priority"),
        (DropsNobody, "test_who_is_late_is_dropped_when_its_turn_comes"),
        (DropsNobody, "test_who_cant_make_it_any_more_is_dropped_too"),
        (Unbounded, "test_the_queue_is_never_longer_than_half_of_the_limit_or_what_it_was_given"),
        (Greedy, "test_whatever_happens_the_counts_hold"),
    ],
)
def test_twins_are_caught(twin: type[Admission], test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Admission", twin)
    with pytest.raises(AssertionError):
        globals()[test]()
