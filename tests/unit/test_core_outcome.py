"""What the end of a handling means: the table for both styles, line by line."""

import asyncio
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    OperationFailed,
    Overloaded,
    Reject,
    RetryLater,
    StoreError,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.contract.problem import Problem
from ringpost.core.message import Answer, Cause, State
from ringpost.core.outcome import (
    PROBLEM_JSON,
    PROBLEMS,
    TABLE,
    Disposition,
    Ending,
    Stopped,
    Tried,
    call_answer,
    declared_answer,
    ending_of,
    later_s,
    message_disposition,
    problem_answer,
    problem_of_end,
)
from ringpost.core.retry import DEFAULT, UNCHARGED_S_MAX, Retry, Rules

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "password=hunter2"
E = Ending


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class Kinder(EmailTaken, status=410):
    pass


class Elsewhere(Problem, status=404):
    pass


def tried(
    attempt: int = 1, *, age_s: float = 0.0, rules: Rules = DEFAULT, random01: float = 1.0, charging: bool = True
) -> Tried:
    return Tried(attempt, age_s, rules, random01, NOW, charging)


def body_of(answer: Answer) -> dict[str, object]:
    body = json.loads(answer.body)
    assert isinstance(body, dict)
    return body


# --- telling endings apart


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (EmailTaken("a@b"), E.PROBLEM_RAISED),
        (Kinder("a@b"), E.PROBLEM_RAISED),
        (Elsewhere(), E.FAILED),
        (KeyError("x"), E.FAILED),
        (UsageError("x"), E.FAILED),
        (InvalidRequest("of a call that the handler made"), E.FAILED),
        (OperationFailed("of another service"), E.FAILED),
        (OperationFailed("a circle", cause="loop_detected"), E.LOOP),
        (TimeoutError(), E.FAILED),
        (TransportError("x"), E.FAILED),
        (Unavailable("x"), E.UNAVAILABLE),
        (Overloaded("x"), E.UNAVAILABLE),
        (StoreError("x"), E.UNAVAILABLE),
        (DeadlineExceeded("x"), E.TIMED_OUT),
        (RetryLater(5), E.LATER),
        (Reject("x"), E.REJECTED),
        (asyncio.CancelledError(), E.FAILED),
        (Cancelled(), E.FAILED),
    ],
)
def test_how_it_ended(error: BaseException, ending: Ending) -> None:
    cancelled = isinstance(error, asyncio.CancelledError)
    assert ending_of(error, (EmailTaken,), None, cancelled=cancelled) is ending


@pytest.mark.parametrize(
    ("stopped", "ending"),
    [
        ("user", E.USER),
        ("deadline", E.DEADLINE),
        ("caller_gone", E.CALLER_GONE),
        ("max_run", E.MAX_RUN),
        ("lease_lost", E.LEASE_LOST),
        ("shutdown", E.SHUTDOWN),
    ],
)
def test_who_cancelled_it(stopped: Stopped, ending: Ending) -> None:
    assert ending_of(asyncio.CancelledError(), (), stopped, cancelled=True) is ending
    assert ending_of(Cancelled(), (), stopped, cancelled=False) is ending
    assert ending_of(KeyError(), (), stopped, cancelled=False) is E.FAILED, "it failed before it was told"


def test_every_ending_is_in_the_table() -> None:
    assert set(TABLE) == set(Ending)
    assert all(line.code in {"", *PROBLEMS} for line in TABLE.values())


# --- messages

KEYED = Retry(attempts=3, first=2.0, longest=100.0)


