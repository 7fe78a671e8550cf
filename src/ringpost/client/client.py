"""The client: the verbs for programs outside of handlers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

from msgspec import Struct
from typing_extensions import Unpack

from ringpost.client.asking import Asking, nothing_kept
from ringpost.client.deadline import waited_s
from ringpost.client.forwarding import OwnForwarding
from ringpost.client.options import check_call_options, checked_headers
from ringpost.client.outbox import Make, Outbox
from ringpost.client.outcome import reply_of
from ringpost.client.posting import Origin, event_of, fallback_of, message_of, messages_of, new_id
from ringpost.client.remote import RemoteSender
from ringpost.client.router import Router
from ringpost.client.statistics import TargetStatistics, statistics_of
from ringpost.client.store_sender import StoreSender
from ringpost.client.ticket import Cancelling, Receipt, Ticket, TicketSource
from ringpost.client.verbs import Caller
from ringpost.client.world import REAL, World
from ringpost.contract.errors import TransportError, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import (
    Asyncpg,
    CallOptions,
    Committable,
    Fits,
    Options,
    Reply,
    Request,
    Seconds,
    SendOptions,
    T,
)
from ringpost.core import ids
from ringpost.core.call import Call, Local, Sent
from ringpost.core.handling import handling
from ringpost.core.handover import forwarded_contract
from ringpost.core.message import Answer, Message
from ringpost.core.receipt import Status
from ringpost.settings import Given, Settings, load
from ringpost.store import store_for
from ringpost.store.port import Joined, Joining, Store

# They are for the door that is asked now, not for a store that keeps what it is given.
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]
AnyOptions = TypeVar("AnyOptions", CallOptions, Options)


class Client(Caller):
    """Call, send and publish from any program: `async with Client() as client:`.

    It opens at first use, in the event loop it is first used in. Calls go to whoever serves the operation. Messages go
    to the store, or over HTTP where there is none; a client never creates a store. Inside a handler it refuses: what is
    sent with `ctx` leaves when the handler succeeds, and not before.
    """

    def __init__(
        self, *, store: str | None = None, addresses: Mapping[str, str] | None = None, headers: Headers | None = None
    ) -> None:
        """Take what isn't to come from `ringpost.toml` and `RINGPOST_*`.

        `store`: its URL; `addresses`: contract → URL; `headers`: sent with every call and message, or a function that
        gives them anew each time.
        """
        self._given: Given = {}
        if store is not None:
            self._given["store"] = store
        if addresses is not None:
            self._given["addresses"] = addresses
        self._headers = headers
        self._opening: asyncio.Future[_Ways] | None = None
        self._ways: _Ways | None = None
        self._closed = False
        self._loaded: Settings | None = None
        self._attachment: _Attachment | None = None

    @classmethod
    def _attached(cls, store: Store | None, local: Local | None, settings: Settings, world: World = REAL) -> Self:
        """Give a client on the open store and the services of this process; closing it closes neither."""
        client = cls()
        client._attachment = _Attachment(store, local, settings, world)
        return client

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections and store. What is outstanding raises Unavailable; messages sent are safe. Repeatable."""
        self._closed = True
        opening, self._opening, self._ways = self._opening, None, None
        if opening is not None:
            await asyncio.wait((opening,))
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().close()

    def statistics(self) -> tuple[TargetStatistics, ...]:
        """Give what this process knows of every operation at every target that it has called over HTTP: its breaker,
        its latency, its budget. All clients of a process share it."""
        return statistics_of(REAL.guards, time.monotonic())

    async def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply:
        ways = self._ready() or await self._open()
        if self._headers is not None:
            options = self._with_headers(options)
        return await ways.router.call(operation, request, options)

    async def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> "Reply | Ticket[Reply]":
        """Ask, and wait at most `wait` seconds for the reply; then it goes on, and its ticket comes back.

        The request is written to a store before it is handled, under an id made here. Where nobody answers, or nobody
        can say whether somebody took it, it becomes a durable message in the store here, under the same id: however
        it got there, it takes effect once. Its ticket comes back at once then.

        `wait`: by default the operation's timeout, else 5 seconds; at most 60. Raises UsageError and InvalidRequest
        before any I/O; the operation's Problems and whatever else was answered, as `call` does; Unavailable without a
        store here; StoreError, Overloaded where the message can't be put. Repeating it asks twice unless it has an
        idempotency key.
        """
        ways = self._ready() or await self._open()
        if self._headers is not None:
            options = self._with_headers(options)
        check_call_options(options, "call_or_send")
        asked = cast(CallOptions, dict(options))
        if wait is not None:
            asked["timeout"] = waited_s(wait)
        return await ways.call_or_send(operation, request, asked, options)

    async def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Ticket[Reply]:
        ways = self._ready() or await self._open()
        if self._headers is not None:
            options = self._with_kept_headers(options, kept=ways.keeps)
        return await ways.send(operation, request, options, reply_to)

    async def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> list[Ticket[Reply]]:
        ways = self._ready() or await self._open()
        if self._headers is not None:
            options = self._with_kept_headers(options, kept=ways.keeps)
        return await ways.send_all(operation, requests, options)

    async def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt:
        ways = self._ready() or await self._open()
        if self._headers is not None:
            options = self._with_kept_headers(options, kept=ways.keeps)
        return await ways.publish(event, data, options)

    def ticket(self, operation: Operation[Request, Reply], id: str, /) -> Ticket[Reply]:
        """Give the ticket of a message sent before, by its id. Nothing is looked up yet."""
        try:
            ids.parse(id)
        except ValueError as error:
            raise UsageError(f"{id!r} is no message id; it looks like 0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e.") from error
        return Ticket(operation, _LaterTickets(self, operation), id)

    def outbox(self, session: Committable | Asyncpg, /) -> Outbox:
        """Send with the commit of a session that you opened: what is sent is there once it commits, or never.

        `session`: an AsyncSession or AsyncConnection of SQLAlchemy, a connection of asyncpg in a transaction, an
        AsyncConnection of psycopg 3, a connection of aiosqlite; with `ringpost.blocking` a Session or Connection of
        SQLAlchemy, Django's `connection` in `atomic`, a Connection of psycopg 3 or sqlite3. Where its database is the
        store's own (PostgreSQL), what is sent goes into the store's tables. Else it goes into the table ringpost_outbox
        of that database, from which a relay brings it to the store; UsageError where there is none, and where the
        database is a SQLite store's file. Errors of the database are raised as its driver has them: roll back then.
        """
        return Outbox(_ForOutbox(self), session)

    def _settings(self) -> Settings:
        """Give the settings, whether it is open or not."""
        if self._attachment is not None:
            return self._attachment.settings
        if self._loaded is None:
            self._loaded = load(self._given)
        return self._loaded

    def _ready(self) -> "_Ways | None":
        """Give what is open in this loop; refuse inside handlers."""
        _refuse_in_handler()
        ways = self._ways
        if ways is not None and ways.loop is not asyncio.get_running_loop():
            raise UsageError("This Client was opened in another event loop: make one per loop, or ringpost.blocking's.")
        return ways

    async def _open(self) -> "_Ways":
        self._ready()
        self._refuse_closed()
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._opened())
        opening = self._opening
        try:
            # Many may wait for it; who gives up must not take it from the others.
            self._ways = ways = await asyncio.shield(opening)
        except Exception:
            if self._opening is opening:
                self._opening = None  # the next one tries again
            raise
        return ways

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UsageError("This Client is closed: make another.")

    async def _opened(self) -> "_Ways":
        attachment = self._attachment
        if attachment is not None:
            return _Ways(
                attachment.settings,
                attachment.store,
                attachment.local,
                self._own_headers,
                owns=False,
                world=attachment.world,
            )
        settings = self._settings()
        store: Store | None = None
        if settings.store is not None:
            store = store_for(settings.store, settings)
            await store.open(create=False)
        return _Ways(settings, store, None, self._own_headers, owns=True)

    def _with_headers(self, options: AnyOptions) -> AnyOptions:
        return cast(AnyOptions, {**options, "headers": {**self._own_headers(), **options.get("headers", {})}})

    def _with_kept_headers(self, options: SendOptions, *, kept: bool) -> SendOptions:
        own = self._own_headers()
        if kept:
            own = {name: value for name, value in own.items() if name not in _CREDENTIALS}
        return {**options, "headers": {**own, **options.get("headers", {})}}

    def _own_headers(self) -> dict[str, str]:
        given = self._headers() if callable(self._headers) else self._headers
        return checked_headers(given or {})


