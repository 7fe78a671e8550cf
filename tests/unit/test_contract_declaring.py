"""Contracts, operations and events: names, options, and the mistakes that people make, each by its message."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from msgspec import Struct

from ringpost import Contract, Event, Operation, Problem, UsageError
from ringpost.contract.contract import (
    events_of,
    find_contract,
    find_event,
    find_operation,
    find_problem,
    name_of,
    operations_of,
)
from ringpost.contract.names import RESERVED_CONTRACTS, snake_case, suggestion
from ringpost.contract.problem import problem_type


@dataclass
class NewUser:
    email: str
    name: str = ""


@dataclass
class User:
    id: str


class Cat(Struct):
    name: str


class Dog(Struct):
    name: str


class EmailTaken(Problem, status=409):
    email: str


class OtherTaken(Problem, code="email_taken"):
    email: str


def declare(class_name: str = "Accounts", /, *, said: Any = None, **attributes: Any) -> type[Contract]:
    """Write a contract class whose attributes are these; `said` is what stands in the class line."""
    return type(class_name, (Contract,), attributes, **(said or {}))


def test_names_come_from_class_and_attribute() -> None:
    class UserAccounts(Contract):
        register = Operation(NewUser, User, raises=[EmailTaken], timeout=2)
        forget = Operation(User, name="forget_me")
        registered = Event(User)
        gone = Event(User, name="has_gone")
        NOTE = "what else stands in a contract is left alone"

    assert name_of(UserAccounts) == "user_accounts"
    assert UserAccounts.register.full_name == "user_accounts.register"
    assert UserAccounts.forget.name == "forget_me"
    assert UserAccounts.gone.full_name == "user_accounts.has_gone"
    assert list(operations_of(UserAccounts)) == ["register", "forget_me"]
    assert list(events_of(UserAccounts)) == ["registered", "has_gone"]
    assert find_contract("user_accounts") is UserAccounts
    assert find_operation("user_accounts.forget_me") is UserAccounts.forget
    assert find_operation("user_accounts.forget") is None
    assert find_operation("nobody.forget") is None
    assert find_event("user_accounts.registered") is UserAccounts.registered
    assert find_event("user_accounts.register") is None
    assert find_event("nobody.register") is None
    urn = "urn:ringpost:problem:user_accounts.email_taken"
    assert problem_type("user_accounts", EmailTaken) == urn
    assert find_problem(urn) is EmailTaken
    assert UserAccounts.register.problem_for(urn) is EmailTaken
    assert UserAccounts.forget.problem_for(urn) is None
    assert find_problem("urn:ringpost:problem:user_accounts.other") is None
    assert find_problem("user_accounts.email_taken") is None
    assert find_problem("about:blank") is None


def test_the_name_can_be_said() -> None:
    class Whatever(Contract, name="shop"):
        buy = Operation(User)

    assert Whatever.buy.full_name == "shop.buy"


def test_a_contract_has_no_attribute_of_its_own() -> None:
    assert [name for name in dir(Contract) if not name.startswith("__")] == []


def test_options_are_what_others_read() -> None:
    sunset = datetime(2027, 1, 1, tzinfo=UTC)
    operation = Operation(
        NewUser,
        User,
        raises=(EmailTaken,),
        doc="Sign in.",
        timeout=timedelta(seconds=2),
        ttl=60,
        priority="high",
        effect="idempotent",
        sunset=sunset,
        ordering_key=lambda new: new.email,
        idempotency_key=lambda new: new.name,
    )
    assert operation.raises == (EmailTaken,)
    assert (operation.timeout_s, operation.ttl_s, operation.priority) == (2.0, 60.0, "high")
    assert (operation.effect, operation.sunset, operation.doc) == ("idempotent", sunset, "Sign in.")
    assert operation.line_key(NewUser("a", "b")) == "a"
    assert operation.dedup_key(NewUser("a", "b")) == "b"
    plain = Operation(User)
    assert plain.reply.empty and not plain.request.empty
    assert (plain.timeout_s, plain.ttl_s, plain.priority, plain.effect, plain.sunset) == (None,) * 5
    assert plain.line_key(User("1")) is plain.dedup_key(User("1")) is None
    event = Event(User, keep=timedelta(minutes=1), doc="Somebody came.", ordering_key=lambda user: user.id)
    assert (event.keep_s, event.doc, event.line_key(User("7"))) == (60.0, "Somebody came.", "7")
    assert Event(User).line_key(User("7")) is None


def test_repr_says_what_goes_in_and_out() -> None:
    class Zoo(Contract):
        find = Operation(str, Cat | None)
        seen = Event(Cat)

    assert repr(Zoo.find) == "<Operation zoo.find: str -> Cat | None>"
    assert repr(Zoo.seen) == "<Event zoo.seen: Cat>"
    assert repr(Operation(None, list[int])) == "<Operation without contract: None -> list[int]>"
    assert repr(Zoo.find.reply) == "<Codec Cat | None>"


def bound() -> Any:
    return declare(register=Operation(NewUser, User), registered=Event(User))


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "calling an operation": (
        lambda: bound().register(NewUser("a")),
        "The operation accounts.register isn't called like a function: how it is reached is yours to say. "
        "await client.call(OPERATION, request) waits for the reply, await client.send(OPERATION, request) doesn't; "
        "in a handler it is ctx.call and ctx.send.",
    ),
    "calling an event": (
        lambda: bound().registered(User("1")),
        "The event accounts.registered can't be called. Tell it: await client.publish(EVENT, data).",
    ),
    "instantiating a contract": (
        lambda: bound()(),
        "A contract is used as a class and never instantiated: write Accounts, without parentheses, as in "
        "client.call(Accounts.register, …).",
    ),
    "instantiating with arguments": (lambda: bound()("http://localhost"), "never instantiated"),
    "a dict instead of a request": (
        lambda: bound().register.request.encode({"email": "a"}),
        "accounts.register takes a NewUser, not a dict. Write NewUser(email=…).",
    ),
    "a handler that returns a dict": (
        lambda: bound().register.reply.encode({"id": "1"}),
        "accounts.register replies with a User, not a dict. Write User(id=…).",
    ),
    "a handler that returns nothing": (
        lambda: bound().register.reply.encode(None),
        "accounts.register replies with a User, not None. Write User(id=…).",
    ),
    "an event's data as a dict": (
        lambda: bound().registered.data.encode({"id": "1"}),
        "accounts.registered carries a User, not a dict. Write User(id=…).",
    ),
    "a union of Structs without tag": (
        lambda: Operation(Cat | Dog),
        "The request's type is Cat | Dog: JSON doesn't tell these Structs apart. Tag each of them: "
        "class Cat(Struct, tag=True).",
    ),
    "the same in a reply": (lambda: Operation(User, list[Cat | Dog]), "The reply's type is list[Cat | Dog]"),
    "the same in an event": (lambda: Event(Cat | Dog), "The data's type is Cat | Dog"),
    "an operation outside a contract": (
        lambda: Operation(User).full_name,
        "This operation belongs to no contract: write it as an attribute of a class that inherits from Contract.",
    ),
    "an event outside a contract": (lambda: Event(User).name, "This event belongs to no contract"),
    "an operation in two places": (
        lambda: declare(sign_in=bound().register),
        "Accounts.sign_in is accounts.register already: an operation or event has one place and name.",
    ),
    "two of one name": (
        lambda: declare(a=Operation(User, name="b"), b=Event(User)),
        "Accounts.b is named 'b', and so is another of Accounts.",
    ),
    "a name that is none": (
        lambda: declare(RegisterUser=Operation(User)),
        "Accounts.RegisterUser can't be named 'RegisterUser': names are lower-case letters, digits and _, begin with a "
        "letter and have at most 41 characters. Say name='register_user', for example.",
    ),
    "a private name": (lambda: declare(_hidden=Operation(User)), "Say name='hidden', for example."),
    "a name too long": (lambda: declare(**cast(Any, {"a" * 42: Operation(User)})), "at most 41 characters"),
    "a name= that is no text": (lambda: declare(a=Operation(User, name=5)), "needs a str as its name, not int"),  # type: ignore[arg-type]
    "a contract's name that is none": (lambda: declare(said={"name": "Shop!"}), "Say name='shop', for example."),
    "a reserved name": (
        lambda: declare("Tickets"),
        "A contract can't be named 'tickets': the door has that path for itself. Say class Tickets(Contract, name=…).",
    ),
    "inheriting from a contract": (
        lambda: type("More", (bound(),), {}),
        "More must inherit from Contract alone: an operation belongs to one contract.",
    ),
    "the class instead of a value": (
        lambda: declare(register=Operation),
        "Accounts.register is the class Operation: write Operation(…).",
    ),
    "a type without a value": (
        lambda: declare(__annotations__={"register": "Operation[NewUser, User]"}),
        "Accounts.register has a type and no value",
    ),
    "two problems of one code": (
        lambda: declare(a=Operation(User, raises=[EmailTaken]), b=Operation(User, raises=[OtherTaken])),
        "Accounts.b raises OtherTaken, whose code 'email_taken' is EmailTaken's in this contract: the caller couldn't "
        "tell them apart. Give one of them another code=.",
    ),
    "the same in one operation": (lambda: Operation(User, raises=[EmailTaken, OtherTaken]), "have one code"),
    "raises without a list": (lambda: Operation(User, raises=EmailTaken), "raises takes a list: raises=[EmailTaken]."),  # type: ignore[arg-type]
    "raises a value": (lambda: Operation(User, raises=[EmailTaken("a")]), "EmailTaken, without calling it"),  # type: ignore[list-item]
    "raises any exception": (
        lambda: Operation(User, raises=[ValueError]),  # type: ignore[list-item]
        "raises takes Problem classes, and ValueError is none: class ValueError(Problem): …",
    ),
    "raises Problem itself": (lambda: Operation(User, raises=[Problem]), "classes of your own"),
    "raises a text": (lambda: Operation(User, raises="EmailTaken"), "list of Problem classes, not str"),  # type: ignore[arg-type]
    "an option misspelt": (
        lambda: Operation(User, timout=2),  # type: ignore[call-arg]
        "Operation has no option 'timout'. Did you mean timeout?",
    ),
    "an option of elsewhere": (
        lambda: Operation(User, concurrency=2),  # type: ignore[call-arg]
        "Operation has no option 'concurrency'. It has raises, ordering_key, idempotency_key, name, doc, timeout, ttl, "
        "priority, effect and sunset.",
    ),
    "errors for raises": (lambda: Operation(User, errors=[EmailTaken]), "Did you mean raises?"),  # type: ignore[call-arg]
    "types by keyword": (
        lambda: Operation(NewUser, reply=User),  # type: ignore[call-arg]
        "Operation takes request and reply by position: Operation(NewUser, User), not reply=….",
    ),
    "a timeout that is no length": (
        lambda: Operation(User, timeout="2"),  # type: ignore[arg-type]
        "timeout takes seconds or a timedelta, not str",
    ),
    "a timeout of nothing": (lambda: Operation(User, timeout=0), "timeout must be more than 0 seconds."),
    "a timeout without end": (lambda: Operation(User, timeout=float("inf")), "timeout must be a finite number"),
    "a ttl before now": (lambda: Operation(User, ttl=timedelta(seconds=-1)), "ttl must be a finite number of seconds"),
    "a priority that is none": (
        lambda: Operation(User, priority="urgent"),  # type: ignore[arg-type]
        "priority is 'high' or 'normal' or 'low', not 'urgent'.",
    ),
    "an effect that is none": (lambda: Operation(User, effect="write"), "effect is 'read' or 'idempotent'"),  # type: ignore[arg-type]
    "a sunset anywhere": (
        lambda: Operation(User, sunset=datetime(2027, 1, 1)),
        "sunset is a datetime with a time zone",
    ),
    "doc that is no text": (lambda: Operation(User, doc=5), "doc is a str, not int"),  # type: ignore[arg-type]
    "a key that is no function": (
        lambda: Operation(User, ordering_key="id"),  # type: ignore[arg-type]
        "ordering_key is a function of the request: ordering_key=lambda request: request.id.",
    ),
    "a key that is a number": (
        lambda: declare(a=(one := Operation(User, ordering_key=lambda user: 5))) and one.line_key(User("1")),  # type: ignore[arg-type,return-value]
        "The ordering_key of accounts.a gave int 5: it must give a str.",
    ),
    "a key of nothing": (lambda: Operation(User, idempotency_key=lambda user: "").dedup_key(User("1")), "an empty str"),
    "what is no contract": (lambda: name_of(User), "A contract is a class that inherits from Contract, and User isn't"),  # type: ignore[arg-type]
    "Contract itself": (lambda: operations_of(Contract), "and Contract isn't one"),
    "a value for a contract": (lambda: name_of("accounts"), "and a str isn't one"),  # type: ignore[arg-type]
    "instantiating Contract": (lambda: Contract(), "write Contract, without parentheses"),
}


@pytest.mark.parametrize(("mistake", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_at_once(mistake: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        mistake()
    assert said in str(caught.value)


@pytest.mark.parametrize("name", sorted(RESERVED_CONTRACTS))
def test_the_paths_of_the_door_are_no_contracts(name: str) -> None:
    with pytest.raises(UsageError):
        declare(said={"name": name})


@pytest.mark.parametrize(
    ("given", "wire"),
    [
        ("Accounts", "accounts"),
        ("UserAccounts", "user_accounts"),
        ("HTTPFetch", "http_fetch"),
        ("OAuth2Tokens", "o_auth2_tokens"),
        ("already_snake", "already_snake"),
    ],
)
def test_snake_case(given: str, wire: str) -> None:
    assert snake_case(given) == wire


@pytest.mark.parametrize(
    ("given", "near"), [("Föö-Bar", "f_bar"), ("9lives", "lives"), ("!!!", "orders"), ("A" * 60, "a" * 41)]
)
def test_a_suggested_name_is_allowed(given: str, near: str) -> None:
    assert suggestion(given) == near


def test_other_attributes_are_missing_in_the_usual_way() -> None:
    operation: Any = Operation(User)
    with pytest.raises(AttributeError, match="'Operation' has no attribute 'nonsense'"):
        _ = operation.nonsense
    assert not hasattr(Event(User), "nonsense")


def test_the_latest_of_a_name_is_found() -> None:
    first, second = declare("Twice", a=Operation(User)), declare("Twice", a=Operation(User))
    assert find_contract("twice") is second
    assert name_of(first) == "twice"
