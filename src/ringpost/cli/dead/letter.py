"""A dead letter as people and machines see it: everything that is known of it, but no secrets."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct

from ringpost.cli.output import instant, json_of
from ringpost.cli.stores import described
from ringpost.core import ids
from ringpost.core.message import Cause, Envelope, Failure, Record
from ringpost.store.port import Store

MASK = "***"
_EACH = "*"


class Done(Struct, frozen=True):
    """What was done with it before, when and by whom."""

    at: str | None
    who: str
    what: str
    detail: str


class Letter(Struct, kw_only=True):
    """A dead letter. `replays`: how often it was opened again before."""

    id: str
    queue: str
    operation: str
    cause: str
    attempts: int
    losses: int
    replays: int
    created: str | None
    died: str | None
    sender: str
    reply_to: str
    ordering_key: str
    trace: str
    correlation_id: str
    causation_id: str
    hops: int
    headers: dict[str, str]
    body: Any
    errors: list[Failure]
    history: list[Done]


async def letter_of(store: Store, record: Record) -> Letter:
    """Read a dead letter from its row, which was read with bodies."""
    envelope = envelope_of(record.headers)
    name = envelope.operation or record.queue
    noted = await described(store, name)
    body = json_of(record.body)
    for pointer in noted.secrets if noted is not None else ():
        body = masked(body, pointer.split("/")[1:])
    return Letter(
        id=ids.text(record.id),
        queue=record.queue,
        operation=name,
        cause=record.cause.word,
        attempts=record.attempts,
        losses=record.losses,
        replays=max(0, record.generation - 1),
        created=instant(record.created_ms),
        died=instant(record.settled_ms),
        sender=envelope.sender,
        reply_to=envelope.reply_to,
        ordering_key=envelope.key,
        trace=envelope.trace,
        correlation_id=envelope.correlation_id,
        causation_id=envelope.causation_id,
        hops=envelope.hops,
        headers=envelope.headers,
        body=body,
        errors=record.failures,
        history=[Done(instant(one.at_ms), one.who, one.what, one.detail) for one in await store.audit(record.id)],
    )


def operation_of(record: Record) -> str:
    """Give the full name of what a row asks for."""
    return envelope_of(record.headers).operation or record.queue


def envelope_of(headers: bytes) -> Envelope:
    """Read what travels beside a body; nothing, where it can't be read."""
    try:
        return msgspec.json.decode(headers, type=Envelope)
    except msgspec.MsgspecError:
        return Envelope()


def masked(value: Any, tokens: Sequence[str]) -> Any:
    """Give a JSON value with `***` where a pointer leads; `*` in it is every entry."""
    if not tokens:
        return MASK
    token, rest = tokens[0].replace("~1", "/").replace("~0", "~"), tokens[1:]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: masked(part, rest) if token in (key, _EACH) else part for key, part in fields.items()}
    if isinstance(value, list):
        items = cast(Sequence[Any], value)
        return [masked(part, rest) if token in (str(at), _EACH) else part for at, part in enumerate(items)]
    # Where the document isn't what its type says, nothing is known of where the secret is.
    return None if value is None else MASK


def told(letter: Letter) -> str:
    """Write a dead letter for people."""
    facts = (
        ("id", letter.id),
        ("queue", letter.queue),
        ("operation", letter.operation if letter.operation != letter.queue else ""),
        ("cause", letter.cause),
        ("attempts", f"{letter.attempts}{f', workers lost {letter.losses}' if letter.losses else ''}"),
        ("replays", letter.replays or ""),
        ("sent", letter.created),
        ("died", letter.died),
        ("sender", letter.sender),
        ("reply to", letter.reply_to),
        ("ordering key", letter.ordering_key),
        ("trace", letter.trace),
        ("correlation", letter.correlation_id),
        ("caused by", letter.causation_id),
        ("headers", ", ".join(f"{name}: {value}" for name, value in letter.headers.items())),
    )
    parts = ["\n".join(f"{name:13}{value}" for name, value in facts if value)]
    damaged = letter.cause == Cause.CHECKSUM.word
    if damaged:
        parts.append(
            "What is stored of it has changed on the disk: neither its request nor its headers can be trusted."
        )
    body = msgspec.json.format(msgspec.json.encode(letter.body), indent=2).decode()
    parts.append(f"request\n{_indented(body)}")
    if letter.history:
        parts.append(
            "history\n" + "\n".join(f"  {one.at} {one.what} by {one.who}: {one.detail}" for one in letter.history)
        )
    parts += [_error(failure) for failure in letter.errors]
    parts.append(_what_to_do(letter.id, damaged))
    return "\n\n".join(parts)


def _what_to_do(id: str, damaged: bool) -> str:
    drop = f"ringpost dead drop {id}"
    if damaged:
        anew = "It can't be handled. Send its request anew from where it came, and look at the disk."
        return f"{anew}\nRemove it:       {drop}"
    return f"Handle it again: ringpost dead replay {id}\nRemove it:       {drop}"


def _error(failure: Failure) -> str:
    where = " ".join(part for part in (f"on {failure.host}" if failure.host else "", failure.version) if part)
    head = f"attempt {failure.attempt} at {instant(failure.at_ms)}{f' {where}' if where else ''}"
    text = failure.traceback.rstrip() or f"{failure.type}: {failure.message}"
    return f"{head}\n{_indented(text)}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
