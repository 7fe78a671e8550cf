"""Codecs: every kind of type there and back, and every error at its field."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import attrs
import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from ringpost.contract.codec import Codec
from ringpost.contract.depth import too_deep
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.contract.vocabulary import Secret

Item = TypeVar("Item")
UserId = NewType("UserId", int)


def shown(value: object) -> str:
    """Name a test's parameter the same in every process."""
    return re.sub(r" at 0x\w+", "", str(value))


class Colour(Enum):
    RED = "red"


@dataclass
class Address:
    street: str
    number: int = 1


@dataclass
class NewUser:
    email: str
    name: str = "?"
    address: Address | None = None
    more: list[Address] = field(default_factory=list)
    by_name: dict[str, Address] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)


class Order(Struct):
    id: UUID
    at: datetime
    parts: dict[str, list[Address]] = {}


class Page(Struct, Generic[Item]):
    items: list[Item]
    more: bool = False


class Circle(Struct, tag=True):
    radius: float


class Square(Struct, tag=True):
    side: float


@attrs.define
class Point:
    x: int
    y: int = 0


class Filter(TypedDict):
    text: str


class Pair(NamedTuple):
    left: int
    right: int


class Tree(Struct):
    name: Secret[str]
    children: list["Tree"] = []


class Untagged(Struct):
    a: int


class AlsoUntagged(Struct):
    b: int


class Plain:
    """Nothing that JSON could carry."""


@dataclass
class HoldsPlain:
    plain: list[Plain]


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError("value must be positive")


class Model(pydantic.BaseModel):
    email: str
    age: int = pydantic.Field(default=1, ge=0)
    secret: Secret[str] = ""


class Nested(pydantic.BaseModel):
    models: list[Model | int]


@pydantic.dataclasses.dataclass
class ModelDataclass:
    age: int = pydantic.Field(ge=0)


@dataclass
class WithModel:
    by_name: dict[str, Model]


USER = NewUser("ada@example.org", "Ada", Address("Main"), [Address("Side", 2)], {"a": Address("B")}, {5: "five"})
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (NewUser, USER),
        (Order, Order(UUID(int=7), AT, {"a": [Address("B")]})),
        (Point, Point(1, 2)),
        (Filter, {"text": "ada"}),
        (Pair, Pair(1, 2)),
        (Page[NewUser], Page([USER])),
        (Page[Circle | Square], Page([Circle(1.0), Square(2.0)])),
        (Circle | Square, Square(2.0)),
        (NewUser | None, None),
        (NewUser | None, USER),
        (list[NewUser], [USER]),
        (dict[str, Any], {"a": [1, None, {"b": True}]}),
        (Any, [1, "two"]),
        (str, "text"),
        (int, 5),
        (float, 5.5),
        (bool, True),
        (bytes, b"\x00\xff"),
        (Literal["a", "b"], "b"),
        (Colour, Colour.RED),
        (UserId, 5),
        (Annotated[int, Meta(ge=0)], 5),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (Model, Model(email="ada")),
        (list[Model], [Model(email="ada")]),
        (Model | int, Model(email="ada")),
        (ModelDataclass, ModelDataclass(age=4)),
        (Page[Model], Page([Model(email="ada")])),
        (WithModel, WithModel({"a": Model(email="ada", age=5)})),
        (Tree, Tree("a", [Tree("b")])),
    ],
    ids=shown,
)
def test_there_and_back(form: Any, value: object) -> None:
    codec = Codec[Any](form)
    body = codec.encode(value)
    assert codec.decode(body) == value
    assert not codec.empty
    jsonschema.Draft202012Validator(codec.schema()).validate(json.loads(body))