class _Attachment(Struct):
    """What a client is put on that opens nothing itself."""

    store: Store | None
    local: Local | None
    settings: Settings
    world: World


class _Ways:
    """An open client: where calls and messages go."""

    def __init__(
        self,
        settings: Settings,
        store: Store | None,
        local: Local | None,
        headers: Callable[[], dict[str, str]],
        *,
        owns: bool,
        world: World = REAL,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.keeps = store is not None
        self.router = Router(settings, local, store, world)
        self.settings = settings
        self._store = store
        self._owns = owns
        self._sender = None if store is None else StoreSender(store)
        self._remote = RemoteSender(self.router)
        self._asking = Asking(self.router, store, local, headers)
        self._forwarding = OwnForwarding(store, settings) if store is not None and owns and settings.addresses else None
        if self._forwarding is not None:
            self._forwarding.open()

    async def close(self) -> None:
        if self._forwarding is not None:
            await self._forwarding.close()
        await self.router.close()
        if self._store is not None and self._owns:
            await self._store.close()

    def tickets(self, operation: Operation[Any, Any]) -> TicketSource:
        return self._asking.source(operation)

    async def send(
        self, operation: Operation[Any, Reply], request: object, options: SendOptions, reply_to: object
    ) -> Ticket[Reply]:
        message = message_of(operation, request, options, settings=self.settings, origin=ORIGIN, reply_to=reply_to)
        if self._sender is None:
            receipt = await self._remote.send(operation, request, options, reply_to)
        else:
            receipt = await self._sender.put(message)
            self._sent(message)
        return self._ticket(operation, receipt)

    async def send_all(
        self, operation: Operation[Any, Reply], requests: Iterable[object], options: SendOptions
    ) -> list[Ticket[Reply]]:
        asked = list(requests)
        messages = messages_of(operation, asked, options, settings=self.settings, origin=ORIGIN)
        if self._sender is None:
            receipts = await self._remote.send_all(operation, asked, options)
        else:
            receipts = await self._sender.put_all(messages)
            if messages:
                self._sent(messages[0])
        return [self._ticket(operation, receipt) for receipt in receipts]

    async def publish(self, event: Event[Any], data: object, options: SendOptions) -> Receipt:
        message = event_of(event, data, options, settings=self.settings, origin=ORIGIN)
        if self._sender is None:
            return await self._remote.publish(event, message, options)
        return await self._sender.put(message)

    async def join(self, messages: Sequence[Message]) -> Joined:
        """Make messages ready for a transaction on the store's database."""
        assert isinstance(self._store, Joining)  # its URL has been looked at
        return await self._store.join(messages)

    async def call_or_send(
        self, operation: Operation[Any, Reply], request: object, asked: CallOptions, kept: Options
    ) -> "Reply | Ticket[Reply]":
        call = self.router.prepared(operation, request, asked)
        id = new_id()
        call.sent = Sent(id)
        try:
            landed = await self._asking.ask(operation, call)
        except TransportError as error:
            if self._store is None:
                raise nothing_kept(error, operation, id) from error
            return await self._fallen_back(operation, request, call, kept, id)
        if isinstance(landed, Answer):
            return reply_of(operation, landed, ids.text(id))
        return self._ticket(operation, landed.receipt, landed.source)

    async def _fallen_back(
        self, operation: Operation[Any, Reply], request: object, call: Call, kept: Options, id: bytes
    ) -> "Reply | Ticket[Reply]":
        """Keep as a message what nobody answered. Where it is there already, by this id or its key, wait for that."""
        assert self._sender is not None
        options = cast(SendOptions, kept)
        message = fallback_of(operation, request, options, id, settings=self.settings, origin=ORIGIN)
        receipt = await self._sender.put(message, attach=True)
        self._sent(message)
        ticket = self._ticket(operation, receipt)
        if not receipt.duplicate:
            return ticket
        answer = await self.tickets(operation).answer(receipt.id, call.deadline_s)
        return ticket if answer is None else reply_of(operation, answer, receipt.id)

    def _sent(self, message: Message) -> None:
        if self._forwarding is not None and forwarded_contract(message.queue):
            self._forwarding.sent()

    def _ticket(
        self, operation: Operation[Any, Reply], receipt: Receipt, source: TicketSource | None = None
    ) -> Ticket[Reply]:
        return Ticket(
            operation,
            source or self.tickets(operation),
            receipt.id,
            duplicate=receipt.duplicate,
            receivers=receipt.receivers,
            level=receipt.level,
            store=receipt.store,
        )


ORIGIN = Origin()


def _refuse_in_handler() -> None:
    if handling.get() is not None:
        raise UsageError(
            "A Client can't be used inside a handler: use ctx.send, ctx.call, ctx.publish of its Context, so that "
            "what is sent leaves when the handler succeeds. `ctx.now` sends at once."
        )


class _ForOutbox:
    """What an outbox needs of a client, which opens its store only where it is asked to join."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def store_url(self) -> str | None:
        return self._client._settings().store

    def messages(self, options: SendOptions, make: Make, /) -> list[Message]:
        _refuse_in_handler()
        client = self._client
        client._refuse_closed()
        if client._headers is not None:
            options = client._with_kept_headers(options, kept=True)
        return make(options, client._settings())

    async def join(self, messages: Sequence[Message], /) -> Joined:
        ways = self._client._ready() or await self._client._open()
        return await ways.join(messages)


class _LaterTickets:
    """Tickets of a client that may not be open yet."""

    def __init__(self, client: Client, operation: Operation[Any, Any]) -> None:
        self._client = client
        self._operation = operation

    async def _source(self) -> TicketSource:
        ways = self._client._ready() or await self._client._open()
        return ways.tickets(self._operation)

    async def status(self, id: str) -> Status:
        return await (await self._source()).status(id)

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        return await (await self._source()).answer(id, deadline_s)

    async def updates(self, id: str) -> AsyncIterator[Status]:
        async for status in (await self._source()).updates(id):
            yield status

    async def cancel(self, id: str) -> Cancelling:
        return await (await self._source()).cancel(id)
