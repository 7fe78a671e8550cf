"""Compatible means: whatever the one side writes, the other reads. Drawn types say so; broken twins are caught."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringpost import Contract, Event, Operation, Problem
from ringpost.contract import reading
from ringpost.contract.codec import Codec
from ringpost.contract.compatibility import Finding, compared
from ringpost.contract.document import document_of, read_document, write_document
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.contract.reading import Unread, unread

# --- what travels: drawn types, and a value of each


def _leaf() -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    ints = st.integers(-5, 5)
    return st.sampled_from(
        [
            (int, ints),
            (str, st.text("abc", max_size=4)),
            (bool, st.booleans()),
            (float, st.floats(-5, 5)),
            (type(None), st.none()),
            (Literal["a", "b"], st.sampled_from(["a", "b"])),
            (Literal["a", "b", "c"], st.sampled_from(["a", "b", "c"])),
            (Literal[1, 2], st.sampled_from([1, 2])),
            (Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 5)),
            (Annotated[int, msgspec.Meta(gt=0, le=3)], st.integers(1, 3)),
            (Annotated[str, msgspec.Meta(min_length=1)], st.text("abc", min_size=1, max_size=4)),
            (Annotated[str, msgspec.Meta(max_length=2)], st.text("abc", max_size=2)),
        ]
    )


_NUMBERS = itertools.count()  # a schema names its parts
Drawn = tuple[Any, st.SearchStrategy[Any]]


def _grown(inner: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    return st.one_of(
        inner.map(lambda one: (list[one[0]], st.lists(one[1], max_size=3))),
        inner.map(lambda one: (dict[str, one[0]], st.dictionaries(st.sampled_from("xyz"), one[1], max_size=3))),
        inner.map(lambda one: (one[0] | None, st.none() | one[1])),
        st.tuples(inner, inner).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),
        st.dictionaries(st.sampled_from("xyz"), st.tuples(inner, st.booleans()), max_size=3).flatmap(_struct),
    )


def _struct(fields: dict[str, tuple[Drawn, bool]]) -> st.SearchStrategy[Drawn]:
    return st.booleans().map(lambda strict: _struct_of(fields, strict))


def _struct_of(fields: dict[str, tuple[Drawn, bool]], strict: bool) -> Drawn:
    """Make a Struct; values of fields with a default may be left out, and unknown ones refused."""
    names = [
        (n, one[0]) if needed else (n, one[0] | msgspec.UnsetType, msgspec.UNSET) for n, (one, needed) in fields.items()
    ]
    kind = msgspec.defstruct(f"Drawn{next(_NUMBERS)}", names, kw_only=True, forbid_unknown_fields=strict)
    values = st.fixed_dictionaries(
        {n: one[1] for n, (one, needed) in fields.items() if needed},
        optional={n: one[1] for n, (one, needed) in fields.items() if not needed},
    )
    return kind, values.map(lambda value: kind(**value))


TYPES = st.recursive(_leaf(), _grown, max_leaves=5)


def test_what_is_called_readable_is_read() -> None:
    judged = {"compatible": 0, "not": 0}

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(TYPES, TYPES, st.data())
    def examine(written: Drawn, read: Drawn, data: st.DataObject) -> None:
        if reading.unread(_schema(written), _schema(read)):
            judged["not"] += 1
            return
        judged["compatible"] += 1
        value = data.draw(written[1])
        msgspec.json.decode(msgspec.json.encode(value), type=read[0])

    examine()
    assert judged["compatible"] > 20
    assert judged["not"] > 20


def _schema(drawn: Drawn) -> dict[str, Any]:
    return msgspec.json.schema(drawn[0])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(TYPES)
def test_each_type_reads_itself(drawn: Drawn) -> None:
    assert unread(_schema(drawn), _schema(drawn)) == []


def _nothing_is_required(self: Any, out: Any, into: Any, place: Any) -> list[Unread]:
    return _real_objects(self, out, {**into, "required": []}, place)


def _the_wrong_way_round(self: Any, written: Any, read: Any, place: Any) -> list[Unread]:
    return _real_compare(self, read, written, place)


_real_objects = reading._Comparison._compare_objects
_real_compare = reading._Comparison.compare


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("_compare_objects", _nothing_is_required),
        ("compare", _the_wrong_way_round),
        ("_compare_arrays", lambda *_: []),
        ("_compare_value", lambda *_: []),
    ],
)
def test_twins_that_overlook_something_are_caught(name: str, twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading._Comparison, name, twin)
    with pytest.raises((msgspec.ValidationError, AssertionError)):
        _judge_known_pairs()


def test_known_pairs_are_judged() -> None:
    _judge_known_pairs()


def test_bounds_are_no_twin_of_their_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_beyond", lambda *_: [])
    with pytest.raises(AssertionError):
        _judge_known_pairs()


def _judge_known_pairs() -> None:
    for written, read, places in PAIRS:
        found = unread(msgspec.json.schema(written), msgspec.json.schema(read))
        assert [one.at for one in found] == places, (written, read, found)


class Named(msgspec.Struct):
    name: str


class Aged(msgspec.Struct):
    name: str
    age: int


class AgedOrNot(msgspec.Struct):
    name: str
    age: int = 0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Tree(msgspec.Struct):
    name: str
    under: list["Tree"] = []


class NumberedTree(msgspec.Struct):
    name: int
    under: list["NumberedTree"] = []


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Row(msgspec.Struct, array_like=True):
    name: str
    age: int = 0


PAIRS: list[tuple[Any, Any, list[str]]] = [
    (Named, Aged, ["/age"]),
    (Aged, Named, []),
    (AgedOrNot, Aged, ["/age"]),
    (Named, AgedOrNot, []),
    (AgedOrNot, Strict, ["/age"]),
    (Tree, Tree, []),
    (Tree, NumberedTree, ["/name"]),
    (Cat, Cat | Dog, []),
    (Cat | Dog, Cat, ["/type"]),
    (Row, Row, []),
    (tuple[str, int], Row, []),
    (tuple[str, str], Row, ["/1"]),
    (list[Aged], list[Named], []),
    (list[Named], list[Aged], ["/*/age"]),
    (dict[str, int], dict[str, float], []),
    (dict[str, float], dict[str, int], ["/*"]),
    (dict[str, int], Named, ["/name", "/name"]),
    (int, int | None, []),
    (int | None, int, [""]),
    (Literal["a"], Literal["a", "b"], []),
    (Literal["a", "b"], Literal["a"], [""]),
    (Literal["a", "b"], str, []),
    (str, Literal["a"], [""]),
    (Literal[1], bool, [""]),
    (Annotated[int, msgspec.Meta(ge=2)], Annotated[int, msgspec.Meta(ge=1)], []),
    (Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=2)], [""]),
    (Annotated[int, msgspec.Meta(gt=1)], Annotated[int, msgspec.Meta(ge=1)], []),
    (Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(gt=1)], [""]),
    (Annotated[str, msgspec.Meta(max_length=3)], Annotated[str, msgspec.Meta(max_length=4)], []),
    (str, Annotated[str, msgspec.Meta(pattern="a+")], [""]),
    (Any, int, [""]),
    (int, Any, []),
    (bytes, str, []),
    (str, bytes, [""]),
]


def test_what_is_said_beside_a_choice_holds_for_each() -> None:
    choice = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert unread(choice, {**choice, "maxLength": 3}) != []
    assert unread({"type": "null"}, {**choice, "maxLength": 3}) == []
    assert unread({**choice, "maxLength": 2}, {**choice, "maxLength": 3}) == []


# --- whose side it is on


@dataclass
class Old:
    email: str


@dataclass
class New:
    email: str
    name: str


@dataclass
class Wider:
    email: str
    name: str = ""


class Taken(Problem, status=409):
    email: str


def findings(old: dict[str, Any], new: dict[str, Any]) -> list[Finding]:
    made = [document_of(type("C", (Contract,), dict(body), name="accounts")) for body in (old, new)]  # type: ignore[call-overload]
    return compared(*made)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Operation(Old), Operation(Wider), []),
        (Operation(Old), Operation(New), [("breaking", "accounts.it request at /name")]),
        (Operation(New), Operation(Old), []),
        (Operation(None, New), Operation(None, Old), [("breaking", "accounts.it reply at /name")]),
        (Operation(None, Old), Operation(None, New), []),
        (Operation(None), Operation(Old), [("breaking", "accounts.it request")]),
        (Operation(None, Old), Operation(None), [("breaking", "accounts.it reply")]),
        (Operation(Old), Operation(Old, raises=[Taken]), [("caution", "accounts.it problem taken")]),
        (Operation(Old, raises=[Taken]), Operation(Old), []),
        (Operation(Old, effect="read"), Operation(Old), [("breaking", "accounts.it")]),
        (Operation(Old), Operation(Old, effect="read"), []),
        (Operation(Old, timeout=5), Operation(Old, timeout=2), [("caution", "accounts.it")]),
        (Operation(Old, timeout=2), Operation(Old, timeout=5), []),
        (
            Operation(Old, ordering_key=lambda one: one.email),
            Operation(Old),
            [("breaking", "accounts.it")],
        ),
        (
            Operation(Old, idempotency_key=lambda one: one.email),
            Operation(Old),
            [("breaking", "accounts.it")],
        ),
        (Event(Old), Event(New), [("breaking", "accounts.it data at /name")]),  # what waits has no name
        (Event(New), Event(Old), [("breaking", "accounts.it data at /name")]),  # who subscribes needs one
        (Event(Old), Event(Wider), []),
    ],
)
def test_direction_decides(old: Any, new: Any, expected: list[tuple[str, str]]) -> None:
    assert [(one.severity, one.where) for one in findings({"it": old}, {"it": new})] == expected


def test_what_is_gone_or_renamed_breaks() -> None:
    gone = findings({"it": Operation(Old), "said": Event(Old)}, {})
    assert [(one.severity, one.where) for one in gone] == [("breaking", "accounts.it"), ("breaking", "accounts.said")]
    assert findings({}, {"it": Operation(Old)}) == []


def test_a_problem_whose_members_change_breaks_old_callers() -> None:
    class Other(Problem, status=410, code="taken"):
        name: str

    found = findings({"it": Operation(Old, raises=[Taken])}, {"it": Operation(Old, raises=[Other])})
    assert [(one.severity, one.where) for one in found] == [
        ("caution", "accounts.it problem taken"),
        ("breaking", "accounts.it problem taken at /email"),
    ]


def test_a_document_comes_back_as_it_was_and_others_are_refused() -> None:
    class Accounts(Contract):
        register = Operation(Old, New, raises=[Taken], timeout=2)
        registered = Event(Old)

    document = document_of(Accounts)
    assert read_document(write_document(document), "it") == document
    with pytest.raises(UsageError, match="ringpost contract export"):
        read_document(b"{}", "it")
    with pytest.raises(UsageError, match="install a newer"):
        read_document(write_document(msgspec.structs.replace(document, format=2)), "it")


def test_what_a_schema_does_not_tell_is_what_the_module_says() -> None:
    """Dates without a zone are texts to a schema: the judgement is wrong there, and its page says so."""
    from datetime import datetime

    assert unread(Codec(str).schema(), Codec(datetime).schema()) == []
    with pytest.raises(InvalidRequest):
        Codec(datetime).decode(b'"no date"')
