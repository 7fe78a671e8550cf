"""Posting messages to where they belong: the handler of the forward queues, for the one worker loop.

What an answer means is decided in `core/handover.py`. An outage costs a message nothing; the queue's intake breaker
leaves one probe while it lasts.
"""

import asyncio
import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Struct

from ringpost.client.outcome import answer_from
from ringpost.client.world import REAL, World
from ringpost.contract.errors import RingpostError, TransportError
from ringpost.core import ids
from ringpost.core.call import Sent
from ringpost.core.handover import (
    FORWARD_S_MAX,
    Course,
    Heard,
    Receipt,
    Step,
    course_of,
    encode_receipt,
    outage_delay_s,
    settles,
)
from ringpost.core.message import Answer, Cause, Delivery, Envelope, Failure, Settlement, State
from ringpost.core.outcome import Disposition
from ringpost.core.retry import Retry, next_delay_s, spent
from ringpost.forward.receiver import Receiver
from ringpost.service import verdict
from ringpost.service.handler import Handler
from ringpost.service.slots import Slots
from ringpost.store.logged import log_error
from ringpost.store.port import Store
from ringpost.wire.headers import is_key, quoted
from ringpost.wire.http import Response
from ringpost.wire.problem import PROCESSED, is_declared
from ringpost.wire.sent import GENERATION, ID, STATE, written

CONCURRENCY = 64
POST_S = 10.0
WAIT_S = 1
_RETRY = Retry()
_HISTORY_MS = 24 * 3600 * 1000  # a first attempt that is younger can't be too old: nothing needs to be looked up
_LOG = logging.getLogger("ringpost.forward")


class _Monitor(Struct):
    """Of a 202, what is needed to ask for the outcome."""

    id: str
    generation: int = 1


class _Problem(Struct):
    """Of a problem, what is needed to tell one no from another, and to show it."""

    type: str = ""
    code: str = ""
    title: str = ""
    detail: str = ""


class _Reached(Struct, frozen=True):
    """Which store may have taken a message, and since when."""

    store_id: str = ""
    since_ms: int = 0


class _Posting(Struct, frozen=True):
    """A message that is being posted: by which task, and how many outages in a row there were when it began."""

    task: asyncio.Task[object]
    failures: int


