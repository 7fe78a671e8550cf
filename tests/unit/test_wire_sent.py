"""What travels beside a message between two stores, and the question for many outcomes."""

import pytest

from ringpost.contract.errors import InvalidRequest
from ringpost.core import ids
from ringpost.core.call import UNSAID, Sent
from ringpost.core.message import Answer, Cause, Kind, Priority, Record, State
from ringpost.wire import outcomes, sent
from ringpost.wire.headers import BadHeader

ID = ids.uuid7(1_800_000_000_000, 7)
OTHER = ids.uuid7(1_800_000_000_000, 8)


def record(id: bytes, state: State, answer: Answer | None = None, generation: int = 1) -> Record:
    return Record(
        ref=1, id=id, queue="billing.charge", kind=Kind.MESSAGE, state=state, priority=Priority.NORMAL,
        cause=Cause.REJECTED if state is State.DEAD else Cause.NONE, attempts=1, losses=0, generation=generation,
        fence=1, created_ms=1, due_ms=1, started_ms=1, settled_ms=2, expires_ms=None, cancel_asked=False, keep_s=1,
        answer=answer,
    )  # fmt: skip


def test_what_is_said_is_read_again() -> None:
    said = Sent(ID, "Größe ä/1, %", 12.5, 3600.0, 7, "c-1", "c-2", "shop")
    headers = dict(sent.written(said))
    assert headers["operation-id"] == ids.text(ID)
    assert all(value.isascii() and "\n" not in value for value in headers.values())
    assert sent.read(headers) == said


def test_nothing_said_costs_nothing() -> None:
    assert sent.written(UNSAID) == []
    assert sent.read({"prefer": "respond-async"}) == UNSAID


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operation-id", "42"),
        ("ringpost-ordering-key", ""),
        ("ringpost-ordering-key", "%0a"),
        ("ringpost-ordering-key", "%ff"),
        ("ringpost-ttl", "soon"),
        ("ringpost-ttl", "0s"),
        ("ringpost-age", "-1s"),
        ("ringpost-hops", "many"),
        ("ringpost-sender", "x" * 256),
    ],
)
def test_what_cant_be_read_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(BadHeader) as caught:
        sent.read({"operation-id": ids.text(ID), name: value})
    assert name in str(caught.value).lower()


def test_an_answer_tells_what_has_ended_and_what_isnt_there() -> None:
    reply = Answer(200, b'{"a": 1.0}')
    body = outcomes.answer([ID, OTHER], [record(ID, State.SUCCEEDED, reply, 2), None])
    assert body is not None
    first, second = outcomes.read_answer(body)
    assert (first.id, first.state, first.generation, first.answer) == (ids.text(ID), "succeeded", 2, reply)
    assert (second.id, second.state) == (ids.text(OTHER), outcomes.UNKNOWN)


def test_a_death_is_told_as_its_ticket_shows_it() -> None:
    body = outcomes.answer([ID], [record(ID, State.DEAD)])
    assert body is not None
    (told,) = outcomes.read_answer(body)
    assert told.state == "dead"
    assert told.answer is not None
    assert b'"code":"rejected"' in told.answer.body


def test_what_runs_gives_no_answer_yet() -> None:
    assert outcomes.answer([ID], [record(ID, State.RUNNING)]) is None


def test_an_answer_has_a_size_and_the_rest_comes_with_the_next() -> None:
    large = Answer(200, b"x" * (outcomes.ANSWER_BYTES_MAX - 10))
    small = Answer(200, b"y" * 100)
    body = outcomes.answer([ID, OTHER], [record(ID, State.SUCCEEDED, large), record(OTHER, State.SUCCEEDED, small)])
    assert body is not None
    assert [told.id for told in outcomes.read_answer(body)] == [ids.text(ID)]
    beyond = Answer(200, b"x" * (outcomes.ANSWER_BYTES_MAX + 10))
    body = outcomes.answer([ID], [record(ID, State.SUCCEEDED, beyond)])
    assert body is not None, "one that is too large alone would never come"


def test_the_question_is_read_as_it_was_written() -> None:
    assert outcomes.read_question(outcomes.question([ID, OTHER])) == [ID, OTHER]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"ids":[]}', b'{"ids":["x"]}', b'{"ids":[1]}'])
def test_a_question_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        outcomes.read_question(body)


def test_a_question_has_a_limit() -> None:
    with pytest.raises(InvalidRequest, match="1 to 1,000"):
        outcomes.read_question(outcomes.question([ID] * 1001))
