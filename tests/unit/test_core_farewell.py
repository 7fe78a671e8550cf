"""Farewells: who is told of an end, what, and that nothing about a message can keep them from being told."""

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.contract.codec import Codec
from ringpost.contract.contract import Contract
from ringpost.contract.errors import OperationFailed
from ringpost.contract.operation import Operation
from ringpost.contract.outcome import DeadLetter, Outcome
from ringpost.contract.problem import Problem
from ringpost.core import ids
from ringpost.core.farewell import letters
from ringpost.core.message import Answer, Cause, Ended, Envelope, Failure, Message, State
from ringpost.core.outcome import declared_answer

ID = ids.uuid7(1_700_000_000_000, 42)
NOW_MS = 1_700_000_100_000
REPLIES, FAILURES = "farewell_shop.told", "farewell_shop.on_failure"
ENDS = [state for state in State if state.terminal]


@dataclass
class NewUser:
    email: str


@dataclass
class User:
    id: str


class FarewellTaken(Problem, status=409):
    email: str


class FarewellShop(Contract):
    register = Operation(NewUser, User, raises=[FarewellTaken])
    told = Operation(Outcome[NewUser, User])


def ended(
    state: State = State.SUCCEEDED,
    *,
    body: bytes = b'{"email":"a@b"}',
    answer: Answer | None = None,
    cause: Cause = Cause.NONE,
    envelope: Envelope | bytes | None = None,
    generation: int = 1,
    failure_queue: str = FAILURES,
    queue: str = "farewell_shop.register",
    failures: list[Failure] | None = None,
) -> Ended:
    if envelope is None:
        envelope = Envelope(operation="farewell_shop.register", reply_to=REPLIES)
    headers = envelope if isinstance(envelope, bytes) else msgspec.json.encode(envelope)
    return Ended(ID, queue, state, cause, 3, generation, headers, body, answer, failures or [], failure_queue)


def outcome_of(gone: Ended) -> Outcome[NewUser, User]:
    """Read the letter to reply_to as its receiver does."""
    (message,) = [letter for letter in letters(gone, NOW_MS) if letter.queue == REPLIES]
    codec: Codec[Outcome[NewUser, User]] = Codec(Outcome[NewUser, User])
    return codec.decode(message.body)


def envelope_of(message: Message) -> Envelope:
    return msgspec.json.decode(message.headers, type=Envelope)


# --- who


@pytest.mark.parametrize("state", ENDS)
def test_reply_to_hears_of_every_end(state: State) -> None:
    assert [letter.queue for letter in letters(ended(state, failure_queue=""), NOW_MS)] == [REPLIES]


@pytest.mark.parametrize("state", ENDS)
def test_on_failure_hears_of_what_is_dead_or_expired(state: State) -> None:
    told = letters(ended(state, envelope=Envelope()), NOW_MS)
    assert [letter.queue for letter in told] == ([FAILURES] if state in (State.DEAD, State.EXPIRED) else [])


def test_without_anybody_who_waits_nobody_is_told() -> None:
    for state in ENDS:
        assert letters(ended(state, envelope=Envelope(), failure_queue=""), NOW_MS) == []


def test_the_death_of_a_farewell_isnt_told_to_itself() -> None:
    assert letters(ended(State.DEAD, envelope=Envelope(), queue=FAILURES), NOW_MS) == []


# --- what


def test_a_reply_comes_back_with_its_request() -> None:
    outcome = outcome_of(ended(answer=Answer(200, b'{"id":"7"}')))
    assert outcome.result() == User("7")
    assert outcome.error is None
    assert outcome.request == NewUser("a@b")
    assert (outcome.operation, outcome.message_id) == ("farewell_shop.register", ids.text(ID))
    assert (outcome.state, outcome.generation) == ("succeeded", 1)


def test_where_nothing_comes_back_there_is_no_reply() -> None:
    for answer in (None, Answer(204)):
        (letter,) = letters(ended(answer=answer, failure_queue=""), NOW_MS)
        codec: Codec[Outcome[NewUser, None]] = Codec(Outcome[NewUser, None])
        assert codec.decode(letter.body).result() is None


def test_a_reply_of_null_is_a_reply() -> None:
    (letter,) = letters(ended(answer=Answer(200, b"null"), failure_queue=""), NOW_MS)
    assert "reply" in json.loads(letter.body)
    codec: Codec[Outcome[NewUser, User | None]] = Codec(Outcome[NewUser, User | None])
    assert codec.decode(letter.body).result() is None


def test_a_declared_problem_comes_back_as_its_class() -> None:
    answer = declared_answer(FarewellTaken("a@b"), "farewell_shop")
    error = outcome_of(ended(State.FAILED, answer=answer, cause=Cause.PROBLEM)).error
    assert error == FarewellTaken("a@b")


