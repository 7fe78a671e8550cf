"""Make messages of what a verb was given: body validated and encoded, envelope, keys, times, how long the row is kept.

Client and Context post alike; what differs is where the message comes from (`Origin`) and when it is put.
"""

import os
import time
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.json import Encoder

from ringpost.client.options import (
    check_event,
    check_operation,
    check_send_options,
    checked_headers,
    checked_key,
    checked_line,
    positive_s,
    priority_of,
    reply_to_name,
    when,
)
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.vocabulary import SendOptions
from ringpost.core import ids
from ringpost.core.handover import forward_queue
from ringpost.core.idempotency import dedup_id, digest
from ringpost.core.keep import keep_s
from ringpost.core.line import line_id
from ringpost.core.message import Envelope, Message, Priority
from ringpost.settings import Settings

NO_OPTIONS: SendOptions = {}
_RANDOM_BYTES = 10  # of a uuid7, the rest is time
_ENVELOPES_MAX = 1000
_encode_envelope = Encoder().encode


class Origin(Struct, frozen=True, gc=False):
    """Where messages come from: what a Client or a Context stamps on all that it sends."""

    identity: str = ""  # scopes idempotency keys
    sender: str = ""
    causation_id: str = ""  # empty: nothing caused it
    correlation_id: str = ""  # empty: the message's own id
    trace: str = ""
    tracestate: str = ""
    hops: int = 0
    headers: dict[str, str] = {}


NOWHERE = Origin()


class _Terms(Struct, gc=False):
    """What the options come to: the same for every message of one verb."""

    priority: Priority
    delay_s: float
    due_ms: int | None
    ttl_s: float | None
    key: str | None  # idempotency
    line: str | None  # ordering
    headers: dict[str, str]


def message_of(
    operation: Operation[Any, Any],
    request: object,
    options: SendOptions = NO_OPTIONS,
    *,
    settings: Settings,
    origin: Origin = NOWHERE,
    reply_to: object = None,
    id: bytes | None = None,
) -> Message:
    """Make the message that asks for an operation, for its queue, or for the forward queue of its contract where that
    has an address. Raises UsageError, InvalidRequest for what doesn't fit the type."""
    check_operation(operation, "send")
    terms = _terms(options, "send", operation.priority, operation.ttl_s)
    return _Form(operation, settings, origin, terms, reply_to_name(operation, reply_to)).message(
        request, id or new_id()
    )


def fallback_of(
    operation: Operation[Any, Any],
    request: object,
    options: SendOptions,
    id: bytes,
    *,
    settings: Settings,
    origin: Origin = NOWHERE,
) -> Message:
    """Make the message that a request becomes which nobody answered. It may be there already, under the same id, so it
    is kept for as long as what came over HTTP."""
    terms = _terms(options, "call_or_send", operation.priority, operation.ttl_s)
    message = _Form(operation, settings, origin, terms, "", awaited=True).message(request, id)
    message.keep_s = keep_s(repeatable=True)
    return message


def messages_of(
    operation: Operation[Any, Any],
    requests: Iterable[object],
    options: SendOptions = NO_OPTIONS,
    *,
    settings: Settings,
    origin: Origin = NOWHERE,
) -> list[Message]:
    """Make many messages at once: terms and envelope once, ids from one block of random bytes.

    None is made unless every request fits its type: InvalidRequest's pointer begins with the request's index.
    """
    check_operation(operation, "send_all")
    refuse_one_key(options, "send_all")
    terms = _terms(options, "send_all", operation.priority, operation.ttl_s)
    form = _Form(operation, settings, origin, terms, "")
    wanted = list(requests)
    messages: list[Message] = []
    for index, (id, request) in enumerate(zip(new_ids(len(wanted)), wanted, strict=True)):
        try:
            messages.append(form.message(request, id))
        except InvalidRequest as error:
            raise InvalidRequest(
                f"Request {index} of {len(wanted)}: {error}", pointer=f"/{index}{error.pointer}", detail=error.detail
            ) from error
    return messages


def event_of(
    event: Event[Any],
    data: object,
    options: SendOptions = NO_OPTIONS,
    *,
    settings: Settings,
    origin: Origin = NOWHERE,
    id: bytes | None = None,
) -> Message:
    """Make the message of an event; the store makes one delivery of it for every subscription."""
    check_event(event)
    terms = _terms(options, "publish", None, None)
    full_name = event.full_name
    body = event.data.encode(data)
    check_size(body, settings, full_name)
    line = terms.line if terms.line is not None else event.line_key(data)
    envelope = _envelope(full_name, origin, terms, "", line or "")
    # A delivery's id is derived from the event's: under a key the same event is met again, and absorbed.
    if id is None:
        id = new_id() if terms.key is None else ids.derived("event", origin.identity, full_name, terms.key)
    return Message(
        id=id,
        queue="",
        body=body,
        headers=_encode_envelope(envelope),
        event=full_name,
        priority=terms.priority,
        delay_s=terms.delay_s,
        due_ms=terms.due_ms,
        ttl_s=terms.ttl_s,
        line=None if line is None else line_id(full_name, line),
        keep_s=keep_s(keyed=terms.key is not None),
        caller=origin.identity or None,
        log_s=log_s(event),
    )


