"""Messages and tickets over HTTP, for a client without a store: what curl could do, typed."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

import msgspec
from msgspec import Struct

from ringpost.client.options import checked_headers
from ringpost.client.outcome import answer_from
from ringpost.client.outgoing import NO_OPTIONS, TICKETS, Asked
from ringpost.client.router import Router
from ringpost.client.ticket import FINAL, Cancelling, EventReceipt, Receipt, is_news
from ringpost.contract.errors import (
    DeadlineExceeded,
    StateError,
    TicketExpired,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import PROBLEM_URN
from ringpost.contract.vocabulary import CallOptions, SendOptions
from ringpost.core import ids
from ringpost.core.call import Call
from ringpost.core.message import Answer, Message
from ringpost.core.receipt import Level, Status, TicketState
from ringpost.wire.cloudevents import OURS, SPEC_VERSION
from ringpost.wire.headers import quoted
from ringpost.wire.http import Response
from ringpost.wire.problem import error_of

SEND_S = 10.0  # until a message must have been taken over
LONG_POLL_S = 25
TRANSIT_S = 5.0  # beyond what the other side was asked to wait
SENDS_AT_ONCE = 20
_STORE_ONLY = ("delay", "ttl", "ordering_key")


@runtime_checkable
class Closing(Protocol):
    """A stream that must be closed where it isn't read to its end."""

    async def aclose(self) -> None: ...


class _Accepted(Struct):
    """The body of a 202, as far as a receipt needs it."""

    id: str
    level: Level = "durable"
    duplicate: bool = False
    receivers: int = 1
    store: str = ""


class _Monitor(Struct, rename={"share": "percentComplete", "updated_at": "lastActionDateTime"}):
    """What a door shows of a message, as far as a Status needs it."""

    state: TicketState
    generation: int = 0
    share: float | None = None
    note: str = ""
    attempt: int = 0
    updated_at: datetime | None = None


class _Problem(Struct):
    """A problem, as far as one is told from another."""

    type: str = ""


_problem = msgspec.json.Decoder(_Problem)
_accepted = msgspec.json.Decoder(_Accepted)
_monitor = msgspec.json.Decoder(_Monitor)


