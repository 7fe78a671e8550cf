"""Tickets as HTTP has them: monitor, result, and how soon to ask again."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core import ids
from ringpost.core.message import Answer, Cause, Envelope, Failure, Kind, Priority, Progress, Record, State
from ringpost.core.outcome import problem_answer
from ringpost.wire import ticket

ID = ids.uuid7(1_700_000_000_000, 42)
CREATED_MS = 1_700_000_000_000
SECRET = "password=hunter2"


def record(state: State = State.READY, **more: Any) -> Record:
    given: dict[str, Any] = {
        "ref": 1,
        "id": ID,
        "queue": "accounts.register",
        "kind": Kind.MESSAGE,
        "state": state,
        "priority": Priority.NORMAL,
        "cause": Cause.NONE,
        "attempts": 0,
        "losses": 0,
        "generation": 1,
        "fence": 1,
        "created_ms": CREATED_MS,
        "due_ms": CREATED_MS,
        "started_ms": None,
        "settled_ms": CREATED_MS + 9000 if state.terminal else None,
        "expires_ms": None,
        "cancel_asked": False,
        "keep_s": 3600,
        "headers": msgspec.json.encode(Envelope(operation="accounts.register")),
    }
    return Record(**given | more)


# --- the monitor


def test_a_message_that_waits() -> None:
    assert ticket.monitor_of(record()) == {
        "id": ids.text(ID),
        "status": "NotStarted",
        "state": "accepted",
        "generation": 1,
        "operation": "accounts.register",
        "attempt": 0,
        "createdDateTime": "2023-11-14T22:13:20.000Z",
        "lastActionDateTime": "2023-11-14T22:13:20.000Z",
    }


def test_a_message_that_runs_and_says_how_far() -> None:
    monitor = ticket.monitor_of(
        record(
            State.RUNNING,
            started_ms=CREATED_MS + 1000,
            attempts=2,
            progress=Progress(0.255, "half of the pages", CREATED_MS + 2500),
            expires_ms=CREATED_MS + 60_000,
            cancel_asked=True,
        )
    )
    assert (monitor["status"], monitor["state"], monitor["attempt"]) == ("Running", "running", 3)
    assert (monitor["percentComplete"], monitor["note"]) == (25.5, "half of the pages")
    assert monitor["lastActionDateTime"] == "2023-11-14T22:13:22.500Z"
    assert monitor["expirationDateTime"] == "2023-11-14T22:14:20.000Z"
    assert monitor["cancelRequested"] is True


def test_between_attempts_it_still_runs() -> None:
    monitor = ticket.monitor_of(record(State.SCHEDULED, started_ms=CREATED_MS + 5, attempts=1))
    assert (monitor["status"], monitor["attempt"]) == ("Running", 1)


def test_what_has_succeeded_is_done() -> None:
    monitor = ticket.monitor_of(record(State.SUCCEEDED, attempts=1, progress=Progress(0.9, "")))
    assert (monitor["percentComplete"], monitor["status"]) == (100.0, "Succeeded")
    assert "error" not in monitor
    assert "percentComplete" not in ticket.monitor_of(record(State.SUCCEEDED))


@pytest.mark.parametrize(
    ("state", "cause", "status", "error"),
    [
        (State.DEAD, Cause.HANDLER_ERROR, "Failed", {"code": "handler_error", "message": "The handler failed"}),
        (State.DEAD, Cause.NONE, "Failed", {"code": "handler_error", "message": "The handler failed"}),
        (State.DEAD, Cause.REJECTED, "Failed", {"code": "rejected", "message": "no such colour"}),
        (State.EXPIRED, Cause.EXPIRED, "Failed", {"code": "expired", "message": "It expired before it was handled"}),
        (State.CANCELLED, Cause.CANCELLED, "Canceled", None),
    ],
)
def test_how_it_ended(state: State, cause: Cause, status: str, error: dict[str, str] | None) -> None:
    said = "no such colour" if cause is Cause.REJECTED else SECRET
    monitor = ticket.monitor_of(record(state, cause=cause, failures=[Failure("KeyError", said, SECRET)]))
    assert monitor["status"] == status
    assert monitor.get("error") == error
    assert SECRET not in json.dumps(monitor)


def test_a_problem_is_the_error_of_the_monitor() -> None:
    body = b'{"type":"urn:ringpost:problem:accounts.email_taken","title":"Taken","code":"email_taken","email":"a@b"}'
    failed = record(State.FAILED, cause=Cause.PROBLEM, answer=Answer(409, body, "application/problem+json"))
    assert ticket.monitor_of(failed)["error"] == {"code": "email_taken", "message": "Taken"}


@pytest.mark.parametrize("answer", [None, Answer(409, b""), Answer(409, b"<html>"), Answer(409, b"[]")])
def test_a_problem_that_cant_be_read_is_an_error_all_the_same(answer: Answer | None) -> None:
    error = ticket.monitor_of(record(State.FAILED, cause=Cause.PROBLEM, answer=answer))["error"]
    assert set(error) == {"code", "message"}
    assert error["code"]


# --- the status


def test_the_status_of_a_ticket() -> None:
    running = record(State.RUNNING, started_ms=CREATED_MS + 1, progress=Progress(0.5, "half", CREATED_MS + 2))
    status = ticket.status_of(running)
    assert (status.state, status.progress, status.note) == ("running", 0.5, "half")
    assert (status.attempt, status.generation) == (1, 1)
    assert status.updated_at == datetime.fromtimestamp((CREATED_MS + 2) / 1000, UTC)


# --- the result


def test_the_result_is_what_was_answered() -> None:
    answer = Answer(200, b'{"id":"7"}')
    assert ticket.result_of(record(State.SUCCEEDED, answer=answer)) is answer
    problem = problem_answer("handler_error")
    assert ticket.result_of(record(State.FAILED, answer=problem)) is problem


def test_where_nothing_comes_back() -> None:
    assert ticket.result_of(record(State.SUCCEEDED)) == Answer(204)


@pytest.mark.parametrize(
    ("state", "cause", "status", "code"),
    [
        (State.DEAD, Cause.WORKER_LOST, 500, "worker_lost"),
        (State.DEAD, Cause.HANDLER_ERROR, 500, "handler_error"),
        (State.DEAD, Cause.REJECTED, 422, "rejected"),
        (State.CANCELLED, Cause.CANCELLED, 409, "cancelled"),
        (State.EXPIRED, Cause.EXPIRED, 504, "expired"),
    ],
)
def test_the_result_of_what_ended_without_an_answer(state: State, cause: Cause, status: int, code: str) -> None:
    failure = Failure("KeyError", "no such colour" if cause is Cause.REJECTED else SECRET)
    answer = ticket.result_of(record(state, cause=cause, failures=[failure]))
    body = json.loads(answer.body)
    assert (answer.status, body["code"], body["operation"]) == (status, code, "accounts.register")
    assert body.get("detail") == ("no such colour" if cause is Cause.REJECTED else None)
    assert SECRET.encode() not in answer.body


def test_what_hasnt_ended_has_no_result() -> None:
    with pytest.raises(AssertionError):
        ticket.result_of(record(State.RUNNING))


# --- how soon to ask again


@pytest.mark.parametrize(
    ("age_s", "after_s"),
    [(-5, 1), (0, 1), (9, 1), (10, 1), (19, 1), (20, 2), (100, 10), (299, 29), (300, 30), (9999, 30)],
)
def test_how_soon_to_ask_again(age_s: int, after_s: int) -> None:
    assert ticket.retry_after_s(record(), CREATED_MS + age_s * 1000) == after_s


# --- the stream


def test_a_frame_of_the_stream() -> None:
    shown = record(State.RUNNING, started_ms=CREATED_MS, progress=Progress(0.5, "a\nb"))
    first, second, end, rest = ticket.frame(shown).split(b"\n")
    assert first == f"id: {ticket.event_id(shown)}".encode()
    assert json.loads(second.removeprefix(b"data: ")) == ticket.monitor_of(shown)
    assert (end, rest) == (b"", b"")


def test_what_a_stream_has_shown_changes_with_the_monitor() -> None:
    steps = [
        record(),
        record(State.RUNNING, started_ms=CREATED_MS),
        record(State.RUNNING, started_ms=CREATED_MS, progress=Progress(0.1, "", CREATED_MS + 1)),
        record(State.SCHEDULED, started_ms=CREATED_MS, attempts=1, progress=Progress(0.1, "", CREATED_MS + 2)),
        record(State.DEAD, started_ms=CREATED_MS, attempts=1, settled_ms=CREATED_MS + 3),
        record(State.READY, generation=2),
    ]
    assert len({ticket.event_id(step) for step in steps}) == len(steps)


@given(
    st.sampled_from(State),
    st.sampled_from(Cause),
    st.none() | st.builds(Answer, st.just(409), st.binary(max_size=20)),
    st.none() | st.builds(Progress, st.none() | st.floats(0, 1), st.text(max_size=10)),
    st.binary(max_size=20),
)
def test_every_row_can_be_shown(
    state: State, cause: Cause, answer: Answer | None, progress: Progress | None, headers: bytes
) -> None:
    row = record(state, cause=cause, answer=answer, progress=progress, headers=headers)
    monitor = json.loads(msgspec.json.encode(ticket.monitor_of(row)))
    assert monitor["status"] in ("NotStarted", "Running", "Succeeded", "Failed", "Canceled")
    assert ("error" in monitor) is (monitor["status"] == "Failed")
    assert ticket.frame(row).endswith(b"\n\n")
    assert ticket.status_of(row).state == monitor["state"]
    if state.terminal:
        assert 200 <= ticket.result_of(row).status < 600
