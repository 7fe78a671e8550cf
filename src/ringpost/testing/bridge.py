"""From a test's event loop or thread into the harness's: a client whose verbs run over there, and its tickets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any, TypeVar, cast

from typing_extensions import Unpack

from ringpost.client import deadline
from ringpost.client.client import Client
from ringpost.client.ticket import Cancelling, Receipt, Ticket, TicketSource
from ringpost.contract.errors import UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import CallOptions, Fits, Options, Reply, Request, Seconds, SendOptions, T
from ringpost.core.message import Answer
from ringpost.core.receipt import Status
from ringpost.testing.virtual_time import VirtualLoop

_T = TypeVar("_T")
_BLOCKS_MAX = 1000


class Bridge:
    """The way into the harness's loop, which is made to run at first use."""

    def __init__(
        self, loop: VirtualLoop, begin: Callable[[], None], open: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        """`begin` is called here and makes the loop run; `open` is awaited over there."""
        self.loop = loop
        self._begin = begin
        self._open = open
        self._blocks: dict[float, float] = {}  # end of a `deadline` block by the test's clock → by ours

    async def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine over there and wait for it here, in whatever loop this is."""
        here = asyncio.get_running_loop()
        if here is self.loop:
            return await make()
        self._begin()
        context = copy_context()
        self._translate_deadline(context, here.time())
        with self.loop.guest(here):
            return await asyncio.wrap_future(self.loop.run(lambda: self._opened(make), context))

    def run_blocking(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine over there while this thread stands still."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self.stand_still(make)
        raise UsageError("blocking_client was used inside an event loop: use `client` there, and await it.")

    def stand_still(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do the same wherever this is: over there nobody waits for a loop that stands still here."""
        self._begin()
        return self.loop.run(lambda: self._opened(make), copy_context()).result()

    async def _opened(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        await self._open()
        return await make()

    def _translate_deadline(self, context: Variables, here_s: float) -> None:
        """A block of `with deadline(…)` ends by the clock of the test's loop; say when that is over there."""
        block = deadline._block.get()
        if block is None:
            return
        ends_s = block.until_s
        if ends_s not in self._blocks:
            if len(self._blocks) >= _BLOCKS_MAX:
                self._blocks.clear()
            self._blocks[ends_s] = self.loop.time() + ends_s - here_s
        context.run(deadline._block.set, deadline.Block(self._blocks[ends_s], block.handling))


class Portal:
    """The bridge as blocking clients know it."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        return self._bridge.run_blocking(make)


class BridgedClient(Client):
    """The harness's client: every verb runs in its loop, under its time."""

    def __init__(self, inner: Client, bridge: Bridge) -> None:
        super().__init__()
        self._inner = inner
        self._bridge = bridge

    async def __aenter__(self) -> "BridgedClient":
        return self

    async def close(self) -> None:
        """Do nothing: the harness closes it."""

    async def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply:
        return await self._bridge.run(lambda: self._inner.call(operation, request, **options))

    async def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> "Reply | Ticket[Reply]":
        found = await self._bridge.run(lambda: self._inner.call_or_send(operation, request, wait=wait, **options))
        return self._bridged(cast("Ticket[Reply]", found)) if isinstance(found, Ticket) else found

    async def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Ticket[Reply]:
        sending = self._bridge.run(lambda: self._inner.send(operation, request, reply_to=reply_to, **options))
        return self._bridged(await sending)

    async def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> list[Ticket[Reply]]:
        wanted = list(requests)
        tickets = await self._bridge.run(lambda: self._inner.send_all(operation, wanted, **options))
        return [self._bridged(ticket) for ticket in tickets]

    async def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt:
        return await self._bridge.run(lambda: self._inner.publish(event, data, **options))

    def ticket(self, operation: Operation[Request, Reply], id: str, /) -> Ticket[Reply]:
        return self._bridged(self._inner.ticket(operation, id))

    def _bridged(self, ticket: Ticket[Reply]) -> Ticket[Reply]:
        return Ticket(
            ticket._operation,
            BridgedTickets(ticket._source, self._bridge),
            ticket.id,
            duplicate=ticket.duplicate,
            receivers=ticket.receivers,
            level=ticket.level,
            store=ticket.store,
        )


class BridgedTickets:
    """Tickets that are looked up in the harness's loop."""

    def __init__(self, inner: TicketSource, bridge: Bridge) -> None:
        self._inner = inner
        self._bridge = bridge

    async def status(self, id: str) -> Status:
        return await self._bridge.run(lambda: self._inner.status(id))

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        left_s = deadline_s - asyncio.get_running_loop().time()

        async def answer() -> Answer | None:
            return await self._inner.answer(id, self._bridge.loop.time() + left_s)

        return await self._bridge.run(answer)

    async def updates(self, id: str) -> AsyncIterator[Status]:
        statuses = self._inner.updates(id)
        while True:
            try:
                status = await self._bridge.run(lambda: _next(statuses))
            except EndOfUpdates:
                return
            yield status

    async def cancel(self, id: str) -> Cancelling:
        return await self._bridge.run(lambda: self._inner.cancel(id))


class EndOfUpdates(Exception):
    """Say that the last status has been given."""


async def _next(statuses: AsyncIterator[Status]) -> Status:
    try:
        return await anext(statuses)
    except StopAsyncIteration:
        raise EndOfUpdates from None