def test_none_is_an_empty_body() -> None:
    codec = Codec[None](None)
    assert codec.empty
    assert codec.encode(None) == b""
    assert codec.decode(b"") is None
    assert codec.decode(b" null ") is None
    with pytest.raises(InvalidRequest, match="leave the body empty"):
        codec.decode(b"{}")
    with pytest.raises(UsageError, match="nothing"):
        codec.encode(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "body", "place", "said"),
    [
        (NewUser, b"{}", "/email", "required and missing"),
        (NewUser, b'{"email":5}', "/email", "expected `str`, got `int`"),
        (NewUser, b"[]", "", "expected `object`, got `array`"),
        (NewUser, b'{"email":"a","address":{}}', "/address/street", "required and missing"),
        (NewUser, b'{"email":"a","address":7}', "/address", "expected `object | null`, got `int`"),
        (NewUser, b'{"email":"a","more":[{"street":"b"},{"street":"c","number":"d"}]}', "/more/1/number", "`int`"),
        (
            NewUser,
            b'{"email":"a","by_name":{"x":{"street":"b"},"y":{"street":1},"z":{"street":2}}}',
            "/by_name/y/street",
            "",
        ),
        (NewUser, b'{"email":"a","by_name":{"x":{"street":"b"},"y":{}}}', "/by_name/y/street", "required and missing"),
        (NewUser, b'{"email":"a","by_number":{"1":"a","two":"b"}}', "/by_number/two", "expected `int`, got `str`"),
        (NewUser, b'{"email":"a","by_number":{"1":"a","2":5}}', "/by_number/2", "expected `str`, got `int`"),
        (NewUser, b'{"email":"a","by_name":{"a.b/c~d[0]":{"street":5}}}', "/by_name/a.b~1c~0d[0]/street", ""),
        (Order, b'{"id":"x","at":"2026-01-01T00:00:00Z"}', "/id", "UUID"),
        (
            dict[str, dict[str, list[int]]],
            b'{"a":{"b":[1]},"c":{"d":[1],"e":[1,"2"]},"f":{"g":["3"]}}',
            "/c/e/1",
            "expected `int`, got `str`",
        ),
        (Circle | Square, b'{"type":"Circle","radius":"1"}', "/radius", "`float`"),
        (Circle | Square, b'{"type":"Oval"}', "/type", "Oval"),
        (Circle | Square, b'{"side":1}', "/type", "required and missing"),
        (Page[Circle | Square], b'{"items":[{"type":"Circle","radius":1},{"type":"Square"}]}', "/items/1/side", ""),
        (Page[int], b'{"items":[1,"2"]}', "/items/1", "expected `int`, got `str`"),
        (Filter, b'{"text":1}', "/text", "expected `str`, got `int`"),
        (Point, b'{"x":"1"}', "/x", "expected `int`, got `str`"),
        (Positive, b'{"value":-1}', "", "must be positive"),
        (list[Positive], b'[{"value":1},{"value":-1}]', "/1", "must be positive"),
        (int, b"true", "", "expected `int`, got `bool`"),
        (Model, b'{"email":5}', "/email", "valid string"),
        (Model, b'{"email":"a","age":-1}', "/age", "greater than or equal"),
        (Nested, b'{"models":[1,{"age":3}]}', "/models/1/email", "required"),
        (list[Model], b'[{"email":"a"},{}]', "/1/email", "required"),
        (ModelDataclass, b'{"age":-1}', "/age", "greater than or equal"),
        (WithModel, b'{"by_name":{"x":{"email":"a"},"y":{"email":"a","age":"b"}}}', "/by_name/y/age", "valid integer"),
    ],
    ids=shown,
)
def test_a_wrong_field_is_named(form: Any, body: bytes, place: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Codec[Any](form, "request", "accounts.register").decode(body)
    assert caught.value.pointer == place
    assert said in caught.value.detail
    assert "accounts.register" in str(caught.value)
    assert place in str(caught.value)


def test_a_field_that_is_not_known_is_named_where_none_may_be() -> None:
    class Strict(Struct, forbid_unknown_fields=True):
        a: int = 0

    with pytest.raises(InvalidRequest, match="no such field") as caught:
        Codec(Strict).decode(b'{"a":1,"b":2}')
    assert caught.value.pointer == "/b"


@pytest.mark.parametrize("form", [NewUser, Any, Model, str])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"nope", "not JSON"),
        (b'{"email":"a"} x', "not JSON"),
        (b'"\xff"', "Unicode"),
        (b'{"email":"a","x":"\xff"}', "Unicode"),
        (b"[" * 100_000, "deeper than 64"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b'{"email":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "deeper than 64"),
    ],
)
def test_what_is_not_json_is_refused_and_never_a_crash(form: Any, body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        Codec[Any](form).decode(body)
    assert caught.value.pointer == ""


def test_depth_of_64_is_taken() -> None:
    assert Codec[Any](Any).decode(b"[" * 64 + b"]" * 64)


def test_brackets_in_strings_are_no_depth() -> None:
    text = '[[{"' * 40 + "\\" * 3 + '"'
    assert Codec[Any](Any).decode(json.dumps([text, [text]]).encode()) == [text, [text]]


JSON = st.recursive(
    st.none() | st.booleans() | st.text(alphabet='ab[]{}"\\', max_size=80),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"\\', max_size=4), inner, max_size=3)
    ),
    max_leaves=20,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 70))
