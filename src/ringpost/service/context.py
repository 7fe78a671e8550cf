"""The Context of a handler: who asked, how long there is, and the verbs, staged until the handler succeeds."""

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import CoroutineType
from typing import Any, cast, final

from msgspec import Struct
from msgspec.json import Decoder
from typing_extensions import Unpack

from ringpost.client.asking import Asking, nothing_kept
from ringpost.client.deadline import waited_s
from ringpost.client.options import check_call_options
from ringpost.client.outcome import reply_of
from ringpost.client.posting import Origin, new_id
from ringpost.client.router import Router
from ringpost.client.store_sender import StoreSender
from ringpost.client.ticket import Receipt
from ringpost.client.verbs import Caller, Sender
from ringpost.client.world import REAL, World
from ringpost.contract.errors import Cancelled, RingpostError, TransportError, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import CallOptions, Fits, Options, Reply, Request, Seconds, SendOptions, T
from ringpost.core import ids
from ringpost.core.call import Call, Identity, Sent
from ringpost.core.idempotency import digest
from ringpost.core.message import Answer, Delivery, Envelope, Message, Progress
from ringpost.core.outcome import Stopped
from ringpost.service.dry_run import DryRun
from ringpost.service.handler import Handler
from ringpost.service.schedule import wall_ms
from ringpost.service.staging import Now, Staging, UsualSends, over, staged
from ringpost.service.transaction import HandlingTransaction, Transaction
from ringpost.settings import Settings
from ringpost.store.port import Report, Store

HOPS_MAX = 100
_LOG = logging.getLogger("ringpost.handler")
_PROGRESS_S = 1.0
_NO_HEADERS: dict[str, str] = {}
_EMPTY = Envelope()
_PLAIN = b"{}"
_decode_envelope = Decoder(Envelope).decode


class Means(Struct, frozen=True, gc=False):
    """What the contexts of one process work with."""

    settings: Settings
    store: Store | None
    router: Router
    asking: Asking
    loop: asyncio.AbstractEventLoop
    usual: UsualSends  # what sends without options come to
    world: World = REAL
    dry: DryRun | None = None  # of a process that only rehearses


