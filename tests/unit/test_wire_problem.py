"""Problems on the wire: what is raised on one side is raised on the other, and nothing internal goes out."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.contract.contract import Contract
from ringpost.contract.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LeaseLost,
    NotHere,
    NotYet,
    OperationFailed,
    Overloaded,
    Reject,
    RetryLater,
    RingpostError,
    StateError,
    StoreError,
    TicketExpired,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import PROBLEM_URN, Problem
from ringpost.core.message import Answer, Cause, State
from ringpost.core.outcome import PROBLEMS, problem_answer, problem_of_end
from ringpost.wire.headers import BadHeader
from ringpost.wire.problem import answer_of, error_of, response_of

SECRET = "password=hunter2"
LATIN_1 = "".join(map(chr, range(256)))  # what headers are read as


class WireTaken(Problem, status=409, title="This email is already registered"):
    email: str


class WireNarrow(WireTaken, code="wire_narrow"):
    shop: str = ""


class WireElsewhere(Problem, status=404):
    pass


class WireShop(Contract):
    register = Operation(str, str, raises=[WireTaken, WireNarrow])
    remove = Operation(str)
    registered = Event(str)


def headers_of(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in response_of(answer).headers}


def there_and_back(error: BaseException, operation: Operation[Any, Any] = WireShop.register) -> RingpostError:
    answer = answer_of(error, operation)
    return error_of(answer.status, answer.body, headers_of(answer), operation)


def told(code: str, status: int | None = None, **members: object) -> bytes:
    answer = problem_answer(code, "what happened", status=status, members=members)
    return answer.body


@pytest.mark.parametrize(("said", "path"), [(["a.b", 7, "c.d"], ("a.b", "c.d")), ("a.b", ()), (None, ())])
def test_a_circle_names_the_path_as_far_as_it_is_one(said: object, path: tuple[str, ...]) -> None:
    error = error_of(508, told("loop_detected", path=said), {}, WireShop.register)
    assert isinstance(error, OperationFailed)
    assert (error.cause, error.path) == ("loop_detected", path)


# --- there and back


@pytest.mark.parametrize("problem", [WireTaken("a@b"), WireTaken("a@b", detail="again"), WireNarrow("a@b", "north")])
def test_a_declared_problem_comes_back_as_its_class(problem: Problem) -> None:
    back = there_and_back(problem)
    assert back == problem
    assert type(back) is type(problem)


@pytest.mark.parametrize(
    ("error", "kind", "processed"),
    [
        (Unavailable("gone", processed="no", retry_after=3.0), Unavailable, "no"),
        (Unavailable("gone", processed="maybe"), Unavailable, "maybe"),
        (Overloaded("full", retry_after=2.0), Overloaded, "no"),
        (DeadlineExceeded("late", processed="no"), DeadlineExceeded, "no"),
        (DeadlineExceeded("late"), DeadlineExceeded, "maybe"),
        (TransportError("cut"), Unavailable, "maybe"),
        (StoreError("the disk is full"), Unavailable, "maybe"),
    ],
)
def test_what_was_processed_is_said(error: TransportError, kind: type[TransportError], processed: str) -> None:
    back = there_and_back(error)
    assert type(back) is kind
    assert isinstance(back, TransportError)
    assert back.processed == processed


def test_how_long_to_wait_is_said() -> None:
    for after_s, back_s in ((2.0, 2.0), (0.2, 1.0), (2.5, 3.0)):
        for error in (Unavailable("x", retry_after=after_s), Overloaded("x", retry_after=after_s)):
            back = there_and_back(error)
            assert isinstance(back, Unavailable | Overloaded)
            assert back.retry_after == back_s


def test_a_wrong_request_comes_back_with_its_field() -> None:
    back = there_and_back(InvalidRequest("it doesn't fit", pointer="/email", detail="a str is missing"))
    assert isinstance(back, InvalidRequest)
    assert (back.pointer, back.detail) == ("/email", "a str is missing")


def test_a_header_is_named() -> None:
    answer = answer_of(BadHeader("Prefer", "wait=x", "wait takes a number"))
    assert (answer.status, answer.processed) == (400, False)
    assert json.loads(answer.body)["errors"] == [{"header": "Prefer", "detail": "wait takes a number"}]


def test_a_rejected_request_is_a_failure_with_its_reason() -> None:
    back = there_and_back(Reject("too young"))
    assert isinstance(back, OperationFailed)
    assert (back.cause, back.state) == ("rejected", "failed")
    assert "too young" in str(back)


@pytest.mark.parametrize(
    "error",
    [
        KeyError(SECRET),
        RuntimeError(SECRET),
        UsageError(SECRET),
        OperationFailed(SECRET),
        LeaseLost(SECRET),
        StoreError(SECRET),
        RetryLater(5),
        WireElsewhere(detail=SECRET),
        WireTaken(SECRET),
    ],
)
def test_nothing_internal_goes_out(error: BaseException) -> None:
    answer = answer_of(error, WireShop.remove)
    assert answer.status in (500, 503)
    assert SECRET.encode() not in answer.body
    assert answer.processed


def test_an_undeclared_problem_is_no_answer() -> None:
    back = there_and_back(WireElsewhere())
    assert isinstance(back, OperationFailed)
    assert back.cause == "handler_error"


# --- from what was answered


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid", InvalidRequest),
        ("not_found", Unavailable),
        ("method_not_allowed", Unavailable),
        ("in_flight", Unavailable),
        ("cancelled", OperationFailed),
        ("too_late", StateError),
        ("not_yet", NotYet),
        ("never", StateError),
        ("not_here", NotHere),
        ("gone", TicketExpired),
        ("too_large", UsageError),
        ("unsupported_media_type", UsageError),
        ("wrong_store", Unavailable),
        ("wrong_instance", Unavailable),
        ("key_reused", UsageError),
        ("mismatch", UsageError),
        ("rejected", OperationFailed),
        ("handler_error", OperationFailed),
        ("worker_lost", OperationFailed),
        ("undecodable", OperationFailed),
        ("too_old", OperationFailed),
        ("checksum", OperationFailed),
        ("too_far", OperationFailed),
        ("outcome_unknown", OperationFailed),
        ("unavailable", Unavailable),
        ("maintenance", Unavailable),
        ("overloaded", Overloaded),
        ("queue_full", Overloaded),
        ("deadline_exceeded", DeadlineExceeded),
        ("expired", OperationFailed),
        ("store_full", StoreError),
        ("loop_detected", OperationFailed),
    ],
)
def test_problems_of_ours(code: str, kind: type[RingpostError]) -> None:
    error = error_of(PROBLEMS[code].status, told(code), {}, WireShop.register)
    assert type(error) is kind
    assert "what happened" in str(error)
    assert "wire_shop.register" in str(error)


def test_what_a_call_comes_after_is_named_and_nonsense_names_nothing() -> None:
    def states(messages: object) -> object:
        error = error_of(
            409, msgspec.json.encode({"type": PROBLEM_URN + "not_yet", "messages": messages}), {}, WireShop.register
        )
        assert isinstance(error, NotYet) and error.processed == "no"
        return error.states

    assert states([{"id": "a", "state": "running"}, {"id": "b", "state": "unknown"}]) == {
        "a": "running",
        "b": "unknown",
    }
    assert states("nonsense") == states([5, "x"]) == states(None) == {}


def test_every_problem_of_ours_is_tested() -> None:
    marks = test_problems_of_ours.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(PROBLEMS)


@pytest.mark.parametrize(
    ("state", "cause", "word", "shown"),
    [
        (State.DEAD, Cause.WORKER_LOST, "worker_lost", "failed"),
        (State.DEAD, Cause.REJECTED, "rejected", "failed"),
        (State.CANCELLED, Cause.CANCELLED, "cancelled", "cancelled"),
        (State.EXPIRED, Cause.EXPIRED, "expired", "expired"),
    ],
)
def test_how_a_message_ended(state: State, cause: Cause, word: str, shown: str) -> None:
    answer = problem_of_end(state, cause)
    error = error_of(answer.status, answer.body, {}, WireShop.register)
    assert isinstance(error, OperationFailed)
    assert (error.cause, error.state) == (word, shown)


@pytest.mark.parametrize(
    ("status", "kind", "processed"),
    [
        (400, OperationFailed, None),
        (401, OperationFailed, None),
        (403, OperationFailed, None),
        (404, Unavailable, "maybe"),
        (408, DeadlineExceeded, "maybe"),
        (413, UsageError, None),
        (418, OperationFailed, None),
        (421, Unavailable, "no"),
        (429, Overloaded, "maybe"),
        (500, OperationFailed, None),
        (502, Unavailable, "maybe"),
        (503, Unavailable, "maybe"),
        (504, DeadlineExceeded, "maybe"),
        (599, OperationFailed, None),
        (200, TransportError, "maybe"),
        (302, TransportError, "maybe"),
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"[1]", b'{"type":7,"code":[],"detail":{}}', b"\xff"]
)
def test_what_somebody_else_answered(
    status: int, kind: type[RingpostError], processed: str | None, body: bytes
) -> None:
    error = error_of(status, body, {}, WireShop.register)
    assert type(error) is kind
    assert getattr(error, "processed", None) == processed
    assert str(status) in str(error) or body.startswith(b"{")


def test_a_problem_of_another_contract_is_told_by_its_code() -> None:
    body = json.dumps({"type": "urn:ringpost:problem:mail.bounced", "status": 404, "code": "bounced", "title": "B"})
    error = error_of(404, body.encode(), {}, WireShop.register)
    assert isinstance(error, OperationFailed)
    assert error.cause == "bounced"


def test_a_problem_of_another_version_is_told_by_its_code() -> None:
    body = json.dumps({"type": "urn:ringpost:problem:wire_shop.wire_taken", "status": 409, "code": "wire_taken"})
    error = error_of(409, body.encode(), {}, WireShop.register)
    assert isinstance(error, OperationFailed)
    assert error.cause == "wire_taken"


def test_a_word_of_ours_counts_only_under_our_type() -> None:
    body = json.dumps({"type": "https://example.com/problems", "code": "not_found", "status": 500}).encode()
    error = error_of(500, body, {}, WireShop.register)
    assert isinstance(error, OperationFailed)


def test_an_answer_to_an_event_is_read_alike() -> None:
    assert type(error_of(503, told("overloaded"), {"retry-after": "4"}, WireShop.registered)) is Overloaded


@given(
    st.integers(100, 599),
    st.binary(max_size=30)
    | st.dictionaries(
        st.sampled_from(["type", "code", "errors", "detail", "title", "id"]),
        st.sampled_from(
            ["urn:ringpost:problem:invalid", "urn:ringpost:problem:wire_shop.wire_taken", "x", 7, None, [], [7], [{}]]
        ),
    ).map(msgspec.json.encode),
    st.dictionaries(st.sampled_from(["retry-after", "ringpost-processed"]), st.text(LATIN_1, max_size=8)),
)
def test_whatever_was_answered_is_an_error_of_ours(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = error_of(status, body, headers, WireShop.register)
    assert isinstance(error, RingpostError)
    assert str(error)


# --- as a response


@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        (Answer(200, b"1"), ()),
        (Answer(503, b"{}", retry_after_s=2.2), (("Retry-After", "3"),)),
        (Answer(400, b"{}", processed=False), (("Ringpost-Processed", "no"),)),
        (Answer(503, b"{}", "x/y", 1.0, False), (("Retry-After", "1"), ("Ringpost-Processed", "no"))),
    ],
)
def test_an_answer_as_a_response(answer: Answer, headers: tuple[tuple[str, str], ...]) -> None:
    response = response_of(answer, (("Vary", "Prefer"),))
    assert (response.status, response.body, response.content_type) == (answer.status, answer.body, answer.content_type)
    assert response.headers == (("Vary", "Prefer"), *headers)