@pytest.mark.parametrize(
    ("ending", "error", "then"),
    [
        (E.REPLY, None, Disposition(State.SUCCEEDED, commits=True, charge=True, feeds="good")),
        (E.PROBLEM_RETURNED, None, Disposition(State.FAILED, Cause.PROBLEM, True, True, feeds="good")),
        (E.PROBLEM_RAISED, EmailTaken("x"), Disposition(State.FAILED, Cause.PROBLEM, False, True, feeds="good")),
        (E.FAILED, KeyError(), Disposition(State.SCHEDULED, charge=True, delay_s=1.0, feeds="bad")),
        (E.UNAVAILABLE, Unavailable(""), Disposition(State.SCHEDULED, charge=True, delay_s=1.0, feeds="downstream")),
        (E.TIMED_OUT, DeadlineExceeded(""), Disposition(State.SCHEDULED, charge=True, delay_s=1.0, feeds="downstream")),
        (E.LOOP, OperationFailed(""), Disposition(State.SCHEDULED, charge=True, delay_s=1.0, feeds="bad")),
        (E.LATER, RetryLater(60), Disposition(State.SCHEDULED, charge=True, delay_s=60.0)),
        (E.LATER, RetryLater(60, counts=False), Disposition(State.SCHEDULED, charge=False, delay_s=60.0)),
        (E.REJECTED, Reject("no"), Disposition(State.DEAD, Cause.REJECTED, charge=True, feeds="good")),
        (E.UNDECODABLE, InvalidRequest("x"), Disposition(State.DEAD, Cause.UNDECODABLE, charge=True)),
        (E.MAX_RUN, TimeoutError(), Disposition(State.SCHEDULED, charge=True, delay_s=1.0, feeds="bad")),
        (E.SHUTDOWN, asyncio.CancelledError(), Disposition(State.READY)),
        (E.USER, asyncio.CancelledError(), Disposition(State.CANCELLED, Cause.CANCELLED, charge=True)),
        (E.LEASE_LOST, asyncio.CancelledError(), Disposition(None)),
    ],
)
def test_what_becomes_of_a_message(ending: Ending, error: BaseException | None, then: Disposition) -> None:
    assert message_disposition(ending, error, tried()) == then


@pytest.mark.parametrize("ending", Ending)
def test_only_an_answer_commits(ending: Ending) -> None:
    answers = {E.REPLY, E.PROBLEM_RETURNED}
    assert message_disposition(ending, KeyError(), tried()).commits is (ending in answers)


@pytest.mark.parametrize("ending", [E.FAILED, E.UNAVAILABLE, E.TIMED_OUT, E.LOOP, E.MAX_RUN])
def test_after_the_last_attempt_it_is_dead(ending: Ending) -> None:
    before, last = (message_disposition(ending, KeyError(), tried(attempt)) for attempt in (19, 20))
    assert before.to is State.SCHEDULED
    assert (last.to, last.cause, last.charge) == (State.DEAD, Cause.HANDLER_ERROR, True)


def test_the_rule_of_the_exception_counts() -> None:
    rules: Rules = {Exception: Retry(), OSError: KEYED}
    assert message_disposition(E.FAILED, OSError(), tried(2, rules=rules, random01=0.0)).delay_s == 2.0
    assert message_disposition(E.FAILED, OSError(), tried(3, rules=rules)).to is State.DEAD
    assert message_disposition(E.FAILED, KeyError(), tried(3, rules=rules)).to is State.SCHEDULED


def test_while_the_breaker_is_open_nothing_is_charged() -> None:
    late = message_disposition(E.UNAVAILABLE, Unavailable(""), tried(20, charging=False))
    assert (late.to, late.charge) == (State.SCHEDULED, False)
    old = message_disposition(E.UNAVAILABLE, Unavailable(""), tried(1, charging=False, age_s=UNCHARGED_S_MAX + 1))
    assert old.to is State.DEAD


def test_retry_later_without_counting_ends_after_thirty_days() -> None:
    error = RetryLater(timedelta(hours=1), counts=False)
    assert message_disposition(E.LATER, error, tried(10_000)).to is State.SCHEDULED
    assert message_disposition(E.LATER, error, tried(1, age_s=31 * 86_400.0)).to is State.DEAD