@final
class Context(Caller):
    """What a handler knows and may do; take it as a parameter, `ctx: Context`.

    What it sends and publishes is staged when the verb is called (a forgotten await loses nothing) and leaves when the
    handler succeeds; if it fails, nothing leaves. Calls go out at once. It must not be used once the handler is done.
    """

    __slots__ = (
        "_asked",
        "_delivery",
        "_ended",
        "_ends_s",
        "_envelope",
        "_handler",
        "_means",
        "_origin",
        "_own_id",
        "_reason",
        "_reported_s",
        "_request",
        "_staging",
        "_task",
        "_tx",
        "attempt",
    )

    def __init__(
        self,
        means: Means,
        handler: Handler,
        request: Call | None,
        delivery: Delivery | None,
        task: "asyncio.Task[Any]",
        ends_s: float,
    ) -> None:
        self._means = means
        self._handler = handler
        self._request = request
        self._delivery = delivery
        self._task = task
        self._ends_s = ends_s
        self._staging: Staging | None = None
        self._tx: HandlingTransaction | None = None
        self._ended = False
        self._asked = False  # the task was cancelled by us
        self._reason: Stopped | None = None
        # What few ask for is worked out when they do.
        self._envelope: Envelope | None = None
        self._origin: Origin | None = None
        self._own_id: bytes | None = None
        self._reported_s = 0.0
        self.attempt: int = request.attempt if request is not None else 1 if delivery is None else delivery.attempt

    # --- who and what

    @property
    def message_id(self) -> str:
        """The id of the message, the same at every attempt; of a call without key one of its own."""
        return ids.text(self._id())

    @property
    def identity(self) -> Identity | None:
        """Who asked, as `authenticate` said; None for anybody."""
        if self._request is not None:
            return self._request.identity
        envelope = self._read_envelope()
        return Identity(envelope.identity, envelope.claims) if envelope.identity else None

    @property
    def headers(self) -> Mapping[str, str]:
        """What the sender gave as `headers=`, or the headers of the request. Names are lower case."""
        if self._request is not None:
            return self._request.headers
        return self._read_envelope().headers

    @property
    def fence(self) -> int | None:
        """A number that rises with every claim in the store: give it to what must not obey an outdated worker. None in
        a call without key, which no store knows of."""
        return None if self._delivery is None else self._delivery.fence

    @property
    def dry_run(self) -> bool:
        """Whether this is only to show what would happen, as by `ringpost dead replay --dry-run`; handlers that are
        declared with `dry_run=True` see it. What goes through this Context and the Transaction takes no effect then; to
        everything else the handler must see itself."""
        return self._means.dry is not None

    @property
    def log(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose records carry operation, message_id and attempt."""
        return logging.LoggerAdapter(
            _LOG.getChild(self._handler.queue),
            {"operation": self._handler.name, "message_id": self.message_id, "attempt": self.attempt},
        )

    # --- how long

    @property
    def deadline(self) -> datetime:
        """Until when it may run, in UTC: the caller's deadline; of a message, or with `finish=True`, the end of
        `max_run`."""
        return datetime.now(UTC) + timedelta(seconds=self._until_s() - self._means.loop.time())

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least 0: the timeout to hand to any library."""
        return max(self._until_s() - self._means.loop.time(), 0.0)

    @property
    def cancelled(self) -> Stopped | None:
        """Why this is to end, once it is; an async handler sees CancelledError at its next await as well."""
        if self._reason is None and self._request is not None and self._task.cancelling():
            return "caller_gone"
        return self._reason

    async def progress(self, fraction: float | None, note: str = "", /) -> None:
        """Show how far it is, 0 to 1 or None, and a word; kept at most once a second, and not durably.

        Raises Cancelled once somebody asked to cancel. In a call there is nobody to show it to.
        """
        if fraction is not None and not 0 <= fraction <= 1:
            raise UsageError(f"progress takes a fraction of 0 to 1, or None, not {fraction!r}.")
        self._check_cancelled()
        delivery, store = self._delivery, self._means.store
        if delivery is None or store is None or self._request is not None:
            return
        if self._tx is not None and self._tx._wrote:
            return  # the store may be waiting for this handler
        now_s = self._means.loop.time()
        if now_s - self._reported_s < _PROGRESS_S and fraction != 1:
            return
        self._reported_s = now_s
        try:
            (changed,) = await store.change([Report(delivery, Progress(fraction, note, wall_ms()))])
        except RingpostError:
            _LOG.debug("the progress of %s could not be kept", self.message_id, exc_info=True)
            return
        if changed.result == "requested":
            self._reason = self._reason or "user"
        elif changed.result in ("conflict", "unknown"):
            self._reason = self._reason or "lease_lost"
        self._check_cancelled()

    async def checkpoint(self) -> None:
        """Let others run, and raise Cancelled once it was asked for."""
        self._check_cancelled()
        await asyncio.sleep(0)
        self._check_cancelled()

    # --- verbs

    async def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply:
        self._check_may_wait(operation, "call")
        return await self._means.router.call(operation, request, options, self._parent())

    async def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Reply | Receipt:
        """Ask, and wait at most `wait` seconds for the reply; then it goes on, and its receipt comes back.

        The request goes out at once, whatever becomes of this handler. Where nobody answers, or nobody can say whether
        somebody took it, it is staged as a message under the same id, and leaves when this handler succeeds: it takes
        effect once. Repeated, a handler that asks the same again attaches to what it asked before.

        Raises as `call` does, but for what would say that nobody answered: that only without a store here.
        """
        self._check_may_wait(operation, "call_or_send")
        check_call_options(options, "call_or_send")
        asked = cast(CallOptions, options.copy())
        if wait is not None:
            asked["timeout"] = waited_s(wait)
        means = self._means
        call = means.router.prepared(operation, request, asked, self._parent())
        origin = self._made_origin()
        id = new_id() if means.store is None else self._staged().next_id(digest(call.body) + call.operation.encode())
        call.sent = Sent(
            id,
            hops=origin.hops,
            correlation_id=origin.correlation_id,
            causation_id=origin.causation_id,
            sender=origin.sender,
        )
        try:
            landed = await means.asking.ask(operation, call)
        except TransportError as error:
            if means.store is None:
                raise nothing_kept(error, operation, id) from error
            return self._staged().send_fallback(operation, request, cast(SendOptions, options), id)
        return reply_of(operation, landed, ids.text(id)) if isinstance(landed, Answer) else landed.receipt

    def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> "CoroutineType[Any, Any, Receipt]":
        """Stage a message: it leaves when the handler succeeds. `delay` and `ttl` count from then.

        Raises UsageError and InvalidRequest at once. At most 1,000 messages and 16 MiB a handling.
        """
        return staged((self._staging or self._stage()).send(operation, request, options, reply_to))

    def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> "CoroutineType[Any, Any, Sequence[Receipt]]":
        """Stage many messages, or none where one doesn't fit; a receipt each, in their order."""
        receipts: Sequence[Receipt] = (self._staging or self._stage()).send_all(operation, requests, options)
        return staged(receipts)

    def publish(
        self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]
    ) -> "CoroutineType[Any, Any, Receipt]":
        """Stage an event: it is published when the handler succeeds."""
        return staged((self._staging or self._stage()).publish(event, data, options))

    @property
    def now(self) -> Sender:
        """The verbs that commit at once, whatever becomes of the handler; they need an idempotency key."""
        if self._ended:
            raise over()
        means = self._means
        seed, seed_ms = self._seed()
        return Now(StoreSender(self._store()), means.settings, self._made_origin(), seed, seed_ms)

    # --- for the pipeline

    def _cancel(self, reason: Stopped) -> None:
        """Show the reason and cancel the task; once only, as cancelling again would disturb the handler's clean-up."""
        self._reason = self._reason or reason
        if not self._asked:
            self._asked = True
            self._task.cancel()

    def _transaction(self) -> Transaction:
        """Give the transaction of this handling, one for all who ask."""
        if self._tx is None:
            self._tx = Transaction(self._store().begin, self._task)
        assert isinstance(self._tx, Transaction)  # nothing else is taken beside one: that was seen at start
        return self._tx

    def _end_with(self, tx: HandlingTransaction) -> None:
        """Have the handling end in a transaction that another library began."""
        assert self._tx is None
        self._tx = tx

    def _end(self) -> list[Message] | tuple[()]:
        """Give what was staged; the verbs are of no use from now on."""
        self._ended = True
        if self._tx is not None:
            self._tx._end()
        staging, self._staging = self._staging, None
        return () if staging is None else staging.messages

    # --- inside

    def _until_s(self) -> float:
        # A handler that finishes whatever becomes of its caller has its own time for what it calls.
        return self._ends_s if self._request is None or self._handler.finish else self._request.deadline_s

    def _check_cancelled(self) -> None:
        if self.cancelled is not None:
            raise Cancelled(self.cancelled)

    def _check_may_wait(self, operation: Operation[Any, Any], verb: str) -> None:
        """Refuse what waits for others while others wait for this handler's Transaction, and in a dry run what may take
        effect."""
        if self._ended:
            raise over()
        if self._means.dry is not None:
            self._means.dry.check_call(operation, verb)
        if self._tx is not None and self._tx._wrote:
            raise UsageError(
                f"{self._handler.name} called {operation.full_name} after its transaction had written: others would "
                "wait as long as the call takes. Call before the first write or lock, defer the write, or send."
            )

    def _store(self) -> Store:
        store = self._means.store
        if store is None:
            raise UsageError(
                f"{self._handler.name} sends, and this process has no store to keep messages in. Set `store` in "
                "ringpost.toml or RINGPOST_STORE, as in sqlite:///ringpost.db."
            )
        return store

    def _staged(self) -> Staging:
        return self._staging or self._stage()

    def _stage(self) -> Staging:
        if self._ended:
            raise over()
        self._store()
        means = self._means
        self._staging = Staging(means.settings, means.usual, self._made_origin(), *self._seed())
        return self._staging

    def _id(self) -> bytes:
        if self._delivery is not None:
            return self._delivery.id
        if self._own_id is None:
            self._own_id = new_id()
        return self._own_id

    def _seed(self) -> tuple[bytes, int]:
        id = self._id()
        return id, ids.created_ms(id) if self._delivery is None else self._delivery.created_ms

    def _read_envelope(self) -> Envelope:
        if self._envelope is None:
            headers = _PLAIN if self._delivery is None else self._delivery.headers
            self._envelope = _EMPTY if headers == _PLAIN else _decode_envelope(headers)
        return self._envelope

    def _parent(self) -> Call:
        """Give the call that this handling is to calls made in it. A message begins a path of its own."""
        origin, request = self._made_origin(), self._request
        parent = Call(self._handler.name, b"", self._until_s(), trace=origin.trace, tracestate=origin.tracestate)
        if request is not None:
            parent.depth, parent.path, parent.attempt = request.depth, request.path, request.attempt
            parent.priority = request.priority
        return parent

    def _made_origin(self) -> Origin:
        if self._origin is not None:
            return self._origin
        envelope, request = self._read_envelope(), self._request
        if request is None:
            trace, tracestate, hops = envelope.trace, envelope.tracestate, envelope.hops + 1
        else:
            trace, tracestate, hops = request.trace, request.tracestate, 0
        message_id = ids.text(self._id())
        self._origin = Origin(
            sender=self._handler.service,
            causation_id=message_id,
            correlation_id=envelope.correlation_id or message_id,
            trace=_child_of(trace),
            tracestate=tracestate,
            hops=hops,
        )
        return self._origin


def _child_of(trace: str) -> str:
    """Give the traceparent for what leaves here: the same trace, a span of its own."""
    span = random.getrandbits(64).to_bytes(8, "big").hex()
    if len(trace) == 55 and trace.startswith("00-"):
        return f"{trace[:36]}{span}{trace[52:]}"
    return f"00-{random.getrandbits(128).to_bytes(16, 'big').hex()}-{span}-01"
