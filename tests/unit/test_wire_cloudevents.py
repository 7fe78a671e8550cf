"""CloudEvents in binary mode: what is read, and what is refused and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core import ids
from ringpost.wire.cloudevents import WrongForm, binary
from ringpost.wire.headers import BadHeader

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def event(**more: str) -> dict[str, str]:
    plain = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "A-7",
        "ce-source": "/shop",
        "ce-type": "accounts.registered",
    }
    return plain | {name.replace("_", "-"): value for name, value in more.items()}


def test_the_attributes_of_an_event() -> None:
    read = binary(
        event(
            ce_time="2026-11-22T10:00:00.5Z",
            ce_subject="user/7",
            ce_partitionkey="ann",
            ce_correlationid="c",
            ce_causationid="d",
            ce_expirytime="2026-11-22T11:00:00+01:00",
            ce_region="eu",
            traceparent=TRACE,
            tracestate="x=1",
        )
    )
    assert (read.type, read.source, read.id) == ("accounts.registered", "/shop", "A-7")
    assert (read.time_ms, read.expires_ms) == (1795341600500, 1795341600000)
    assert (read.subject, read.ordering_key) == ("user/7", "ann")
    assert (read.correlation_id, read.causation_id) == ("c", "d")
    assert (read.trace, read.tracestate) == (TRACE, "x=1")
    assert read.extensions == {"region": "eu"}


def test_the_least_that_an_event_has() -> None:
    read = binary(event())
    assert (read.time_ms, read.expires_ms, read.ordering_key) == (None, None, None)
    assert (read.subject, read.trace, read.extensions) == ("", "", {})


def test_the_same_event_has_the_same_id() -> None:
    assert binary(event()).message_id == binary(event(ce_time="2026-11-22T10:00:00Z")).message_id
    others = [event(ce_id="A-8"), event(ce_source="/other"), event(ce_id="7", ce_source="/shopA-")]
    assert len({binary(other).message_id for other in [event(), *others]}) == 4


def test_an_event_of_ours_keeps_its_id() -> None:
    id = ids.uuid7(1_700_000_000_000, 1)
    assert binary(event(ce_source="ringpost", ce_id=ids.text(id))).message_id == id
    with pytest.raises(BadHeader, match="ce-id"):
        binary(event(ce_source="ringpost", ce_id="A-7"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Euro%20%E2%82%AC", "Euro €"),
        ("%E2%82%AC%20%F0%9F%98%80", "€ 😀"),
        ('"quoted"', "quoted"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ("100%25", "100%"),
        ("a+b", "a+b"),
    ],
)
def test_percent_encoding_is_undone(value: str, text: str) -> None:
    assert binary(event(ce_subject=value)).subject == text


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"ce_specversion": "0.3"}, "ce-specversion: an event is a CloudEvent"),
        ({"ce_specversion": ""}, "ce-specversion"),
        ({"ce_id": ""}, "ce-id: an event must have it"),
        ({"ce_source": ""}, "ce-source"),
        ({"ce_type": ""}, "ce-type"),
        ({"ce_time": "yesterday"}, "ce-time: takes an instant such as"),
        ({"ce_time": "2026-11-22"}, "ce-time"),
        ({"ce_time": "2026-11-22T10:00:00"}, "ce-time"),
        ({"ce_time": "2026-13-22T10:00:00Z"}, "ce-time"),
        ({"ce_time": "0001-01-01T00:00:00+23:59"}, "ce-time"),
        ({"ce_expirytime": "1700000000"}, "ce-expirytime"),
        ({"ce_subject": "%"}, "ce-subject: has a %"),
        ({"ce_subject": "%zz"}, "ce-subject"),
        ({"ce_subject": "%ff"}, "isn't UTF-8"),
        ({"ce_subject": "%00"}, "control characters"),
        ({"ce_subject": "%0d%0ax"}, "control characters"),
        ({"ce_id": "x" * 1025}, "at most 1,024"),
        ({"ce_under_score": "x"}, "lower-case letters and digits"),
    ],
)
def test_what_is_refused(given: dict[str, str], match: str) -> None:
    with pytest.raises(BadHeader, match=match):
        binary(event(**given))


@pytest.mark.parametrize("missing", ["ce-specversion", "ce-id", "ce-source", "ce-type"])
def test_what_must_be_there(missing: str) -> None:
    headers = event()
    del headers[missing]
    with pytest.raises(BadHeader, match=missing):
        binary(headers)


def test_extensions_are_bounded() -> None:
    with pytest.raises(BadHeader, match="at most 32"):
        binary(event() | {f"ce-x{n}": "1" for n in range(33)})


@pytest.mark.parametrize(
    ("content_type", "match"),
    [
        ("application/cloudevents+json", "Structured"),
        ("application/cloudevents+json; charset=utf-8", "Structured"),
        ("application/cloudevents-batch+json", "Batched"),
        ("application/cloudevents+avro", "Structured"),
        ("text/plain", "JSON"),
        ("application/xml", "JSON"),
    ],
)
def test_forms_that_arent_taken(content_type: str, match: str) -> None:
    with pytest.raises(WrongForm, match=match):
        binary(event() | {"content-type": content_type})


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.shop+json", ""]
)
def test_forms_of_json(content_type: str) -> None:
    assert binary(event() | {"content-type": content_type}).id == "A-7"


@given(
    st.dictionaries(
        st.sampled_from(["ce-id", "ce-source", "ce-type", "ce-time", "ce-subject", "ce-x", "ce-expirytime", "ce-"]),
        st.text(max_size=20),
    )
)
def test_whatever_comes_is_read_or_refused(given: dict[str, str]) -> None:
    try:
        assert len(binary(event() | given).message_id) == 16
    except BadHeader as error:
        assert "ce-" in error.header