def test_retry_later_that_counts_ends_with_the_attempts() -> None:
    assert message_disposition(E.LATER, RetryLater(1), tried(20)).to is State.DEAD


@given(st.sampled_from(Ending), st.integers(1, 40), st.floats(0, 1e8), st.booleans(), st.floats(0, 1))
def test_a_message_goes_somewhere_that_its_life_allows(
    ending: Ending, attempt: int, age_s: float, charging: bool, random01: float
) -> None:
    what = tried(attempt, age_s=age_s, charging=charging, random01=random01)
    then = message_disposition(ending, KeyError(), what)
    assert then.to is None or then.to.terminal or then.to in (State.SCHEDULED, State.READY)
    assert (then.delay_s > 0) is (then.to is State.SCHEDULED)
    assert then.cause is not Cause.NONE or then.to in (None, State.SUCCEEDED, State.SCHEDULED, State.READY)


# --- calls


@pytest.mark.parametrize(
    ("error", "ending", "status", "code", "retry_after_s"),
    [
        (KeyError(SECRET), E.FAILED, 500, "handler_error", None),
        (Elsewhere(detail=SECRET), E.FAILED, 500, "handler_error", None),
        (Unavailable(SECRET), E.UNAVAILABLE, 503, "unavailable", 1.0),
        (Unavailable(SECRET, retry_after=7.0), E.UNAVAILABLE, 503, "unavailable", 7.0),
        (Overloaded(SECRET, retry_after=0.25), E.UNAVAILABLE, 503, "unavailable", 0.25),
        (StoreError(SECRET), E.UNAVAILABLE, 503, "unavailable", 1.0),
        (DeadlineExceeded(SECRET), E.TIMED_OUT, 504, "deadline_exceeded", None),
        (OperationFailed(SECRET, cause="loop_detected"), E.LOOP, 508, "loop_detected", None),
        (OperationFailed(SECRET, cause="loop_detected", path=("a.b", "c.d")), E.LOOP, 508, "loop_detected", None),
        (RetryLater(9), E.LATER, 503, "unavailable", 9.0),
        (Reject("too young"), E.REJECTED, 422, "rejected", None),
        (asyncio.CancelledError(), E.DEADLINE, 504, "deadline_exceeded", None),
        (asyncio.CancelledError(), E.MAX_RUN, 504, "deadline_exceeded", None),
        (asyncio.CancelledError(), E.SHUTDOWN, 503, "unavailable", 1.0),
        (asyncio.CancelledError(), E.USER, 409, "cancelled", None),
    ],
)
def test_what_a_call_answers(
    error: BaseException, ending: Ending, status: int, code: str, retry_after_s: float | None
) -> None:
    answer = call_answer(ending, error, "accounts.register", "accounts", NOW)
    body = body_of(answer)
    assert (answer.status, answer.content_type, answer.retry_after_s) == (status, PROBLEM_JSON, retry_after_s)
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:ringpost:problem:{code}")
    assert body["operation"] == "accounts.register"
    assert body["title"] and body["detail"]
    assert SECRET.encode() not in answer.body
    assert answer.processed, "a handler ran: its effects elsewhere can't be taken back"


def test_the_path_of_a_circle_is_said() -> None:
    error = OperationFailed("", cause="loop_detected", path=("a.b", "c.d", "a.b"))
    body = body_of(call_answer(E.LOOP, error, "a.b", "a", NOW))
    assert body["path"] == ["a.b", "c.d", "a.b"]
    assert "a.b → c.d → a.b" in str(body["detail"])


def test_a_reason_is_said() -> None:
    assert body_of(call_answer(E.REJECTED, Reject("too young"), "a.b", "a", NOW))["detail"] == "too young"


def test_a_declared_problem_keeps_its_status_and_fields() -> None:
    answer = call_answer(E.PROBLEM_RAISED, EmailTaken("a@b", detail="again"), "accounts.register", "accounts", NOW)
    assert answer == declared_answer(EmailTaken("a@b", detail="again"), "accounts")
    assert body_of(answer) == {
        "type": "urn:ringpost:problem:accounts.email_taken",
        "title": "This email is already registered",
        "status": 409,
        "code": "email_taken",
        "detail": "again",
        "email": "a@b",
    }


