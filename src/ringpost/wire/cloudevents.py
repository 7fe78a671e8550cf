"""CloudEvents 1.0 over HTTP, in binary mode: attributes as `ce-*` headers, the data as the body.

Who sends the same event again sends the same source and id, and so gets the same message id: a repetition is absorbed.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.core import ids
from ringpost.wire.headers import KEY_CHARS_MAX, BadHeader, traceparent

SPEC_VERSION = "1.0"
OURS = "ringpost"
"""The source of events that a Ringpost hands on: their id is the message's."""

_PREFIX = "ce-"
_ATTRIBUTE_CHARS_MAX = 1024
_EXTENSIONS_MAX = 32
_NAME = re.compile(r"[a-z0-9]{1,40}")
_HEX_PAIRS = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})",
)
_KNOWN = frozenset(
    {
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "subject",
        "dataschema",
        "datacontenttype",
        "traceparent",
        "tracestate",
        "correlationid",
        "causationid",
        "expirytime",
        "partitionkey",
    }
)


class WrongForm(UsageError):
    """Say that an event came in a form that isn't taken: a 415."""


class CloudEvent(Struct, frozen=True):
    """An event as it came in. `type` is the full name of the event; `message_id` 16 bytes."""

    type: str
    message_id: bytes
    source: str
    id: str
    time_ms: int | None = None
    subject: str = ""
    trace: str = ""
    tracestate: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    expires_ms: int | None = None
    ordering_key: str | None = None
    extensions: Mapping[str, str] = {}


def binary(headers: Mapping[str, str]) -> CloudEvent:
    """Read an event in binary mode. Header names are lower case.

    Raises WrongForm for structured and batched mode and for data that isn't JSON, BadHeader for an attribute that is
    missing or can't be read.
    """
    _check_form(headers.get("content-type", ""))
    found = {name[len(_PREFIX) :]: _decoded(name, value) for name, value in headers.items() if name.startswith(_PREFIX)}
    version = found.get("specversion", "")
    if version != SPEC_VERSION:
        raise BadHeader("ce-specversion", version, "an event is a CloudEvent in binary mode, of version 1.0")
    kind, source, id = (_required(found, name) for name in ("type", "source", "id"))
    expires = found.get("expirytime")
    time = found.get("time")
    return CloudEvent(
        type=kind,
        message_id=_message_id(source, id),
        source=source,
        id=id,
        time_ms=None if time is None else _instant_ms("ce-time", time),
        subject=found.get("subject", ""),
        trace=traceparent(headers.get("traceparent") or found.get("traceparent")),
        tracestate=headers.get("tracestate") or found.get("tracestate", ""),
        correlation_id=found.get("correlationid", ""),
        causation_id=found.get("causationid", ""),
        expires_ms=None if expires is None else _instant_ms("ce-expirytime", expires),
        ordering_key=_ordering_key(found),
        extensions=_extensions(found),
    )


def _check_form(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("application/cloudevents"):
        mode = "Batched" if kind.startswith("application/cloudevents-batch") else "Structured"
        raise WrongForm(
            f"{mode} CloudEvents aren't taken in this version: send the event in binary mode, its attributes as ce-* "
            "headers and its data as the body."
        )
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise WrongForm(f"The data of an event is JSON: Content-Type application/json, not {kind[:80]!r}.")


def _decoded(name: str, value: str) -> str:
    """Undo percent-encoding, in which everything but printable ASCII travels."""
    text = value
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if "%" in text:
        if _HEX_PAIRS.search(text) is not None:
            raise BadHeader(name, value, "has a % that begins no percent-encoding")
        try:
            text = unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise BadHeader(name, value, "is percent-encoded UTF-8, and this isn't UTF-8") from None
    if len(text) > _ATTRIBUTE_CHARS_MAX:
        raise BadHeader(name, value, f"has at most {_ATTRIBUTE_CHARS_MAX:,} characters")
    if not text.isprintable():
        raise BadHeader(name, value, "takes text without control characters")
    return text


def _required(found: Mapping[str, str], name: str) -> str:
    value = found.get(name, "")
    if not value:
        raise BadHeader(f"ce-{name}", value, "an event must have it, and not empty")
    return value


def _ordering_key(found: Mapping[str, str]) -> str | None:
    key = found.get("partitionkey", "")
    if len(key) > KEY_CHARS_MAX:
        raise BadHeader("ce-partitionkey", key, f"has at most {KEY_CHARS_MAX} characters")
    return key or None


def _message_id(source: str, id: str) -> bytes:
    if source != OURS:
        return ids.derived("cloudevent", source, id)
    try:
        return ids.parse(id)
    except ValueError:
        raise BadHeader("ce-id", id, "of the source ringpost is the id of a message") from None


def _instant_ms(header: str, value: str) -> int:
    if _INSTANT.fullmatch(value) is not None:
        try:
            instant = datetime.fromisoformat(value.upper().replace("Z", "+00:00"))
            return int(instant.astimezone(UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            pass
    raise BadHeader(header, value, "takes an instant such as 2026-11-22T10:00:00Z")


def _extensions(found: Mapping[str, str]) -> dict[str, str]:
    extensions = {name: value for name, value in found.items() if name not in _KNOWN}
    if len(extensions) > _EXTENSIONS_MAX:
        raise BadHeader("ce-*", str(len(extensions)), f"an event has at most {_EXTENSIONS_MAX} extensions")
    for name in extensions:
        if _NAME.fullmatch(name) is None:
            raise BadHeader(f"ce-{name}", name, "names are lower-case letters and digits")
    return extensions