def log_s(event: Event[Any]) -> int:
    """Give for how many seconds the log keeps an event; 0: it keeps none."""
    return 0 if event.keep_s is None else max(1, round(event.keep_s))


def new_id() -> bytes:
    """Give an id nobody can guess: until services authenticate, knowing a ticket's id is the right to read it."""
    return ids.uuid7(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(_RANDOM_BYTES), "big"))


def new_ids(count: int) -> list[bytes]:
    """Give ids from one block of random bytes."""
    now_ms = time.time_ns() // 1_000_000
    block = os.urandom(_RANDOM_BYTES * count)
    return [
        ids.uuid7(now_ms, int.from_bytes(block[at : at + _RANDOM_BYTES], "big"))
        for at in range(0, len(block), _RANDOM_BYTES)
    ]


def refuse_one_key(options: object, verb: str) -> None:
    """Refuse one idempotency key for many requests: all but the first would count as repeats of it."""
    if isinstance(options, dict) and "idempotency_key" in options:
        raise UsageError(
            f"{verb} takes no idempotency_key: one key for many requests would make repeats of all but the first. "
            "Declare `idempotency_key=` at the operation, as a function of the request."
        )


def _terms(options: SendOptions, verb: str, priority: str | None, ttl_s: float | None) -> _Terms:
    if not options:
        return _Terms(priority_of(None, priority), 0.0, None, ttl_s, None, None, {})
    check_send_options(options, verb)
    delay_s, due_ms = when(options["delay"], "delay") if "delay" in options else (0.0, None)
    return _Terms(
        priority_of(options.get("priority"), priority),
        delay_s,
        due_ms,
        positive_s(options["ttl"], "ttl") if "ttl" in options else ttl_s,
        checked_key(options["idempotency_key"], "idempotency_key") if "idempotency_key" in options else None,
        checked_line(options["ordering_key"], "ordering_key") if "ordering_key" in options else None,
        checked_headers(options["headers"]) if "headers" in options else {},
    )


def _envelope(full_name: str, origin: Origin, terms: _Terms, reply_to: str, line: str = "") -> Envelope:
    return Envelope(
        operation=full_name,
        reply_to=reply_to,
        causation_id=origin.causation_id,
        correlation_id=origin.correlation_id,
        trace=origin.trace,
        tracestate=origin.tracestate,
        sender=origin.sender,
        hops=origin.hops,
        key=line,
        headers={**origin.headers, **terms.headers} if origin.headers else terms.headers,
    )


class _Form:
    """Makes the messages of one verb: what they share is worked out once."""

    def __init__(
        self,
        operation: Operation[Any, Any],
        settings: Settings,
        origin: Origin,
        terms: _Terms,
        reply_to: str,
        *,
        awaited: bool = False,
    ) -> None:
        self._operation = operation
        self._settings = settings
        self._origin = origin
        self._terms = terms
        self._full_name = operation.full_name
        self._reply_to = reply_to
        self._waited_for = awaited or bool(reply_to) or not operation.reply.empty
        self._headers: dict[str, bytes] = {}  # by ordering key: it is in the envelope, for display
        # Keys of a message that is to be forwarded mean something in its queue here; there they are the receiver's.
        self._away = operation.contract_name in settings.addresses
        self._queue = forward_queue(operation.contract_name) if self._away else self._full_name
        self._line_scope = self._queue if self._away else operation.contract_name
        self._key_scope = f"{self._queue} {self._full_name}" if self._away else self._full_name

    def message(self, request: object, id: bytes) -> Message:
        operation, terms = self._operation, self._terms
        body = operation.request.encode(request)
        check_size(body, self._settings, self._full_name)
        line = terms.line if terms.line is not None else operation.line_key(request)
        key = terms.key if terms.key is not None else operation.dedup_key(request)
        return Message(
            id=id,
            queue=self._queue,
            body=body,
            headers=self._away_headers(line, key) if self._away else self._usual_headers(line or ""),
            priority=terms.priority,
            delay_s=terms.delay_s,
            due_ms=terms.due_ms,
            ttl_s=terms.ttl_s,
            line=None if line is None else line_id(self._line_scope, line),
            dedup=None if key is None else dedup_id(self._origin.identity, self._key_scope, key),
            digest=None if key is None else digest(body),
            keep_s=keep_s(keyed=key is not None, waited_for=self._waited_for),
            caller=self._origin.identity or None,
        )

    def _usual_headers(self, line: str) -> bytes:
        known = self._headers.get(line)
        if known is not None:
            return known
        envelope = _encode_envelope(_envelope(self._full_name, self._origin, self._terms, self._reply_to, line))
        if len(self._headers) < _ENVELOPES_MAX:
            self._headers[line] = envelope
        return envelope

    def _away_headers(self, line: str | None, key: str | None) -> bytes:
        envelope = _envelope(self._full_name, self._origin, self._terms, self._reply_to, line or "")
        envelope.idempotency_key = key or ""
        envelope.awaited = self._waited_for
        return _encode_envelope(envelope)


def check_size(body: bytes, settings: Settings, full_name: str) -> None:
    """Refuse what the receiver would refuse, before it travels."""
    if len(body) > settings.request_bytes_max:
        raise InvalidRequest(
            f"The request of {full_name} is {len(body):,} bytes long; at most {settings.request_bytes_max:,} travel. "
            "Send a reference to it instead, or raise request_bytes_max on both sides."
        )