def test_a_declared_problem_that_doesnt_fit_is_its_authors_mistake() -> None:
    with pytest.raises(InvalidRequest, match="EmailTaken"):
        call_answer(E.PROBLEM_RAISED, EmailTaken(7), "accounts.register", "accounts", NOW)  # type: ignore[arg-type]


def test_a_wrong_request_names_the_field() -> None:
    error = InvalidRequest("it doesn't fit", pointer="/email", detail="a str is missing")
    answer = call_answer(E.UNDECODABLE, error, "accounts.register", "accounts", NOW)
    assert (answer.status, answer.processed) == (400, False)
    assert body_of(answer)["errors"] == [{"pointer": "/email", "detail": "a str is missing"}]


# --- the words


def test_every_problem_of_ours_has_a_status_and_a_title() -> None:
    for code, word in PROBLEMS.items():
        assert 400 <= word.status <= 599
        assert word.title
        assert body_of(problem_answer(code))["code"] == code


def test_every_cause_of_death_has_a_word() -> None:
    for cause in Cause:
        if cause not in (Cause.NONE, Cause.PROBLEM, Cause.CANCELLED, Cause.EXPIRED):
            assert cause.word in PROBLEMS


@pytest.mark.parametrize(
    ("state", "cause", "status", "code"),
    [
        (State.DEAD, Cause.HANDLER_ERROR, 500, "handler_error"),
        (State.DEAD, Cause.WORKER_LOST, 500, "worker_lost"),
        (State.DEAD, Cause.UNDECODABLE, 500, "undecodable"),
        (State.DEAD, Cause.REJECTED, 422, "rejected"),
        (State.DEAD, Cause.TOO_FAR, 500, "too_far"),
        (State.DEAD, Cause.CHECKSUM, 500, "checksum"),
        (State.DEAD, Cause.NONE, 500, "handler_error"),
        (State.CANCELLED, Cause.CANCELLED, 409, "cancelled"),
        (State.CANCELLED, Cause.NONE, 409, "cancelled"),
        (State.EXPIRED, Cause.EXPIRED, 504, "expired"),
        (State.FAILED, Cause.PROBLEM, 500, "handler_error"),
    ],
)
def test_the_result_of_what_ended_without_an_answer(state: State, cause: Cause, status: int, code: str) -> None:
    answer = problem_of_end(state, cause, "accounts.register")
    assert (answer.status, body_of(answer)["code"]) == (status, code)


def test_more_members_and_another_status() -> None:
    answer = problem_answer("overloaded", "The queue is full.", status=429, members={"queue": "a.b"}, processed=False)
    assert (answer.status, answer.processed) == (429, False)
    assert body_of(answer) == {
        "type": "urn:ringpost:problem:overloaded",
        "title": "Too much to do",
        "status": 429,
        "code": "overloaded",
        "detail": "The queue is full.",
        "queue": "a.b",
    }


@pytest.mark.parametrize(
    ("after", "length_s"),
    [
        (5, 5.0),
        (2.5, 2.5),
        (-1, 0.0),
        (float("nan"), 0.0),
        (float("inf"), UNCHARGED_S_MAX),
        (timedelta(minutes=2), 120.0),
        (timedelta(days=-1), 0.0),
        (NOW + timedelta(seconds=30), 30.0),
        (NOW - timedelta(seconds=30), 0.0),
        ((NOW + timedelta(seconds=30)).astimezone(timezone(timedelta(hours=5))), 30.0),
        (timedelta(days=4000), UNCHARGED_S_MAX),
    ],
)
def test_when_later_is(after: float | timedelta | datetime, length_s: float) -> None:
    assert later_s(after, NOW) == length_s
