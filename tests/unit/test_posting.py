"""A verb's arguments become a message, or an error before anything is stored."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import pytest

from ringpost.client.posting import Origin, event_of, message_of, messages_of
from ringpost.contract.contract import Contract
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.core import ids
from ringpost.core.idempotency import dedup_id, digest
from ringpost.core.line import line_id
from ringpost.core.message import Envelope, Message, Priority
from ringpost.settings import Settings

SETTINGS = Settings()


@dataclass
class Order:
    id: str
    amount: int = 1


class Posting(Contract):
    place = Operation(Order, str, ttl=60, priority="high")
    note = Operation(Order)
    told = Operation(Outcome[Order, Any])
    keyed = Operation(Order, idempotency_key=lambda order: order.id)
    lined = Operation(Order, ordering_key=lambda order: order.id)
    placed = Event(Order)
    moved = Event(Order, keep=10, ordering_key=lambda order: order.id)


def envelope(message: Message) -> Envelope:
    return msgspec.json.decode(message.headers, type=Envelope)


def test_a_message_goes_into_the_operations_queue_with_its_options_by_default() -> None:
    message = message_of(Posting.place, Order("a"), settings=SETTINGS)
    assert message.queue == "posting.place"
    assert message.body == b'{"id":"a","amount":1}'
    assert message.ttl_s == 60
    assert message.priority is Priority.HIGH
    assert (message.line, message.dedup, message.digest, message.due_ms, message.delay_s) == (None,) * 4 + (0.0,)
    assert envelope(message) == Envelope(operation="posting.place")
    assert ids.is_uuid7(message.id)


def test_an_option_wins_over_the_operation() -> None:
    message = message_of(
        Posting.place,
        Order("a"),
        {"ttl": timedelta(minutes=2), "priority": "low", "delay": 1.5, "headers": {"X-Shop": "1"}},
        settings=SETTINGS,
        origin=Origin(sender="shop", causation_id="c", hops=3, headers={"x-all": "2", "x-shop": "0"}),
        reply_to=Posting.told,
    )
    assert (message.ttl_s, message.priority, message.delay_s) == (120.0, Priority.LOW, 1.5)
    found = envelope(message)
    assert (found.sender, found.causation_id, found.hops, found.reply_to) == ("shop", "c", 3, "posting.told")
    assert found.headers == {"x-all": "2", "x-shop": "1"}


def test_a_delay_may_be_an_instant() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    message = message_of(Posting.note, Order("a"), {"delay": at}, settings=SETTINGS)
    assert (message.due_ms, message.delay_s) == (round(at.timestamp() * 1000), 0.0)


def test_how_long_a_row_is_kept_depends_on_who_may_ask_for_it() -> None:
    hour = 3600
    assert message_of(Posting.note, Order("a"), settings=SETTINGS).keep_s == hour
    assert message_of(Posting.place, Order("a"), settings=SETTINGS).keep_s == 24 * hour
    assert message_of(Posting.note, Order("a"), settings=SETTINGS, reply_to=Posting.told).keep_s == 24 * hour
    assert message_of(Posting.keyed, Order("a"), settings=SETTINGS).keep_s == 7 * 24 * hour
    assert event_of(Posting.placed, Order("a"), settings=SETTINGS).keep_s == hour
    assert event_of(Posting.moved, Order("a"), settings=SETTINGS).keep_s == hour
    logged = [event_of(one, Order("a"), settings=SETTINGS).log_s for one in (Posting.placed, Posting.moved)]
    assert logged == [0, 10], "and how long an event is logged says the event"


def test_a_key_is_given_or_made_of_the_request_and_counts_for_identity_and_operation() -> None:
    of_operation = message_of(Posting.keyed, Order("k"), settings=SETTINGS)
    assert of_operation.dedup == dedup_id("", "posting.keyed", "k")
    assert of_operation.digest == digest(of_operation.body)
    given = message_of(Posting.keyed, Order("k"), {"idempotency_key": "mine"}, settings=SETTINGS)
    assert given.dedup == dedup_id("", "posting.keyed", "mine")
    other = message_of(Posting.keyed, Order("k"), settings=SETTINGS, origin=Origin(identity="alice"))
    assert other.dedup != of_operation.dedup
    assert other.caller == "alice"


def test_a_line_is_within_the_contract() -> None:
    made = message_of(Posting.lined, Order("k"), settings=SETTINGS)
    assert made.line == line_id("posting", "k")
    assert envelope(made).key == "k"
    given = message_of(Posting.note, Order("x"), {"ordering_key": "k"}, settings=SETTINGS)
    assert given.line == made.line


def test_an_event_goes_to_no_queue_but_to_its_subscriptions() -> None:
    message = event_of(Posting.moved, Order("a"), settings=SETTINGS)
    assert (message.queue, message.event) == ("", "posting.moved")
    assert message.line == line_id("posting.moved", "a")


def test_an_event_under_a_key_is_the_same_event_again() -> None:
    first, again = (event_of(Posting.placed, Order("a"), {"idempotency_key": "k"}, settings=SETTINGS) for _ in "ab")
    other = event_of(Posting.placed, Order("a"), {"idempotency_key": "l"}, settings=SETTINGS)
    assert first.id == again.id != other.id


def test_many_at_once_are_as_each_alone() -> None:
    orders = [Order(str(n % 3), n) for n in range(100)]
    messages = messages_of(Posting.lined, orders, {"delay": 1}, settings=SETTINGS)
    assert len({message.id for message in messages}) == 100
    for order, message in zip(orders, messages, strict=True):
        alone = message_of(Posting.lined, order, {"delay": 1}, settings=SETTINGS, id=message.id)
        assert message == alone


def test_many_at_once_say_which_one_is_wrong_and_none_is_made() -> None:
    wrong: Any = Order("b", "many")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="Request 1 of 3") as caught:
        messages_of(Posting.note, [Order("a"), wrong, Order("c")], settings=SETTINGS)
    assert caught.value.pointer.startswith("/1/")


def test_a_staged_message_takes_the_id_it_is_given() -> None:
    assert message_of(Posting.note, Order("a"), settings=SETTINGS, id=b"x" * 16).id == b"x" * 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 2}, "send takes no timeout: it returns as soon as the message is safe"),
        ({"after": ()}, "send takes no `after`"),
        ({"dealy": 2}, "send takes no dealy; its options are"),
        ({"delay": "soon"}, "delay takes seconds"),
        ({"delay": -1}, "delay must be"),
        ({"delay": datetime(2030, 1, 1)}, "no time zone"),
        ({"delay": 1e10}, "more than ten years"),
        ({"ttl": 0}, "ttl must be more than 0"),
        ({"priority": "urgent"}, "priority is 'high' or 'normal' or 'low', not 'urgent'"),
        ({"idempotency_key": ""}, "idempotency_key must be 1 to 255"),
        ({"idempotency_key": "é"}, "idempotency_key must be 1 to 255"),
        ({"idempotency_key": 7}, "idempotency_key takes a str"),
        ({"ordering_key": "a\nb"}, "ordering_key must be 1 to 255"),
        ({"headers": {"Content-Type": "x"}}, "Ringpost's own"),
        ({"headers": {"ringpost-depth": "9"}}, "Ringpost's own"),
        ({"headers": {"x": "1\r\ny: 2"}}, "control character"),
        ({"headers": {"x y": "1"}}, "is no name for a header"),
        ({"headers": {"x": 1}}, "str to str"),
        ({"headers": 1}, "mapping of str to str"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_write(options: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        message_of(Posting.note, Order("a"), options, settings=SETTINGS)
    assert said in str(caught.value)


def test_reply_to_a_webhook_says_that_it_isnt_there() -> None:
    with pytest.raises(UsageError, match="webhooks aren't in this version"):
        message_of(Posting.note, Order("a"), settings=SETTINGS, reply_to="https://me.example/hook")
    with pytest.raises(UsageError, match="takes an operation"):
        message_of(Posting.note, Order("a"), settings=SETTINGS, reply_to=Posting.placed)


class Told(Contract):
    nothing = Operation(Outcome[Order, None])
    short = Operation(Outcome[Order])
    reply = Operation(Outcome[Order, str])
    named = Operation(Annotated[Outcome[Order, str], "of a place"])
    bare = Operation(Outcome)
    order = Operation(Order)


@pytest.mark.parametrize("name", ["reply", "named", "bare"])
def test_reply_to_takes_what_can_read_the_outcome(name: str) -> None:
    message = message_of(Posting.place, Order("a"), settings=SETTINGS, reply_to=getattr(Told, name))
    assert envelope(message).reply_to == f"told.{name}"
    assert message_of(Posting.note, Order("a"), settings=SETTINGS, reply_to=Told.nothing)


@pytest.mark.parametrize("name", ["nothing", "short", "order"])
def test_reply_to_refuses_what_could_never_read_the_outcome(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        message_of(Posting.place, Order("a"), settings=SETTINGS, reply_to=getattr(Told, name))
    said = str(caught.value)
    assert said.startswith(f"told.{name} can't take the outcome of posting.place: its request is ")
    assert said.endswith(". Declare it as Operation(Outcome[Order, str]).")


def test_what_belongs_in_the_first_place_is_said() -> None:
    wrong: Any
    for wrong, said in ((Posting.placed, "Use publish"), ("posting.note", "takes an operation first")):
        with pytest.raises(UsageError, match=said):
            message_of(wrong, Order("a"), settings=SETTINGS)
    for wrong, said in ((Posting.note, "Use send"), (None, "takes an event first")):
        with pytest.raises(UsageError, match=said):
            event_of(wrong, Order("a"), settings=SETTINGS)


def test_a_dict_instead_of_a_request_names_the_type() -> None:
    with pytest.raises(UsageError, match="Order"):
        message_of(Posting.note, {"id": "a"}, settings=SETTINGS)


def test_one_key_for_many_is_refused() -> None:
    with pytest.raises(UsageError, match="one key for many requests"):
        messages_of(Posting.note, [Order("a")], {"idempotency_key": "k"}, settings=SETTINGS)


def test_what_is_too_large_is_refused_before_it_travels() -> None:
    with pytest.raises(InvalidRequest, match="at most 100 travel"):
        message_of(Posting.note, Order("a" * 100), settings=Settings(request_bytes_max=100))
