"""Messages made from JSON and what a service has noted of its operation, for when no door is there to make them.

The note has the JSON Schema of the request; what only the Python of the contract can work out (an ordering key, an
idempotency key) must be given, and its absence is refused.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

import jsonschema
import msgspec
from msgspec import Struct

from ringpost.client.options import checked_key, checked_line, positive_s, priority_of, when
from ringpost.client.posting import check_size, new_id
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.contract.pointer import pointer
from ringpost.core import ids
from ringpost.core.farewell import letters
from ringpost.core.idempotency import dedup_id, digest
from ringpost.core.keep import keep_s
from ringpost.core.line import line_id
from ringpost.core.message import Cause, Ended, Envelope, Message, State
from ringpost.core.notes import Described
from ringpost.settings import Settings

_encode = msgspec.json.Encoder().encode


class Terms(Struct, frozen=True, kw_only=True):
    """What the options of send and publish say."""

    delay: float | datetime | None = None
    ttl_s: float | None = None
    key: str | None = None
    ordering_key: str | None = None
    priority: Literal["high", "normal", "low"] | None = None
    reply_to: str | None = None

    @property
    def store_only(self) -> str:
        """Name an option that a door has no header for; empty where there is none."""
        given = {"--delay": self.delay, "--ttl": self.ttl_s, "--ordering-key": self.ordering_key}
        given["--reply-to"] = self.reply_to
        return next((option for option, value in given.items() if value is not None), "")


def checked(body: bytes, described: Described, name: str, settings: Settings) -> bytes:
    """Give the body that travels, if it fits the JSON Schema that was noted. Raises InvalidRequest naming the field."""
    what = "data" if described.kind == "event" else "request"
    if described.request is None:
        if body not in (b"", b"null"):
            raise InvalidRequest(f"{name} takes nothing: leave the {what} out.")
        return b""
    if not body:
        raise InvalidRequest(f"{name} takes a {what}: {_members_of(described.request) or 'JSON'}.")
    check_size(body, settings, name)
    validator = jsonschema.Draft202012Validator(described.request, format_checker=_formats)
    found: Iterable[jsonschema.ValidationError] = validator.iter_errors(msgspec.json.decode(body))  # pyright: ignore[reportUnknownMemberType]
    # The error that is least deep is the nearest to what is wrong: the others are about branches of a union.
    error = min(found, key=lambda one: len(one.absolute_path), default=None)
    if error is not None:
        at = pointer(list(error.absolute_path))
        detail = _shortened(error.message)
        if at in described.secrets:
            detail = "it isn't what the schema says"  # the message of the library quotes the value
        missing = _missing(error)
        if missing is not None:
            at, detail = f"{at}{pointer([missing])}", "this field is required and missing"
        where = f" at {at}" if at else ""
        raise InvalidRequest(f"The {what} of {name} doesn't fit{where}: {detail}.", pointer=at, detail=detail)
    return body


def message_of(name: str, described: Described, body: bytes, terms: Terms, settings: Settings, sender: str) -> Message:
    """Make the message that asks for an operation. Raises InvalidRequest, UsageError."""
    body = checked(body, described, name, settings)
    line, key = _keys(name, described, terms)
    delay_s, due_ms = when(terms.delay, "delay") if terms.delay is not None else (0.0, None)
    return Message(
        id=new_id(),
        queue=name,
        body=body,
        headers=_encode(Envelope(operation=name, reply_to=terms.reply_to or "", sender=sender, key=line or "")),
        priority=priority_of(terms.priority, described.priority or None),
        delay_s=delay_s,
        due_ms=due_ms,
        ttl_s=described.ttl_s if terms.ttl_s is None else positive_s(terms.ttl_s, "ttl"),
        line=None if line is None else line_id(name.partition(".")[0], line),
        dedup=None if key is None else dedup_id("", name, key),
        digest=None if key is None else digest(body),
        keep_s=keep_s(keyed=key is not None, waited_for=bool(terms.reply_to) or described.reply is not None),
    )


def check_taker(name: str, described: Described, message: Message, settings: Settings) -> None:
    """Refuse to tell the outcome of a message to an operation that can't read it: what would be told if nobody ever
    handled the message has to fit what its service has noted. Raises UsageError."""
    asked = message.queue
    ended = Ended(
        message.id, asked, State.CANCELLED, Cause.CANCELLED, 0, 1, message.headers, message.body, None, [], ""
    )
    if described.kind != "operation":
        raise UsageError(f"{name} is an event, and --reply-to takes the operation that the outcome goes to.")
    (letter,) = letters(ended, 0)
    try:
        checked(letter.body, described, name, settings)
    except InvalidRequest as error:
        raise UsageError(
            f"{name} can't take the outcome of {asked}: {error} Its contract declares what takes it as "
            f"Operation(Outcome[…]), with the request and the reply of {asked}."
        ) from error


def event_of(name: str, described: Described, body: bytes, terms: Terms, settings: Settings, sender: str) -> Message:
    """Make the message of an event; the store makes one delivery of it for every subscription."""
    body = checked(body, described, name, settings)
    line, key = _keys(name, described, terms)
    delay_s, due_ms = when(terms.delay, "delay") if terms.delay is not None else (0.0, None)
    return Message(
        id=event_id(name, key),
        queue="",
        body=body,
        headers=_encode(Envelope(operation=name, sender=sender, key=line or "")),
        event=name,
        priority=priority_of(terms.priority, None),
        delay_s=delay_s,
        due_ms=due_ms,
        ttl_s=None if terms.ttl_s is None else positive_s(terms.ttl_s, "ttl"),
        line=None if line is None else line_id(name, line),
        keep_s=keep_s(keyed=key is not None),
        log_s=described.log_s,
    )


def event_id(name: str, key: str | None) -> bytes:
    """Give the id of an event: under a key the same one is met again, and absorbed."""
    return new_id() if key is None else ids.derived("event", "", name, checked_key(key, "--key"))


def _keys(name: str, described: Described, terms: Terms) -> tuple[str | None, str | None]:
    """Give ordering key and idempotency key. One that the contract would work out can't be left out here."""
    if described.ordered and terms.ordering_key is None:
        raise UsageError(
            f"the ordering key of {name} is worked out by its contract, which isn't here: give --ordering-key, or send "
            "through a door."
        )
    if described.keyed and terms.key is None:
        raise UsageError(
            f"the idempotency key of {name} is worked out by its contract, which isn't here: give --key, or send "
            "through a door."
        )
    line = None if terms.ordering_key is None else checked_line(terms.ordering_key, "--ordering-key")
    return line, None if terms.key is None else checked_key(terms.key, "--key")


def _members_of(schema: Mapping[str, Any]) -> str:
    """Show what an object of the schema looks like: `{"email": string, "name": string}`."""
    target: Any = schema
    if "$ref" in schema:
        target = schema.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2], {})
    members: Mapping[str, Any] = target.get("properties", {})
    shown = ", ".join(f'"{name}": {part.get("type", "…")}' for name, part in members.items())
    return f"{{{shown}}}" if shown else ""


def _missing(error: jsonschema.ValidationError) -> str | None:
    """Name the first required field that isn't there."""
    wanted, found = error.validator_value, error.instance
    if error.validator != "required" or not isinstance(wanted, list) or not isinstance(found, dict):
        return None
    return next((str(field) for field in cast("list[object]", wanted) if field not in found), None)


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


_formats = jsonschema.FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


@_formats.checks("uuid", raises=ValueError)
def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or bool(UUID(value))
