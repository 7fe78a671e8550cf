"""Outcomes: what travels to reply_to, and what comes out of it again."""

import json
from dataclasses import dataclass

import msgspec
import pytest

from ringpost import (
    Contract,
    DeadLetter,
    Operation,
    OperationFailed,
    Outcome,
    Problem,
    RingpostError,
    Unavailable,
)
from ringpost.contract.codec import Codec
from ringpost.contract.errors import InvalidRequest


@dataclass
class NewUser:
    email: str


@dataclass
class User:
    id: str


class EmailTaken(Problem, status=409):
    email: str


class People(Contract):
    register = Operation(NewUser, User, raises=[EmailTaken])
    find = Operation(NewUser, User | None)
    forget = Operation(None)
    done = Operation(Outcome[NewUser, User])
    forgotten = Operation(Outcome[None, None])
    found = Operation(Outcome[NewUser, User | None])


NEW = NewUser("ada@example.org")


def test_a_reply_travels() -> None:
    outcome = Outcome.of_reply(People.register, "m1", NEW, User("1"))
    assert (outcome.result(), outcome.error) == (User("1"), None)
    body = People.done.request.encode(outcome)
    assert json.loads(body) == {
        "operation": "people.register",
        "message_id": "m1",
        "request": {"email": "ada@example.org"},
        "generation": 1,
        "state": "succeeded",
        "reply": {"id": "1"},
    }
    back = People.done.request.decode(body)
    assert (back.request, back.result(), back.error) == (NEW, User("1"), None)


def test_a_declared_problem_comes_back_as_its_class() -> None:
    body = People.done.request.encode(Outcome.of_error(People.register, "m1", NEW, EmailTaken("a", detail="b")))
    assert json.loads(body)["problem"]["type"] == "urn:ringpost:problem:people.email_taken"
    back = People.done.request.decode(body)
    assert back.error == EmailTaken("a", detail="b")
    assert back.error is back.error
    with pytest.raises(EmailTaken):
        back.result()
    match back.error:
        case EmailTaken(email=email):
            assert email == "a"
        case _:
            pytest.fail("the class is lost")


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
def test_an_end_without_problem_is_operation_failed(state: str) -> None:
    wire = {
        "operation": "people.register",
        "message_id": "m1",
        "request": {"email": "a"},
        "generation": 2,
        "state": state,
    }
    outcome = People.done.request.decode(msgspec.json.encode(wire))
    error = outcome.error
    assert isinstance(error, OperationFailed)
    assert (error.message_id, error.state, error.cause) == ("m1", state, state)
    assert outcome.generation == 2
    with pytest.raises(OperationFailed, match=r"people\.register"):
        outcome.result()


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        (
            {"type": "urn:ringpost:problem:worker_lost", "code": "worker_lost", "title": "Lost", "status": 500},
            "worker_lost",
        ),
        ({"type": "urn:ringpost:problem:people.email_taken", "code": "email_taken"}, "email_taken"),
        ({"type": "urn:ringpost:problem:elsewhere.gone", "code": "gone", "detail": "It is gone."}, "gone"),
        ({"type": "about:blank"}, "failed"),
        ({}, "failed"),
    ],
)
def test_a_problem_that_is_not_known_here_is_operation_failed(problem: dict[str, object], cause: str) -> None:
    wire = {"operation": "people.register", "message_id": "m1", "request": {"email": "a"}, "state": "failed"}
    error = People.done.request.decode(msgspec.json.encode(wire | {"problem": problem})).error
    assert isinstance(error, OperationFailed)
    assert error.cause == cause


@pytest.mark.parametrize(
    "error", [Unavailable("Nobody."), InvalidRequest("Wrong."), OperationFailed("Gone.", cause="rejected")]
)
def test_an_error_of_call_each_is_itself_here_and_a_failure_elsewhere(error: RingpostError) -> None:
    outcome = Outcome.of_error(People.register, "", NEW, error)
    assert outcome.error is error
    with pytest.raises(type(error)):
        outcome.result()
    back = People.done.request.decode(People.done.request.encode(outcome)).error
    assert isinstance(back, OperationFailed)
    assert str(error) in str(back)


def test_nothing_and_perhaps_something() -> None:
    nothing = Outcome.of_reply(People.forget, "m", None, None)
    assert People.forgotten.request.decode(People.forgotten.request.encode(nothing)).result() is None
    absent = b'{"operation":"people.forget","message_id":"m","request":null,"state":"succeeded"}'
    assert People.forgotten.request.decode(absent).result() is None
    for user in (None, User("1")):
        found = Outcome.of_reply(People.find, "m", NEW, user)
        assert People.found.request.decode(People.found.request.encode(found)).result() == user


def test_a_wrong_request_inside_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        People.done.request.decode(b'{"operation":"a.b","message_id":"m","request":{"email":5}}')
    assert caught.value.pointer == "/request/email"


def test_dead_letters_travel() -> None:
    letter = DeadLetter("people.register", "m1", "handler_error", 20, ["ValueError: no"])
    codec = Codec(DeadLetter)
    assert codec.decode(codec.encode(letter)) == letter