def test_depth_is_counted_as_a_parser_counts_it(value: object, wrapped: int) -> None:
    for turn in range(wrapped):
        value = [value] if turn % 2 else {"a": value}
    assert too_deep(json.dumps(value).encode()) == (depth_of(value) > 64)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"email": "a"}, "accounts.register takes a NewUser, not a dict. Write NewUser(email=…)."),
        (None, "accounts.register takes a NewUser, not None. Write NewUser(email=…)."),
        (Address("a"), "accounts.register takes a NewUser, not an Address. Write NewUser(email=…)."),
        (NewUser, "accounts.register takes a NewUser, not the class NewUser itself. Write NewUser(email=…)."),
        ("a", "accounts.register takes a NewUser, not a str. Write NewUser(email=…)."),
    ],
)
def test_another_type_is_refused_and_the_right_one_shown(value: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Codec(NewUser, "request", "accounts.register").encode(value)
    assert str(caught.value) == said
    assert not isinstance(caught.value, InvalidRequest)


def test_a_reply_still_to_be_awaited_is_named() -> None:
    async def reply() -> NewUser:
        return USER

    coroutine: Any = reply()
    with pytest.raises(UsageError, match="an await is missing"):
        Codec(NewUser, "reply").encode(coroutine)
    coroutine.close()


@pytest.mark.parametrize(
    ("form", "value", "place"),
    [
        (NewUser, NewUser(5), "/email"),  # type: ignore[arg-type]
        (NewUser, NewUser("a", address=Address("b", "c")), "/address/number"),  # type: ignore[arg-type]
        (NewUser, NewUser("a", by_name={"x": Address("b"), "y": Address(5)}), "/by_name/y/street"),  # type: ignore[arg-type]
        (NewUser, NewUser(object()), "/email"),  # type: ignore[arg-type]
        (NewUser, NewUser("\ud800"), "/email"),
        (NewUser, NewUser("a", more=[Address("b"), Address(object())]), "/more/1/street"),  # type: ignore[arg-type]
        (Page[int], Page([1, "2"]), "/items/1"),
        (Page[float], Page([1.0, math.nan]), "/items/1"),
        (Point, Point("1"), "/x"),  # type: ignore[arg-type]
        (dict[str, Any], {"a": {"b": {1, 2}, "c": object()}}, "/a/c"),
        (Model, Model.model_construct(email=5), "/email"),
        (WithModel, WithModel({"x": Model.model_construct(email="a", age="b")}), "/by_name/x/age"),
    ],
    ids=shown,
)
def test_a_wrong_field_is_refused_before_it_is_sent(form: Any, value: object, place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Codec[Any](form).encode(value)
    assert caught.value.pointer == place


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(InvalidRequest):
        Codec[Any](Any).encode(ring)


def _function() -> None: ...


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("NewUser", "without quotes"),
        (5, "is 5, which is no type"),
        ([int], "which is no type"),
        (USER, "is a value of type NewUser: write the type, NewUser"),
        (_function, "is the function _function"),
        (object, "Say Any for any JSON"),
        (Plain, "Plain, which can't be written as JSON. Make it a dataclass"),
        (list[Plain], "Make it a dataclass"),
        (HoldsPlain, "says Plain, which can't be written as JSON"),
        (Callable[[int], int], "can't be written as JSON"),
        (ValueError, "an exception. A declared no is a Problem and goes into raises="),
        (Untagged | AlsoUntagged, "Untagged | AlsoUntagged: JSON doesn't tell these Structs apart. Tag each of them"),
        (list[Untagged | AlsoUntagged], r"class Untagged\(Struct, tag=True\)|class Order\(Struct, tag=True\)"),
        (NewUser | Address, r"JSON doesn't tell these types apart.*class NewUser\(Struct, tag=True\)"),
    ],
    ids=shown,
)
def test_what_is_no_type_of_json_is_refused_where_it_is_written(form: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Codec[Any](form)


def test_a_name_that_is_defined_later_is_found_at_first_use() -> None:
    @dataclass
    class Early:
        later: "Later"  # type: ignore[name-defined]  # noqa: F821 (that is the point)

    codec = Codec(Early)
    globals()["Later"] = Address
    try:
        assert codec.decode(b'{"later":{"street":"a"}}') == Early(Address("a"))
    finally:
        del globals()["Later"]


def test_a_name_that_is_never_defined_is_named() -> None:
    @dataclass
    class Lost:
        nowhere: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    codec = Codec(Lost)
    with pytest.raises(UsageError, match="Nowhere"):
        codec.prepare()
    with pytest.raises(UsageError, match="Nowhere"):
        codec.decode(b"{}")


@dataclass
class Login:
    user: str
    password: Secret[str]
    spare: dict[str, Secret[str] | None] = field(default_factory=dict)
    old: list[Secret[str]] = field(default_factory=list)


def test_secrets_are_found_and_hidden() -> None:
    codec = Codec(Login)
    assert codec.secrets == ("/password", "/spare/*", "/old/*")
    body = codec.encode(Login("ada", "x", {"a": "y"}, ["z"]))
    assert json.loads(codec.redact(body)) == {"user": "ada", "password": "***", "spare": {"a": "***"}, "old": ["***"]}
    assert codec.decode(body).password == "x"


@pytest.mark.parametrize("body", [b"{", b'"\xff"', b"\xff" * 10, b"[" * 100_000])
def test_a_body_that_cannot_be_read_is_hidden_whole_where_there_are_secrets(body: bytes) -> None:
    assert Codec(Login).redact(body) == b'"***"'
    assert Codec(Address).redact(body) == body


def test_a_body_of_another_shape_still_hides_its_secrets() -> None:
    assert json.loads(Codec(Login).redact(b'{"password":{"deep":"x"},"user":[]}')) == {"password": "***", "user": []}


def test_secrets_of_types_that_hold_themselves_unions_and_models() -> None:
    tree = Codec(Tree)
    assert tree.secrets == ("/name", "/children/*/name") or tree.secrets == ("/name",)
    body = tree.encode(Tree("a", [Tree("b", [Tree("c")])]))
    assert b'"a"' not in tree.redact(body)
    assert json.loads(tree.redact(body))["children"][0]["children"][0]["name"] == "***"
    assert Codec(Secret[str]).redact(b'"x"') == b'"***"'
    assert Codec[Any](Login | None).secrets == ("/password", "/spare/*", "/old/*")
    forms: list[Any] = [Model, Page[Model], list[Model], Model | int]
    for form in forms:
        codec = Codec[Any](form)
        assert [place.rsplit("/", 1)[-1] for place in codec.secrets] == ["secret"], form
    assert json.loads(Codec(Model).redact(b'{"email":"a","secret":"x"}')) == {"email": "a", "secret": "***"}


def test_schema_of_a_model_inside_has_its_parts_in_one_place() -> None:
    @dataclass
    class Holds:
        nested: Nested

    schema = Codec(Holds).schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"nested": {"models": [1, {"email": "a"}]}})
    assert not validator.is_valid({"nested": {"models": ["a"]}})


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        value = Codec(NewUser).decode(body)
    except InvalidRequest:
        return
    assert isinstance(value, NewUser)


@given(JSON)
def test_any_json_is_read_or_refused_with_a_pointer_into_it(value: object) -> None:
    body = msgspec.json.encode({"email": value, "by_name": value, "more": value})
    with pytest.raises(InvalidRequest) as caught:
        Codec(list[NewUser]).decode(b"[" + body + b"]")
    assert caught.value.pointer.startswith("/0/")