class Poster:
    """Forward messages; what a worker takes a pipeline for. `away` is called when one is away whose outcome is wanted,
    with its queue."""

    def __init__(
        self, store: Store, receivers: Iterable[Receiver], away: Callable[[str], None], world: World = REAL
    ) -> None:
        self._store = store
        self._receivers: Mapping[str, Receiver] = {receiver.queue: receiver for receiver in receivers}
        self._slots = {queue: Slots(CONCURRENCY, queue) for queue in self._receivers}
        self._away = away
        self._chance = world.chance
        self._now_ms = world.wall_ms
        self._running: dict[int, _Posting] = {}
        self._ended: set[int] = set()  # whose posting was ended from here
        self._unwanted: set[int] = set()  # that somebody asked to cancel while they are posted

    def slots(self, handler: Handler) -> Slots:
        """Give the slots of a forward queue."""
        return self._slots[handler.queue]

    def cancel(self, ref: int, reason: str) -> bool:
        """End a message that is being posted. Somebody's wish to cancel waits for the answer: it goes along then."""
        posting = self._running.get(ref)
        if posting is None:
            return False
        if reason == "user":
            self._unwanted.add(ref)
        elif ref not in self._ended:
            self._ended.add(ref)
            posting.task.cancel()
        return True

    async def handle_message(self, handler: Handler, delivery: Delivery, *, charge: bool = True) -> Settlement:
        """Post a message and settle it. Never raises but for a cancellation of the task."""
        receiver = self._receivers[handler.queue]
        task = asyncio.current_task()
        assert task is not None
        self._running[delivery.ref] = _Posting(task, receiver.failures)
        try:
            return await self._handled(receiver, delivery)
        except CancelledError:
            if task.cancelling() > (delivery.ref in self._ended):
                raise  # somebody else wants this task ended
            task.uncancel()
            return await self._outage(receiver, delivery, "this process stopped while it was posted", maybe=True)
        finally:
            self._running.pop(delivery.ref, None)
            self._unwanted.discard(delivery.ref)
            self._ended.discard(delivery.ref)

    def undone(self, handler: Handler, delivery: Delivery, error: Exception, *, charge: bool) -> Settlement:
        """Settle a message anew whose settlement couldn't be committed; one without SQL always can, or fails whole."""
        raise AssertionError("a forwarder settles without SQL") from error

    async def _handled(self, receiver: Receiver, delivery: Delivery) -> Settlement:
        if self._now_ms() - delivery.created_ms > FORWARD_S_MAX * 1000:
            return self._given_up(receiver, delivery)
        try:
            if not receiver.store_id:
                await receiver.learn()
            reached = await self._reached(receiver, delivery)
            if reached.store_id and reached.store_id != receiver.store_id:
                detail = (
                    f"{receiver.url} leads to the store {receiver.store_id} now, but the store {reached.store_id} may "
                    "have taken this message: it waits for that one. If it is gone for good, cancel and send anew"
                )
                return await self._outage(receiver, delivery, detail, maybe=False, feeds=False)
            response = await self._post(receiver, delivery, reached)
        except TransportError as error:
            return await self._outage(receiver, delivery, str(error), maybe=error.processed == "maybe")
        except RingpostError as error:
            log_error(_LOG, logging.WARNING, error, "a message of %s could not be forwarded", receiver.queue)
            return await self._outage(receiver, delivery, str(error), maybe=False)
        return await self._answered(receiver, delivery, response)

    async def _post(self, receiver: Receiver, delivery: Delivery, reached: _Reached) -> Response:
        envelope = _decode_envelope(delivery.headers)
        contract, _, operation = envelope.operation.partition(".")
        return await receiver.ask(
            "POST",
            f"/{contract}/{operation}",
            headers_of(envelope, delivery, wire_id(receiver, delivery.id), reached.since_ms, self._now_ms()),
            delivery.body,
            POST_S,
        )

    async def _answered(self, receiver: Receiver, delivery: Delivery, response: Response) -> Settlement:
        headers = {name.lower(): value for name, value in response.headers}
        problem = _problem_of(response)
        heard = Heard(
            response.status,
            headers.get(STATE, ""),
            problem.code,
            is_declared(problem.type),
            headers.get(PROCESSED) != "no",
        )
        course = course_of(heard)
        if course.step not in (Step.OUTAGE, Step.ELSEWHERE):
            receiver.failures = 0
        said = problem.detail or problem.title or f"the answer was {response.status}"
        match course.step:
            case Step.AWAY | Step.ENDED:
                return self._taken(receiver, delivery, course, response, headers, said)
            case Step.ELSEWHERE:
                receiver.forget()
                return await self._outage(receiver, delivery, f"{receiver.url}: {said}", maybe=False)
            case Step.OUTAGE:
                return await self._outage(receiver, delivery, f"{receiver.url}: {said}", maybe=heard.processed)
            case Step.AGAIN:
                return self._again(receiver, delivery, f"{receiver.url}: {response.status}, {said}")
            case Step.REFUSED:
                return self._dead(delivery, course.cause, said)

    def _taken(
        self,
        receiver: Receiver,
        delivery: Delivery,
        course: Course,
        response: Response,
        headers: Mapping[str, str],
        said: str,
    ) -> Settlement:
        """Settle what the other store has: as it ended, or as away, where somebody wants its outcome."""
        if settles(course):
            assert course.to is not None
            if course.to is State.DEAD:
                return self._dead(delivery, course.cause, said)
            answer = None if response.status == 204 else answer_from(response)
            return verdict.ended(delivery, Disposition(course.to, course.cause, charge=True), answer, ())
        if not _is_awaited(delivery):
            return verdict.ended(delivery, Disposition(State.SUCCEEDED, charge=True), None, ())
        monitor = _monitor_of(response, headers, wire_id(receiver, delivery.id))
        receipt = Receipt(monitor.id, receiver.store_id, monitor.generation)
        self._away(receiver.queue)
        return Settlement(delivery, State.FORWARDED, Answer(202, encode_receipt(receipt)), feeds="good")

    # --- what went wrong

    async def _outage(
        self, receiver: Receiver, delivery: Delivery, detail: str, *, maybe: bool, feeds: bool = True
    ) -> Settlement:
        """Try again later, at no cost. `maybe`: the store there may have taken it."""
        if feeds and receiver.failures == self._running[delivery.ref].failures:
            receiver.failures += 1  # else one beside it has counted this outage
        before = await self._history(delivery)
        reached = before
        if maybe:
            since_ms = before.since_ms or delivery.started_ms or self._now_ms()
            reached = _Reached(receiver.store_id or before.store_id, since_ms)
        elif delivery.ref in self._unwanted and not before.since_ms:
            return verdict.ended(delivery, Disposition(State.CANCELLED, Cause.CANCELLED), None, ())
        failure = self._failure("Outage", detail, delivery)
        failure.store_id, failure.reached_ms = reached.store_id, reached.since_ms
        return Settlement(
            delivery,
            State.SCHEDULED,
            delay_s=outage_delay_s(receiver.failures, self._chance()),
            charge=False,
            cause=Cause.HANDLER_ERROR,
            failure=failure,
            feeds="downstream" if feeds else "",
        )

    def _again(self, receiver: Receiver, delivery: Delivery, detail: str) -> Settlement:
        if spent(_RETRY, delivery.attempt):
            return self._dead(delivery, Cause.HANDLER_ERROR, detail)
        return Settlement(
            delivery,
            State.SCHEDULED,
            delay_s=next_delay_s(_RETRY, delivery.attempt, self._chance()),
            cause=Cause.HANDLER_ERROR,
            failure=self._failure("Refused", detail, delivery),
            feeds="bad",
        )

    def _dead(self, delivery: Delivery, cause: Cause, detail: str) -> Settlement:
        _LOG.error("message %s of %s is dead (%s): %s", ids.text(delivery.id), delivery.queue, cause.word, detail)
        failure = self._failure("Refused", detail, delivery)
        return Settlement(delivery, State.DEAD, cause=cause, failure=failure, feeds="good")

    def _given_up(self, receiver: Receiver, delivery: Delivery) -> Settlement:
        detail = f"{receiver.url} has not taken it for {FORWARD_S_MAX / 86400:g} days"
        return self._dead(delivery, Cause.TOO_OLD, detail)

    def _failure(self, kind: str, detail: str, delivery: Delivery) -> Failure:
        return Failure(kind, detail[:2048], "", delivery.attempt, self._now_ms())

    # --- what was before

    async def _reached(self, receiver: Receiver, delivery: Delivery) -> _Reached:
        """Say which store may have the message already. It is looked up only where it can matter."""
        started_ms = delivery.started_ms or self._now_ms()
        if len(receiver.stores) < 2 and self._now_ms() - started_ms < _HISTORY_MS:
            return _Reached(since_ms=started_ms)
        return await self._history(delivery)

    async def _history(self, delivery: Delivery) -> _Reached:
        try:
            (record,) = await self._store.read((delivery.id,))
        except RingpostError:
            record = None
        failures = [] if record is None else record.failures
        reached = [_Reached(one.store_id, one.reached_ms) for one in failures if one.reached_ms]
        if reached:
            return min(reached, key=lambda one: one.since_ms)
        if record is None or delivery.losses:  # whoever was lost may have posted it
            return _Reached(since_ms=delivery.started_ms or self._now_ms())
        return _Reached()


