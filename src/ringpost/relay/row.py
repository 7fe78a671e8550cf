"""A message as a row of an outbox table, and back. Sans I/O.

Its id is final, so that however often a row is relayed, the store knows it again. What counts from the sending (a
delay, an expiry) is an instant in the row: a relay that comes late makes nothing later.
"""

import msgspec
from msgspec import Struct

from ringpost.core import ids
from ringpost.core.idempotency import digest
from ringpost.core.keep import KEEP_KEYED_S
from ringpost.core.message import Envelope, Message, Priority

FOR_SURE_S = KEEP_KEYED_S - 3600  # for so long the store certainly knows again what it was offered
_KEY_BYTES = 16


class Row(Struct, frozen=True):
    """`target`: the queue, or the full name of the event. `offered_ms`: when it was first offered to the store."""

    seq: int
    id: str
    target: str
    sent_ms: int
    terms: str
    headers: str
    body: bytes
    offered_ms: int | None = None


class Terms(Struct, frozen=True, omit_defaults=True):
    """What of a message is neither address nor content. Only ever gains fields with defaults."""

    event: bool = False
    priority: Priority = Priority.NORMAL
    due_ms: int | None = None
    expires_ms: int | None = None
    line: bytes | None = None
    dedup: bytes | None = None
    digest: bytes | None = None
    keep_s: int = 0
    caller: str | None = None
    log_s: int = 0


def row_of(message: Message, now_ms: int) -> Row:
    """Make the row of a message; its `seq` is the table's to give."""
    delayed_ms = now_ms + round(message.delay_s * 1000) if message.delay_s else None
    terms = Terms(
        event=bool(message.event),
        priority=message.priority,
        due_ms=delayed_ms if message.due_ms is None else message.due_ms,
        expires_ms=None if message.ttl_s is None else now_ms + round(message.ttl_s * 1000),
        line=message.line,
        dedup=message.dedup,
        digest=message.digest,
        keep_s=message.keep_s,
        caller=message.caller,
        log_s=message.log_s,
    )
    target = message.event or message.queue
    headers = message.headers.decode()
    return Row(0, ids.text(message.id), target, now_ms, _encode(terms).decode(), headers, message.body)


def message_of(row: Row, now_ms: int) -> Message:
    """Make the message of a row. ValueError, saying what is wrong, where it can't be read.

    It is kept for as long as an idempotency key holds, and has one (its id, if none was given), so that it isn't
    thinned out early: until then the store knows it again.
    """
    id = ids.parse(row.id)
    try:
        terms = _decode_terms(row.terms)
        _decode_envelope(row.headers)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    for key in (terms.line, terms.dedup, terms.digest):
        if key is not None and len(key) != _KEY_BYTES:
            raise ValueError("a key of 16 bytes has another length")
    if not row.target:
        raise ValueError("it has no target")
    return Message(
        id=id,
        queue="" if terms.event else row.target,
        event=row.target if terms.event else "",
        body=row.body,
        headers=row.headers.encode(),
        priority=terms.priority,
        due_ms=terms.due_ms,
        ttl_s=None if terms.expires_ms is None else max(0.0, (terms.expires_ms - now_ms) / 1000),
        line=terms.line,
        dedup=ids.hash128("outbox", id) if terms.dedup is None else terms.dedup,
        digest=digest(row.body) if terms.dedup is None else terms.digest,
        keep_s=max(terms.keep_s, KEEP_KEYED_S),
        caller=terms.caller,
        log_s=terms.log_s,
    )


_encode = msgspec.json.Encoder().encode
_decode_terms = msgspec.json.Decoder(Terms).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
