"""Problems: exception, dataclass and RFC 9457 body in one."""

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pydantic
import pytest

from ringpost import Problem, RingpostError, Secret, UsageError
from ringpost.contract.errors import InvalidRequest
from ringpost.contract.problem import RESERVED_MEMBERS, from_members, to_members


@dataclass
class Seat:
    row: int


class Model(pydantic.BaseModel):
    name: str


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class NoSeat(Problem):
    at: datetime
    seats: list[Seat] = field(default_factory=list)
    model: Model | None = None
    token: Secret[str] = ""


class NoSeatInRow(NoSeat, status=410, code="row_full"):
    row: int = 0


AT = datetime(2026, 1, 2, tzinfo=UTC)


def test_the_class_says_status_title_and_code() -> None:
    assert (EmailTaken.status, EmailTaken.code) == (409, "email_taken")
    assert EmailTaken.title == "This email is already registered"
    assert (NoSeat.status, NoSeat.title, NoSeat.code) == (422, "No seat", "no_seat")
    assert (NoSeatInRow.status, NoSeatInRow.title, NoSeatInRow.code) == (410, "No seat in row", "row_full")


def test_a_status_is_inherited() -> None:
    class AddressTaken(EmailTaken):
        street: str = ""

    assert AddressTaken.status == 409
    assert AddressTaken("a", street="b").email == "a"


def test_it_is_an_exception_that_says_what_happened() -> None:
    with pytest.raises(RingpostError) as caught:
        raise EmailTaken("ada@example.org", detail="Twice.")
    assert str(caught.value) == "This email is already registered: Twice. (email='ada@example.org')"
    assert repr(caught.value) == "EmailTaken(email='ada@example.org', detail='Twice.')"
    assert "EmailTaken: This email is already registered: Twice." in "".join(traceback.format_exception(caught.value))
    assert str(NoSeat(AT)).startswith("No seat (at=datetime")


def test_a_secret_is_never_shown() -> None:
    problem = NoSeat(AT, token="hunter2")
    assert "hunter2" not in str(problem) + repr(problem)
    assert "token=***" in repr(problem)


def test_equal_ones_are_equal() -> None:
    assert EmailTaken("a") == EmailTaken(email="a")
    assert EmailTaken("a") != EmailTaken("b")
    assert EmailTaken("a") != EmailTaken("a", detail="Twice.")
    assert NoSeat(AT) != NoSeatInRow(AT)
    assert EmailTaken("a") != "a"
    assert hash(EmailTaken("a")) == hash(EmailTaken("a"))
    assert hash(NoSeat(AT, seats=[Seat(1)]))


@pytest.mark.parametrize(
    "problem", [EmailTaken("a"), EmailTaken(email="a", detail="b"), NoSeatInRow(AT, [Seat(1)], row=3)]
)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_equal(problem: Problem, copied: Callable[[Problem], Problem]) -> None:
    problem = copy.deepcopy(problem)
    problem.add_note("kept")
    twin = copied(problem)
    assert twin == problem and twin is not problem
    assert twin.__notes__ == ["kept"]


def test_it_travels_as_problem_json_and_comes_back() -> None:
    problem = NoSeatInRow(AT, [Seat(4)], Model(name="x"), "t", row=3, detail="Full.")
    members = to_members(problem, "cinema")
    assert members == {
        "type": "urn:ringpost:problem:cinema.row_full",
        "title": "No seat in row",
        "status": 410,
        "code": "row_full",
        "detail": "Full.",
        "at": "2026-01-02T00:00:00Z",
        "seats": [{"row": 4}],
        "model": {"name": "x"},
        "token": "t",
        "row": 3,
    }
    assert from_members(NoSeatInRow, json.loads(json.dumps(members))) == problem
    assert "type" not in to_members(problem)
    assert "detail" not in to_members(EmailTaken("a"))


def test_defaults_fill_what_an_older_sender_left_out_and_more_is_ignored() -> None:
    problem = from_members(NoSeat, {"at": "2026-01-02T00:00:00Z", "new": 5, "detail": 7})
    assert problem == NoSeat(AT)


@pytest.mark.parametrize(
    ("members", "place"), [({}, "/email"), ({"email": 5}, "/email"), ({"email": None}, "/email")], ids=str
)
def test_members_that_do_not_fit_are_named(members: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_members(EmailTaken, members)
    assert caught.value.pointer == place


@pytest.mark.parametrize("value", [5, object(), None])
def test_a_wrong_value_does_not_travel(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="EmailTaken doesn't fit at /email"):
        to_members(EmailTaken(value))


@pytest.mark.parametrize("name", sorted(RESERVED_MEMBERS))
def test_names_of_the_body_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"can't have a field '{name}': the name belongs to the problem body"):
        type("Wrong", (Problem,), {"__annotations__": {name: str}})


@pytest.mark.parametrize("name", ["args", "with_traceback", "add_note", "_hidden", "__cause__"])
def test_names_of_exceptions_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Choose another"):
        type("Wrong", (Problem,), {"__annotations__": {name: str}})


@pytest.mark.parametrize("status", [200, 302, 399, 600, "409", True, 409.0])
def test_a_status_that_is_no_error_is_refused(status: Any) -> None:
    with pytest.raises(UsageError, match="an HTTP status from 400 to 599"):
        type("Wrong", (Problem,), {}, status=status)


def test_a_code_is_a_name() -> None:
    with pytest.raises(UsageError, match="The Problem Wrong can't be named 'Not-A-Name'"):
        type("Wrong", (Problem,), {}, code="Not-A-Name")


def test_a_check_of_its_own_is_respected() -> None:
    class Positive(Problem):
        left: int

        def __post_init__(self) -> None:
            if self.left < 0:
                raise ValueError("left is negative")

    with pytest.raises(InvalidRequest, match="left is negative"):
        from_members(Positive, {"left": -1})