def wire_id(receiver: Receiver, id: bytes) -> bytes:
    """Give the id under which a message goes to a receiver: its own. Only in its own store it needs another."""
    return ids.derived(id, "forwarded") if receiver.is_ours else id


def headers_of(
    envelope: Envelope, delivery: Delivery, id: bytes, reached_ms: int, now_ms: int
) -> list[tuple[str, str]]:
    """Write what goes with a message to another store."""
    prefer = f"respond-async, wait={WAIT_S}" if envelope.awaited or envelope.reply_to else "respond-async"
    sent = Sent(
        id,
        envelope.key or None,
        None if delivery.expires_ms is None else max(delivery.expires_ms - now_ms, 1) / 1000,
        max(now_ms - reached_ms, 0) / 1000 if reached_ms else 0.0,
        envelope.hops,
        envelope.correlation_id or ids.text(delivery.id),
        envelope.causation_id,
        envelope.sender,
    )
    headers = [("content-type", "application/json"), ("prefer", prefer), *written(sent), *envelope.headers.items()]
    if envelope.idempotency_key and is_key(envelope.idempotency_key):  # else the receiver makes it of the request
        headers.append(("idempotency-key", quoted(envelope.idempotency_key)))
    if envelope.trace:
        headers.append(("traceparent", envelope.trace))
        if envelope.tracestate:
            headers.append(("tracestate", envelope.tracestate))
    return headers


def _is_awaited(delivery: Delivery) -> bool:
    return b'"awaited"' in delivery.headers or b'"reply_to"' in delivery.headers


def _problem_of(response: Response) -> _Problem:
    try:
        return _decode_problem(response.body) if response.status >= 400 else _Problem()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Problem()


def _monitor_of(response: Response, headers: Mapping[str, str], id: bytes) -> _Monitor:
    """Read under which id the receiver has it. Another one than ours, where a key stands for what came before."""
    if response.status == 202:
        try:
            return _decode_monitor(response.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _Monitor(ids.text(id))
    generation = headers.get(GENERATION, "1")
    return _Monitor(headers.get(ID, ids.text(id)), int(generation) if generation.isdecimal() else 1)


_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_problem = msgspec.json.Decoder(_Problem).decode
_decode_monitor = msgspec.json.Decoder(_Monitor).decode
