"""A call that may become a message: asked once, under one id, wherever it ends up.

Whoever serves the operation writes the request first and answers in time, or says that it goes on. Where nobody
answered, or nobody knows whether somebody took it, the caller keeps it as a message under the same id: whichever came
first is there, the other attaches to it, so that nothing takes effect twice. Whatever is an answer stays one: a Problem
and any 4xx are never a reason to send.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from msgspec import Struct

from ringpost.client.outcome import answer_from, reply_of
from ringpost.client.remote import RemoteTickets, receipt_of
from ringpost.client.router import Router
from ringpost.client.store_tickets import StoreTickets
from ringpost.client.ticket import Cancelling, Receipt, TicketSource
from ringpost.contract.errors import TransportError, Unavailable
from ringpost.contract.operation import Operation
from ringpost.core import ids
from ringpost.core.call import Call, Local
from ringpost.core.message import Answer
from ringpost.core.receipt import Status
from ringpost.store.port import Store
from ringpost.wire.sent import STATE, written

_UNANSWERED = frozenset({502, 503, 504})


class Landed(Struct):
    """Where a request goes on that has become a message: its receipt, and where its ticket is looked up."""

    receipt: Receipt
    source: TicketSource


class Asking:
    """Ask for one client, or for the contexts of one process."""

    def __init__(
        self, router: Router, store: Store | None, local: Local | None, headers: Callable[[], dict[str, str]]
    ) -> None:
        self._router = router
        self._local = local
        self._headers = headers
        self._stored = None if store is None else StoreTickets(store)

    async def ask(self, operation: Operation[Any, Any], call: Call) -> Answer | Landed:
        """Give the answer if it is there in time, else where it goes on.

        `call.sent` has the id. Raises TransportError where nobody answered; then somebody may have it all the same.
        """
        landed = await self._taken(operation, call)
        if isinstance(landed, Answer) or call.deadline_s <= asyncio.get_running_loop().time():
            return landed
        try:
            answer = await landed.source.answer(landed.receipt.id, call.deadline_s)
        except TransportError:  # whoever has it isn't there to be asked now: the ticket still is good
            answer = None
        return landed if answer is None else answer

    def source(self, operation: Operation[Any, Any]) -> TicketSource:
        """Give where tickets of an operation are looked up: in the store here, and at the address of its contract."""
        remote = RemoteTickets(self._router, operation, self._headers)
        if self._stored is None:
            return remote
        away = operation.contract_name in self._router.addressed
        return BothTickets(self._stored, remote) if away else self._stored

    async def _taken(self, operation: Operation[Any, Any], call: Call) -> Answer | Landed:
        local = self._local
        if local is None or not local.serves(call.operation):
            return await self._posted(operation, call)
        accepted = await local.accept(call)
        if isinstance(accepted, Answer):
            return _answered(operation, accepted)
        assert self._stored is not None
        level = cast(Any, accepted.level)
        receipt = Receipt(
            ids.text(accepted.id),
            duplicate=accepted.duplicate,
            receivers=accepted.receivers,
            level=level,
            store=accepted.store_id,
        )
        return Landed(receipt, self._stored)

    async def _posted(self, operation: Operation[Any, Any], call: Call) -> Answer | Landed:
        # The other side waits for as long as the request says that we do, less the way back: the whole seconds of the
        # preference are only not to be less than that.
        remaining_s = max(0.0, call.deadline_s - asyncio.get_running_loop().time())
        more = (("prefer", f"respond-async, wait={math.ceil(remaining_s)}"), *written(call.sent))
        response = await self._router.post(operation, call, more)
        if response.status == 202:
            return Landed(receipt_of(response, operation), self.source(operation))
        answer = answer_from(response)
        is_outcome = any(name.lower() == STATE for name, _ in response.headers)
        return answer if is_outcome else _answered(operation, answer)


def nothing_kept(error: TransportError, operation: Operation[Any, Any], id: bytes) -> Unavailable:
    """Say that nobody answered and that there is no store here that would have kept the request."""
    more = f" It may be there all the same: client.ticket({operation.full_name}, {ids.text(id)!r}) asks."
    return Unavailable(
        f"{error} Nothing is kept here, as this client has no store: with one the request would now be a durable "
        "message. Set `store` in ringpost.toml, or RINGPOST_STORE." + (more if error.processed == "maybe" else ""),
        processed=error.processed,
        retry_after=getattr(error, "retry_after", None),
    )


def _answered(operation: Operation[Any, Any], answer: Answer) -> Answer:
    """Give an answer that is one; raise what says that nobody took the request."""
    if answer.status in _UNANSWERED:
        reply_of(operation, answer)
    return answer


class BothTickets:
    """Tickets of messages that are in the store here, or at the address of their contract: asked for under an id, a
    message may have gone either way."""

    def __init__(self, stored: StoreTickets, remote: RemoteTickets) -> None:
        self._stored = stored
        self._remote = remote

    async def _source(self, id: str) -> TicketSource:
        return self._stored if await self._stored.knows(id) else self._remote

    async def status(self, id: str) -> Status:
        return await (await self._source(id)).status(id)

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        return await (await self._source(id)).answer(id, deadline_s)

    async def updates(self, id: str) -> AsyncIterator[Status]:
        async for status in (await self._source(id)).updates(id):
            yield status

    async def cancel(self, id: str) -> Cancelling:
        return await (await self._source(id)).cancel(id)