@pytest.mark.parametrize(
    ("state", "cause", "word", "shown"),
    [
        (State.DEAD, Cause.HANDLER_ERROR, "handler_error", "failed"),
        (State.DEAD, Cause.WORKER_LOST, "worker_lost", "failed"),
        (State.DEAD, Cause.REJECTED, "rejected", "failed"),
        (State.CANCELLED, Cause.CANCELLED, "cancelled", "cancelled"),
        (State.EXPIRED, Cause.EXPIRED, "expired", "expired"),
        (State.EXPIRED, Cause.NONE, "expired", "expired"),
    ],
)
def test_an_end_without_an_answer_is_operation_failed(state: State, cause: Cause, word: str, shown: str) -> None:
    error = outcome_of(ended(state, cause=cause)).error
    assert isinstance(error, OperationFailed)
    assert (error.cause, error.state, error.message_id) == (word, shown, ids.text(ID))


def test_a_dead_letter_says_what_was_tried() -> None:
    gone = ended(
        State.DEAD,
        cause=Cause.HANDLER_ERROR,
        envelope=Envelope(),
        failures=[Failure("KeyError", str(n)) for n in range(9)],
    )
    (letter,) = letters(gone, NOW_MS)
    codec: Codec[DeadLetter] = Codec(DeadLetter)
    dead = codec.decode(letter.body)
    assert (dead.operation, dead.message_id) == (gone.queue, ids.text(ID))
    assert (dead.cause, dead.attempts) == ("handler_error", 3)
    assert dead.errors == [f"KeyError: {n}" for n in range(4, 9)]


# --- as which message


def test_a_repetition_is_the_same_message() -> None:
    first, again = (letters(ended(State.DEAD), NOW_MS + later) for later in (0, 5000))
    assert [letter.id for letter in first] == [letter.id for letter in again]
    assert [letter.body for letter in first] == [letter.body for letter in again]
    assert len({letter.id for letter in first} | {ID}) == 3


def test_another_generation_is_told_anew() -> None:
    first, second = (letters(ended(generation=generation), NOW_MS)[0] for generation in (1, 2))
    assert first.id != second.id
    assert json.loads(second.body)["generation"] == 2


def test_a_letter_keeps_the_thread() -> None:
    envelope = Envelope(
        reply_to=REPLIES, correlation_id="c", trace="t", tracestate="s", hops=4, headers={"secret": "x"}
    )
    (letter,) = letters(ended(envelope=envelope), NOW_MS)
    sent = envelope_of(letter)
    assert (sent.operation, sent.reply_to) == (REPLIES, ""), "nobody is told of a telling"
    assert (sent.causation_id, sent.correlation_id) == (ids.text(ID), "c")
    assert (sent.trace, sent.tracestate, sent.hops, sent.headers) == ("t", "s", 5, {})
    assert envelope_of(letters(ended(), NOW_MS)[0]).correlation_id == ids.text(ID)


# --- whatever is in it


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"not json", b'{"a":', b'"\xff"', b"[" * 100_000, b"[" * 64 + b"]" * 64, b'{"a":1}{"b":2}'],
)
def test_a_body_that_cant_be_read_is_null(body: bytes) -> None:
    gone = ended(State.DEAD, body=body, cause=Cause.UNDECODABLE)
    for letter in letters(gone, NOW_MS):
        assert json.loads(letter.body).get("request") is None


def test_a_body_as_deep_as_may_be_is_there() -> None:
    deep = b"[" * 63 + b"]" * 63
    (letter,) = letters(ended(body=deep, failure_queue=""), NOW_MS)
    assert json.loads(letter.body)["request"] == json.loads(deep)
    codec: Codec[Outcome[Any, Any]] = Codec(Outcome[Any, Any])
    assert codec.decode(letter.body).request == json.loads(deep)


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"[]", b'"x"'])
def test_an_answer_that_is_no_problem_is_told_as_a_failure(body: bytes) -> None:
    error = outcome_of(ended(State.FAILED, answer=Answer(500, body), cause=Cause.PROBLEM)).error
    assert isinstance(error, OperationFailed)
    assert error.cause == "handler_error"


@given(st.sampled_from(ENDS), st.binary(max_size=50), st.binary(max_size=50), st.none() | st.binary(max_size=50))
def test_nothing_keeps_a_farewell_from_being_written(
    state: State, body: bytes, headers: bytes, reply: bytes | None
) -> None:
    answer = None if reply is None else Answer(200, reply)
    for gone in (ended(state, body=body, answer=answer), ended(state, body=body, answer=answer, envelope=headers)):
        for letter in letters(gone, NOW_MS):
            assert json.loads(letter.body)["message_id"] == ids.text(ID)


@pytest.mark.parametrize(("cause", "told"), [(Cause.REJECTED, True), (Cause.HANDLER_ERROR, False)])
def test_the_reason_of_a_rejection_is_told_and_no_other_errors_text(cause: Cause, told: bool) -> None:
    gone = ended(
        State.DEAD, cause=cause, envelope=Envelope(reply_to=REPLIES), failures=[Failure("Reject", "not by mail")]
    )
    (letter,) = [letter for letter in letters(gone, NOW_MS) if letter.queue == REPLIES]
    assert (b"not by mail" in letter.body) is told
