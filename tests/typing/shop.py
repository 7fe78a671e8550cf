"""The contracts that the other files of this folder use; itself a right use of declaring."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, assert_type

from msgspec import Struct

from ringpost import Contract, Event, Operation, Outcome, Problem, Secret


@dataclass
class NewUser:
    email: str
    name: str
    password: Secret[str] = ""


@dataclass
class User:
    id: str
    email: str


class Circle(Struct, tag=True):
    radius: float


class Square(Struct, tag=True):
    side: float


class Filter(TypedDict):
    text: str


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class OutOfStock(Problem):
    left: int = 0


class Accounts(Contract):
    register = Operation(NewUser, User, raises=[EmailTaken], timeout=2)
    find = Operation(Filter, User | None, effect="read", timeout=timedelta(seconds=1))
    area = Operation(Circle | Square, float)
    names = Operation(list[str], dict[str, int])
    anything = Operation(dict[str, Any], list[Any])
    ping = Operation(None, int)
    welcome = Operation(User, ordering_key=lambda user: user.id, idempotency_key=lambda user: user.email)
    registered = Event(User, keep=60, ordering_key=lambda user: user.id)
    registered_outcome = Operation(Outcome[NewUser, User])


assert_type(Accounts.register, Operation[NewUser, User])
assert_type(Accounts.find, Operation[Filter, User | None])
assert_type(Accounts.area, Operation[Circle | Square, float])
assert_type(Accounts.names, Operation[list[str], dict[str, int]])
assert_type(Accounts.ping, Operation[None, int])
assert_type(Accounts.welcome, Operation[User, None])
assert_type(Accounts.registered, Event[User])
assert_type(Accounts.registered_outcome, Operation[Outcome[NewUser, User], None])
assert_type(EmailTaken("ada@example.org").email, str)
assert_type(EmailTaken(email="ada@example.org", detail="Twice.").detail, str)
assert_type(OutOfStock().left, int)
assert_type(EmailTaken.status, int)
