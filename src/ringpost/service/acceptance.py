"""Calls that become messages: written first, born running under this process's lease, and handled at once.

Nothing turns from one into the other: it is a message from the beginning, and a crash at any moment re-runs it.
"""

import asyncio
import logging
from typing import Any

from msgspec.json import Encoder

from ringpost.client.options import OWN_HEADERS
from ringpost.client.posting import new_id
from ringpost.contract.contract import find_operation
from ringpost.contract.errors import InvalidRequest, RingpostError
from ringpost.contract.operation import Operation
from ringpost.core import ids
from ringpost.core.call import Accepted, Call
from ringpost.core.idempotency import dedup_id, digest
from ringpost.core.keep import KEEP_KEYED_S, keep_s
from ringpost.core.line import line_id
from ringpost.core.message import Answer, Envelope, Kind, Message, Reservation
from ringpost.core.outcome import invalid_answer
from ringpost.service import verdict
from ringpost.service.handler import Handler
from ringpost.service.pipeline import Pipeline
from ringpost.service.reservation import refused, stored
from ringpost.service.worker import Worker
from ringpost.settings import Settings
from ringpost.store.logged import log_error
from ringpost.store.port import Put, Store

_LOG = logging.getLogger("ringpost.service")
_RETRY_S = 1.0
_encode = Encoder().encode

# Of an HTTP request's headers these say nothing to a handler that runs later, or must not be kept.
_LEFT_BEHIND = OWN_HEADERS | {
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cookie",
    "forwarded",
    "origin",
    "proxy-authorization",
    "referer",
    "traceparent",
    "tracestate",
    "user-agent",
    "via",
}


class Acceptance:
    """Take requests that are to be handled later, or are at once and whose caller doesn't wait."""

    def __init__(self, store: Store | None, pipeline: Pipeline, settings: Settings) -> None:
        self._store = store
        self._pipeline = pipeline
        self._settings = settings
        self.worker: Worker | None = None  # none: nothing is started here, others take it

    async def accept(self, handler: Handler | None, call: Call) -> Accepted | Answer:
        """Write the request, and start it if it is for a handler of this process and a slot is free."""
        if self._store is None:
            detail = "This process has no store: it can answer, but not later."
            return verdict.refusal("unavailable", detail, call.operation)
        if call.sent.age_s > KEEP_KEYED_S:
            detail = "It was sent so long ago that nobody here would know if it was handled then."
            return verdict.refusal("too_old", detail, call.operation)
        if handler is None or handler.operation is None:
            admitted = self._unserved(call)
        else:
            admitted = await self._served(handler, call)
        if isinstance(admitted, Answer):
            return admitted
        # Who goes away meanwhile must not leave a message that is running and that nobody runs.
        return await asyncio.shield(self._pipeline.spawn(self._written(self._store, handler, call, admitted)))

    async def _served(self, handler: Handler, call: Call) -> Message | Answer:
        admitted = await self._pipeline.admit(handler, call)
        if isinstance(admitted, Answer):
            return admitted
        assert handler.operation is not None
        return self._message(handler.operation, call, *admitted)

    def _unserved(self, call: Call) -> Message | Answer:
        operation = find_operation(call.operation)
        if operation is None:
            return verdict.refusal("not_found", f"{call.operation} isn't known here.", call.operation)
        try:
            request = operation.request.decode(call.body)
        except InvalidRequest as error:
            return invalid_answer(error, call.operation)
        return self._message(operation, call, request, call.idempotency_key or operation.dedup_key(request))

    async def _written(self, store: Store, handler: Handler | None, call: Call, message: Message) -> Accepted | Answer:
        worker, slots = self.worker, None
        if worker is not None and handler is not None and message.line is None:
            # In a line others may be before it: then it waits like any message.
            slots = self._pipeline.slots(handler)
            if slots.take():
                message.reserve = Reservation(worker.holder, self._settings.lease_s)
        put: Put | None = None
        try:
            (put,) = await store.put((message,))
        except RingpostError as error:
            log_error(_LOG, logging.ERROR, error, "a request to %s could not be written", call.operation)
        finally:
            if slots is not None and message.reserve is not None and (put is None or put.delivery is None):
                slots.give()
        if put is None:
            detail = "The store can't take the request now."
            return verdict.refusal("unavailable", detail, call.operation, retry_after_s=_RETRY_S)
        if put.duplicate and put.delivery is None:
            return await self._met(store, call, put, message)
        if put.refused:
            return refused(put, call.operation)
        if put.delivery is not None:
            assert worker is not None
            worker.accept(put.delivery)
        return Accepted(put.id, put.duplicate, put.receivers, store.facts.level, store.facts.store_id)

    async def _met(self, store: Store, call: Call, put: Put, message: Message) -> Accepted | Answer:
        """Attach to what came before: the same message on another way, or what a key stands for already."""
        try:
            (record,) = await store.read((put.id,), bodies=True)
        except RingpostError as error:
            log_error(
                _LOG, logging.WARNING, error, "what came before a request to %s could not be read", call.operation
            )
            record = None
        if record is None:
            detail = "What came before under this id or key can't be read now."
            return verdict.refusal("unavailable", detail, call.operation, retry_after_s=_RETRY_S)
        if put.refused == "mismatch":  # what stands beside the body may differ between two ways
            same = record.queue == message.queue and digest(record.body) == digest(message.body)
            if not same:
                return refused(put, call.operation)
        elif put.refused:
            return refused(put, call.operation)
        if record.kind is not Kind.CALL:
            return Accepted(put.id, True, put.receivers, store.facts.level, store.facts.store_id)
        if not record.state.terminal:
            detail = "A call with this key is being handled."
            return verdict.refusal("in_flight", detail, call.operation, retry_after_s=_RETRY_S, processed=True)
        return stored(record, call.operation)

    def _message(self, operation: Operation[Any, Any], call: Call, request: object, key: str | None) -> Message:
        name = operation.full_name
        identity = "" if call.identity is None else call.identity.id
        sent = call.sent
        line = operation.line_key(request) if sent.ordering_key is None else sent.ordering_key
        envelope = Envelope(
            operation=name,
            causation_id=sent.causation_id,
            correlation_id=sent.correlation_id,
            sender=sent.sender,
            hops=sent.hops,
            trace=call.trace,
            tracestate=call.tracestate,
            key=line or "",
            identity=identity,
            claims={} if call.identity is None else call.identity.claims,
            headers={
                header: value
                for header, value in call.headers.items()
                if header not in _LEFT_BEHIND and not header.startswith("ringpost-")
            },
        )
        scope = identity
        if key is None and sent.id is not None:  # whoever brings it: knowing the id is the right to it
            scope, key = "", ids.text(sent.id)
        return Message(
            id=sent.id or new_id(),
            queue=name,
            body=call.body,
            headers=_encode(envelope),
            priority=call.priority,
            ttl_s=operation.ttl_s if sent.ttl_s is None else sent.ttl_s,
            line=None if line is None else line_id(operation.contract_name, line),
            dedup=None if key is None else dedup_id(scope, name, key),
            digest=None if key is None else digest(call.body),
            keep_s=keep_s(keyed=key is not None, waited_for=True),
            caller=identity or None,
        )