class RemoteSender:
    """Hand messages to a door."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def send(
        self, operation: Operation[Any, Any], request: object, options: SendOptions, reply_to: object
    ) -> Receipt:
        _refuse_store_only(options, reply_to)
        call = self._prepared(operation, request, options)
        response = await self._router.post(operation, call, (("prefer", "respond-async"),))
        return receipt_of(response, operation)

    async def send_all(
        self, operation: Operation[Any, Any], requests: Sequence[object], options: SendOptions
    ) -> list[Receipt]:
        """Send them one by one, some at a time: a door takes no batches."""
        _refuse_store_only(options, None)
        receipts: dict[int, Receipt] = {}
        waiting = iter(enumerate(requests))

        async def work() -> None:
            for index, request in waiting:
                receipts[index] = await self.send(operation, request, options, None)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(SENDS_AT_ONCE, len(requests))):
                group.create_task(work())
        return [receipts[index] for index in range(len(requests))]

    async def publish(self, event: Event[Any], message: Message, options: SendOptions) -> Receipt:
        _refuse_store_only(options, None)
        target = await self._router.target(event)
        if target is None:
            raise Unavailable(
                f"Nobody takes {event.full_name}: this client has no store, and no address for "
                f"{event.contract_name!r} in `addresses`.",
                processed="no",
            )
        headers = [
            ("content-type", "application/json"),
            ("ce-specversion", SPEC_VERSION),
            ("ce-id", ids.text(message.id)),
            ("ce-source", OURS),
            ("ce-type", event.full_name),
            *checked_headers(options.get("headers", {})).items(),
        ]
        if "idempotency_key" in options:
            headers.append(("idempotency-key", quoted(options["idempotency_key"])))
        # It has an id: where it arrives twice, the second one is absorbed.
        asked = Asked(
            event.full_name, event.contract_name, "POST", "/events", headers, _until_s(SEND_S), body=message.body
        )
        response = await self._router.ask(asked)
        return receipt_of(response, event)

    def _prepared(self, operation: Operation[Any, Any], request: object, options: SendOptions) -> Call:
        asked: CallOptions = NO_OPTIONS
        if options:
            asked = {"headers": options.get("headers", {})}
            if "idempotency_key" in options:
                asked["idempotency_key"] = options["idempotency_key"]
            if "priority" in options:
                asked["priority"] = options["priority"]
        call = self._router.prepared(operation, request, asked)
        call.deadline_s = _until_s(SEND_S)
        return call


class RemoteTickets:
    """Look tickets up at the door of their contract."""

    def __init__(self, router: Router, operation: Operation[Any, Any], headers: Callable[[], dict[str, str]]) -> None:
        """`headers` gives what goes with every request: who asks must show it here too."""
        self._router = router
        self._operation = operation
        self._headers = headers

    async def status(self, id: str) -> Status:
        response = await self._ask("GET", id, "", (), _until_s(SEND_S))
        return _status(self._checked(response, id), id)

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        clock = asyncio.get_running_loop().time
        while True:
            remaining_s = deadline_s - clock()
            # The header says whole seconds; what is left of one is cut off here.
            wait_s = min(math.floor(remaining_s), LONG_POLL_S) if remaining_s >= 1 else math.ceil(max(0.0, remaining_s))
            prefer = (("prefer", f"wait={wait_s}"),) if wait_s else ()
            until_s = clock() + wait_s + TRANSIT_S
            try:
                response = await self._ask(
                    "GET", id, "/result", prefer, min(until_s, deadline_s) if remaining_s > 0 else until_s
                )
            except DeadlineExceeded:
                if remaining_s > 0 and clock() >= deadline_s:
                    return None
                raise
            if response.status != 202:
                _refuse_gone(response, id)
                return answer_from(response)
            if clock() >= deadline_s:
                return None

    async def updates(self, id: str) -> AsyncIterator[Status]:
        shown: Status | None = None
        while True:
            accept = (("accept", "text/event-stream"),)
            response = await self._ask("GET", id, "", accept, _until_s(SEND_S), streams=True)
            self._checked(response, id)
            # What stands between us and the door may not stream.
            bodies = _once(response.body) if response.stream is None else events_of(response.stream)
            try:
                async for body in bodies:
                    status = _decoded_status(body, id)
                    if is_news(status, shown):
                        shown = status
                        yield status
                    if status.state in FINAL:
                        return
            except Unavailable:
                await asyncio.sleep(1.0)  # the door went away in the middle; the message didn't
            finally:
                if isinstance(response.stream, Closing):
                    await response.stream.aclose()

    async def cancel(self, id: str) -> Cancelling:
        response = await self._ask("DELETE", id, "", (), _until_s(SEND_S))
        if response.status == 409:
            return "too_late"
        # The state in the answer may be from after a handler heard of it: what cancelling did is in the status.
        return "cancelled" if self._checked(response, id).status == 200 else "requested"

    async def _ask(
        self,
        method: str,
        id: str,
        rest: str,
        headers: tuple[tuple[str, str], ...],
        deadline_s: float,
        *,
        streams: bool = False,
    ) -> Response:
        asked = Asked(
            TICKETS,
            self._operation.contract_name,
            method,
            f"/tickets/{id}{rest}",
            [*headers, *self._headers().items()],
            deadline_s,
            streams=streams,
        )
        return await self._router.ask(asked)

    def _checked(self, response: Response, id: str) -> Response:
        _refuse_gone(response, id)
        if not 200 <= response.status < 300:
            raise error_of(response.status, response.body, dict(response.headers), self._operation)
        return response


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give the data of server-sent events as it comes."""
    rest = b""
    async for chunk in chunks:
        *events, rest = (rest + chunk.replace(b"\r\n", b"\n")).split(b"\n\n")
        for event in events:
            lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _refuse_store_only(options: SendOptions, reply_to: object) -> None:
    for name in (*_STORE_ONLY, "reply_to"):
        if name in options or (name == "reply_to" and reply_to is not None):
            raise UsageError(
                f"{name} needs a store here: this client has none and sends over HTTP. Set `store` in ringpost.toml, "
                "or RINGPOST_STORE."
            )


def receipt_of(response: Response, asked: Operation[Any, Any] | Event[Any]) -> Receipt:
    """Read the receipt that a 202 brings, or raise what another answer says."""
    if response.status not in (200, 201, 202):
        raise error_of(response.status, response.body, dict(response.headers), asked)
    try:
        found = _accepted.decode(response.body)
    except msgspec.MsgspecError as error:
        raise _no_door(asked.full_name) from error
    receipt = Receipt(
        found.id, duplicate=found.duplicate, receivers=found.receivers, level=found.level, store=found.store
    )
    return EventReceipt(receipt, asked.full_name) if isinstance(asked, Event) else receipt


def _status(response: Response, id: str) -> Status:
    return _decoded_status(response.body, id)


def _decoded_status(body: bytes, id: str) -> Status:
    try:
        found = _monitor.decode(body)
    except msgspec.MsgspecError as error:
        raise _no_door(f"the ticket {id}") from error
    share = None if found.share is None else found.share / 100
    updated_at = found.updated_at or datetime.now(UTC)
    return Status(found.state, share, found.note, found.attempt, found.generation, updated_at)


def _refuse_gone(response: Response, id: str) -> None:
    """Tell a ticket that isn't there from an outcome that happens to have its status."""
    if response.status in (404, 410):
        try:
            said = _problem.decode(response.body).type
        except msgspec.MsgspecError:
            return
        if said == PROBLEM_URN + "gone":
            raise TicketExpired(f"The message {id} is kept no longer.")
        if said == PROBLEM_URN + "not_found":
            raise StateError(f"There is no message {id} at that door, or it is kept no longer.")


def _no_door(what: str) -> TransportError:
    return TransportError(f"What answered for {what} is no door of Ringpost: its body can't be read.")


def _until_s(length_s: float) -> float:
    return asyncio.get_running_loop().time() + length_s
