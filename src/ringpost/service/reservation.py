"""Calls under an idempotency key: a reservation is written first, and the answer settles it together with the effect.

A reservation is no message: no worker claims it. While its call runs, a repeat of it is told to come again; when it has
been answered, a repeat gets the same bytes; when it failed, nothing of it stays and a repeat begins anew.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from msgspec.json import Encoder

from ringpost.client.posting import new_id
from ringpost.contract.errors import RingpostError
from ringpost.core.call import Call
from ringpost.core.idempotency import dedup_id, digest
from ringpost.core.keep import keep_s
from ringpost.core.message import (
    Answer,
    Cause,
    Delivery,
    Envelope,
    Kind,
    Message,
    Record,
    Reservation,
    Settlement,
    State,
)
from ringpost.core.outcome import problem_of_end
from ringpost.service import verdict
from ringpost.service.context import Means
from ringpost.service.handler import Handler
from ringpost.store.logged import log_error
from ringpost.store.port import Put, Store

_LOG = logging.getLogger("ringpost.service")
_RETRY_S = 1.0
_PAUSE_S_FIRST = 0.05
_PAUSE_S_MAX = 1.0
_NO_CONTENT = Answer(204)
_encode = Encoder().encode


class Spawn(Protocol):
    """Run something in a task of its own."""

    def __call__(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]": ...


class Reservations:
    """The reservations of one process. `holder` gives the number under which its leases are renewed."""

    def __init__(self, means: Means, spawn: Spawn) -> None:
        self._means = means
        self._spawn = spawn
        self.holder: Callable[[], int] = lambda: 0

    async def make(self, handler: Handler, call: Call, key: str) -> Delivery | Answer:
        """Reserve the key. Gives what to settle, or the answer: the stored one, in flight, or a refusal."""
        store = self._means.store
        if store is None:
            detail = "An idempotency key needs a store to be kept in, and this process has none."
            return verdict.refusal("unavailable", detail, handler.name)
        putting = self._spawn(store.put((self._message(handler, call, key),)))
        try:
            await asyncio.wait((putting,), timeout=max(call.deadline_s - self._means.loop.time(), 0.0))
        except asyncio.CancelledError:
            # Who gives up meanwhile must not leave a reservation that nobody handles and this process renews.
            putting.add_done_callback(self._undo)
            raise
        if not putting.done():
            putting.add_done_callback(self._undo)
            return verdict.refusal("deadline_exceeded", "The time was over before the handler began.", handler.name)
        try:
            (put,) = putting.result()
        except RingpostError as error:
            log_error(_LOG, logging.ERROR, error, "the key of a call to %s could not be reserved", handler.name)
            detail = "The store can't take the idempotency key now."
            return verdict.refusal("unavailable", detail, handler.name, retry_after_s=_RETRY_S)
        if put.delivery is not None:
            return self._in_time(handler, call, put.delivery)
        return await self._repeated(store, handler, put)

    def remove(self, delivery: Delivery) -> "asyncio.Task[str]":
        """Take a reservation away, as its call failed; once that is done, a repeat begins anew."""
        return self._spawn(self.settle(Settlement(delivery, State.CANCELLED, cause=Cause.CANCELLED, remove=True)))

    async def settle(self, settlement: Settlement) -> str:
        """Settle until the store has said whether it did. Gives why not: `lease_lost`. The fence makes it repeatable,
        and not to repeat it would leave a key that is in flight for as long as this process lives."""
        store = self._means.store
        assert store is not None
        pause_s = _PAUSE_S_FIRST
        while True:
            try:
                (done,) = await store.settle((settlement,))
            except RingpostError as error:
                log_error(_LOG, logging.WARNING, error, "a call could not be settled; again in %g s", pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_S_MAX)
            else:
                return "" if done else "lease_lost"

    def _in_time(self, handler: Handler, call: Call, delivery: Delivery) -> Delivery | Answer:
        if self._means.loop.time() < call.deadline_s:
            return delivery
        self.remove(delivery)
        return verdict.refusal("deadline_exceeded", "The time was over before the handler began.", handler.name)

    def _message(self, handler: Handler, call: Call, key: str) -> Message:
        identity = "" if call.identity is None else call.identity.id
        return Message(
            id=new_id(),
            queue=handler.queue,
            body=call.body,
            headers=_encode(Envelope(operation=handler.name, trace=call.trace, tracestate=call.tracestate)),
            kind=Kind.CALL,
            priority=call.priority,
            dedup=dedup_id(identity, handler.name, key),
            digest=digest(call.body),
            keep_s=keep_s(keyed=True),
            caller=identity or None,
            reserve=Reservation(self.holder(), self._means.settings.lease_s),
        )

    async def _repeated(self, store: Store, handler: Handler, put: Put) -> Answer:
        """Answer a repeat: with what the first one was answered, or that it is still at work."""
        if put.refused:
            return refused(put, handler.name)
        try:
            (record,) = await store.read((put.id,))
        except RingpostError:
            _LOG.warning("a stored answer of %s could not be read", handler.name, exc_info=True)
            record = None
        if record is None or not record.state.terminal:
            detail = "The first request with this key is still being handled."
            return verdict.refusal("in_flight", detail, handler.name, retry_after_s=_RETRY_S, processed=True)
        return stored(record, handler.name)

    def _undo(self, putting: "asyncio.Task[list[Put]]") -> None:
        if not putting.cancelled() and putting.exception() is None:
            delivery = putting.result()[0].delivery
            if delivery is not None:
                self.remove(delivery)


def refused(put: Put, name: str) -> Answer:
    """Answer what the store refused."""
    match put.refused:
        case "key_reused":
            detail = "The idempotency key was used before with another request; a key stands for one request."
            return verdict.refusal("key_reused", detail, name)
        case "mismatch":
            return verdict.refusal("mismatch", "What came before under this id was something else.", name)
        case "full":
            detail = f"The queue of {name} is full."
            return verdict.refusal("queue_full", detail, name, retry_after_s=_RETRY_S)
        case _:
            return verdict.refusal("store_full", "The store can't take more now.", name, retry_after_s=_RETRY_S)


def stored(record: Record, operation: str) -> Answer:
    """Give what a call under a key was answered."""
    if record.answer is not None:
        return record.answer
    if record.state is State.SUCCEEDED:
        return _NO_CONTENT
    return problem_of_end(record.state, record.cause, operation)
