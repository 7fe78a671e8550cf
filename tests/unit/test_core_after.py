"""Whether effects are there, won't come, or may: one rule over where messages stand."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import msgspec
import pytest

from ringpost.core import after, ids
from ringpost.core.after import Awaited, Standing, Verdict
from ringpost.core.message import Cause, Kind, Priority, Record, State

NOW_MS = 2_000_000_000_000
YOUNG = ids.uuid7(NOW_MS - 3_600_000, 1)
OLD = ids.uuid7(NOW_MS - 3_600_001, 2)
TIMELESS = ids.derived("event", "of no time")

Standings = Mapping[Awaited, Standing]


def a_record(state: State, *, started: bool = False) -> Record:
    return Record(
        ref=1,
        id=YOUNG,
        queue="a.b",
        kind=Kind.MESSAGE,
        state=state,
        priority=Priority.NORMAL,
        cause=Cause.NONE,
        attempts=0,
        losses=0,
        generation=1,
        fence=0,
        created_ms=0,
        due_ms=0,
        started_ms=1 if started else None,
        settled_ms=None,
        expires_ms=None,
        cancel_asked=False,
        keep_s=1,
    )


def standing(*states: State | None, id: bytes = YOUNG) -> Standing:
    records = [None if state is None else a_record(state) for state in states]
    return after.standing_of(Awaited(id), records, NOW_MS)


def test_a_message_stands_where_its_ticket_shows_it() -> None:
    shown = {state: standing(state) for state in State}
    assert shown == {
        State.SCHEDULED: "accepted",
        State.WAITING: "accepted",
        State.READY: "accepted",
        State.RUNNING: "running",
        State.FORWARDED: "running",
        State.SUCCEEDED: "succeeded",
        State.FAILED: "failed",
        State.CANCELLED: "cancelled",
        State.EXPIRED: "expired",
        State.DEAD: "failed",
    }
    again = after.standing_of(Awaited(YOUNG), [a_record(State.READY, started=True)], NOW_MS)
    assert again == "running"


def test_an_event_stands_where_the_least_of_its_deliveries_does() -> None:
    assert standing(State.SUCCEEDED, State.SUCCEEDED) == "succeeded"
    assert standing(State.SUCCEEDED, State.RUNNING) == "running"
    assert standing(State.SUCCEEDED, State.RUNNING, State.SCHEDULED) == "accepted"
    assert standing(State.RUNNING, State.DEAD) == "failed"
    assert standing(State.SUCCEEDED, None) == "succeeded"  # who subscribed later has none
    assert standing() == standing(None, None) == "unknown"


def test_what_isnt_there_may_still_come_unless_it_is_too_old_for_that() -> None:
    assert standing(None, id=YOUNG) == "unknown"
    assert standing(None, id=TIMELESS) == "unknown"
    assert standing(None, id=OLD) == "gone"
    assert standing(State.RUNNING, None, id=OLD) == "running"


WORDS: tuple[Standing, ...] = (
    "accepted",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
    "unknown",
    "gone",
)


def check_verdicts(verdict_of: Callable[[Standings], Verdict]) -> None:
    """All pairs of standings: there only if both are, never as soon as one is over, gone before not yet."""
    for pair in product(WORDS, repeat=2):
        standings = {Awaited(ids.uuid7(1, n)): word for n, word in enumerate(pair)}
        if set(pair) == {"succeeded"}:
            expected: Verdict = "there"
        elif set(pair) & {"failed", "cancelled", "expired"}:
            expected = "never"
        else:
            expected = "gone" if "gone" in pair else "not_yet"
        assert verdict_of(standings) == expected, pair


def any_is_enough(standings: Standings) -> Verdict:
    return "there" if "succeeded" in standings.values() else after.verdict_of(standings)


def ended_is_there(standings: Standings) -> Verdict:
    open_words = {"accepted", "running", "unknown", "gone"}
    return "not_yet" if open_words & set(standings.values()) else "there"


def waits_on(standings: Standings) -> Verdict:
    found = after.verdict_of(standings)
    return "not_yet" if found == "never" else found


def unknown_is_over(standings: Standings) -> Verdict:
    return "never" if "unknown" in standings.values() else after.verdict_of(standings)


def test_one_rule_decides() -> None:
    check_verdicts(after.verdict_of)


@pytest.mark.parametrize("twin", [any_is_enough, ended_is_there, waits_on, unknown_is_over])
def test_a_broken_rule_is_found(twin: Callable[[Standings], Verdict]) -> None:
    with pytest.raises(AssertionError):
        check_verdicts(twin)


def members(standings: Standings) -> tuple[int, str, Sequence[object]]:
    answer = after.refusal(standings, "shop.list")
    assert not answer.processed
    body = msgspec.json.decode(answer.body)
    return answer.status, body["code"], body["messages"]


def test_the_answer_names_what_is_missing_and_where_it_stands() -> None:
    one, two, three = (Awaited(ids.uuid7(1, n)) for n in range(3))
    waiting: Standings = {one: "succeeded", two: "running", three: "unknown"}
    named = [{"id": two.text, "state": "running"}, {"id": three.text, "state": "unknown"}]
    assert members(waiting) == (409, "not_yet", named)
    over: Standings = {one: "running", two: "cancelled", three: "succeeded"}
    assert members(over) == (409, "never", [{"id": two.text, "state": "cancelled"}])
    old: Standings = {one: "running", two: "gone"}
    assert members(old) == (410, "gone", [{"id": two.text, "state": "gone"}])


def test_the_wait_is_bounded_by_five_seconds_and_by_the_deadline() -> None:
    assert after.until_s(100.0, 160.0) == 105.0
    assert after.until_s(100.0, 102.0) == pytest.approx(101.98)
