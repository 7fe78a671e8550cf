"""What a worker knows of one queue: room, hunger, and when not to listen."""

from types import SimpleNamespace
from typing import Any

import pytest

from ringpost.core.maintenance import Drain
from ringpost.core.message import Delivery, Settlement, State
from ringpost.service.lane import Lane
from ringpost.service.slots import Slots


def lane(total: int = 8) -> Lane:
    handler: Any = SimpleNamespace(queue="mail.welcome")
    return Lane(handler, Slots(total))


def claim(lane: Lane, got: int, *, now_s: float = 1.0) -> None:
    asked = 4
    lane.reserve(asked, now_s)
    lane.returned(asked, got, now_s)


def test_what_was_asked_for_is_claimed_no_second_time() -> None:
    one = lane(4)
    one.reserve(4, 1.0)
    assert one.room(1.0) == 0
    assert one.returned(4, 1, 1.0) == 0
    assert one.slots.used == 1
    assert one.slots.messages == 1


def test_what_calls_took_meanwhile_is_told_and_asked_for_again() -> None:
    one = lane(2)
    one.reserve(2, 1.0)
    assert one.slots.take()
    assert one.returned(2, 2, 1.0) == 1
    assert one.hungry
    assert one.room(1.0) == 0


def test_it_stays_hungry_after_a_full_claim() -> None:
    one = lane()
    claim(one, 4)
    assert one.hungry


def test_it_is_quiet_after_a_claim_that_left_nothing() -> None:
    one = lane()
    claim(one, 3)
    assert not one.hungry


def test_it_asks_again_if_it_was_woken_while_the_claim_was_made() -> None:
    one = lane()
    one.reserve(4, 1.0)
    one.wake(1.0)
    one.returned(4, 0, 1.0)
    assert one.hungry


def test_a_quiet_queue_is_looked_at_now_and_then_by_a_busy_process() -> None:
    one = lane()
    claim(one, 0, now_s=1.0)
    assert not one.worth_a_look(1.01)
    assert one.worth_a_look(1.03)


def test_wake_ups_that_give_nothing_again_and_again_are_not_listened_to_for_longer_and_longer() -> None:
    one = lane()
    hushes = []
    now_s = 100.0
    for _ in range(12):
        one.wake(now_s)
        claim(one, 0, now_s=now_s)
        hushes.append(one.hush_s(now_s))
        now_s += hushes[-1] + 0.0001
    assert hushes[:2] == [0.0, 0.0]
    assert hushes[2] == pytest.approx(0.005)
    assert hushes[3] == pytest.approx(0.01)
    assert hushes[-1] == pytest.approx(1.0)
    assert not one.hungry


def test_one_good_claim_ends_the_hush() -> None:
    one = lane()
    for _ in range(5):
        one.wake(100.0)
        claim(one, 0, now_s=100.0)
    one.wake(101.0)
    claim(one, 1, now_s=101.0)
    one.wake(101.1)
    claim(one, 0, now_s=101.1)
    assert one.hush_s(101.1) == 0.0


def test_rare_empty_wakes_are_nothing_to_worry_about() -> None:
    one = lane()
    for hour in range(10):
        now_s = 3600.0 * (hour + 1)
        one.wake(now_s)
        claim(one, 0, now_s=now_s)
        assert one.hush_s(now_s) == 0.0


def test_a_claim_that_failed_leaves_everything_as_it_was() -> None:
    one = lane()
    one.reserve(4, 1.0)
    one.failed_claim(4)
    assert one.slots.used == 0
    assert one.hungry


def settled(to: State = State.SUCCEEDED, **fields: Any) -> Settlement:
    return Settlement(Delivery(1, bytes(16), "mail.welcome", 1, 1, 0, 1, 0, b"{}", b""), to, **fields)


def fail(one: Lane, count: int, feeds: Any = "downstream", now_s: float = 10.0) -> bool:
    one.reserve(count, now_s)
    one.returned(count, count, now_s)
    for _ in range(count):
        one.ended(settled(State.SCHEDULED, feeds=feeds))
    return one.look_at_outcomes(now_s)


def test_an_outage_leaves_one_message_at_a_time_and_charges_none() -> None:
    one = lane(128)
    assert one.room(10.0) == 128
    assert fail(one, 20)
    assert not one.intake.charging
    assert one.room(10.0) == 0
    probe_s = 10.0 + one.new_pause_s(10.0)
    assert one.new_pause_s(10.0) == 0.0, "a pause is told once"
    assert one.room(probe_s) == 1
    one.reserve(1, probe_s)
    assert one.room(probe_s) == 0


def test_probes_that_go_well_end_the_outage() -> None:
    one = lane(128)
    fail(one, 20)
    for _ in range(5):
        one.reserve(1, 20.0)
        one.returned(1, 1, 20.0)
        one.ended(settled())
        one.look_at_outcomes(20.0)
    assert one.intake.charging
    assert one.room(20.0) == 128


def test_what_a_handler_asked_for_is_no_failure() -> None:
    one = lane(128)
    assert not fail(one, 40, feeds="")
    assert one.room(10.0) == 128


# --- drained slowly, after maintenance


def claimed_in_two_seconds(one: Lane) -> int:
    """Claim as much as there is room for, every tenth of a second, from a queue that holds plenty."""
    count = 0
    for tenth in range(20):
        now_s = 1.0 + tenth / 10
        asked = one.room(now_s)
        if asked:
            one.reserve(asked, now_s)
            one.returned(asked, asked, now_s)
            count += asked
            for _ in range(asked):
                one.slots.ended()
    return count


def test_a_queue_is_drained_at_its_rate() -> None:
    one = lane()
    one.drain = Drain(2.0)
    assert claimed_in_two_seconds(one) == 4


def test_a_drain_whose_claims_arent_counted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drain, "took", lambda self, count: None)
    one = lane()
    one.drain = Drain(2.0)
    assert claimed_in_two_seconds(one) > 4


def test_the_rate_ends_when_a_claim_has_left_nothing() -> None:
    one = lane()
    one.drain = Drain(2.0)
    one.reserve(1, 1.0)
    one.returned(1, 0, 1.0)
    assert one.drain is None
    assert one.room(1.0) == 8


@pytest.mark.parametrize(
    ("count", "after_s", "few"),
    [(1, 0.0, True), (1, 0.004, True), (2, 0.0, False), (8, 0.0, False), (1, 0.006, False)],
    ids=["few, at once", "few, soon", "an eighth", "many", "few, later"],
)
def test_few_wait_for_more_but_not_for_long(count: int, after_s: float, few: bool) -> None:
    one = lane(16)
    one.reserve(0, 1.0)
    assert one.few(count, 1.0 + after_s, 0.005) is few
