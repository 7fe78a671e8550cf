"""What a handler sends: staged when the verb is called, committed with its outcome, or at once through `ctx.now`."""

from collections.abc import Coroutine, Iterable, Sequence
from hashlib import blake2b
from types import CoroutineType
from typing import Any, Generic, Never, TypeVar

from msgspec import Struct
from msgspec.json import Encoder
from typing_extensions import Unpack

from ringpost.client.options import priority_of
from ringpost.client.posting import Origin, check_size, event_of, fallback_of, message_of, messages_of
from ringpost.client.store_sender import StoreSender
from ringpost.client.ticket import Receipt
from ringpost.client.verbs import Sender
from ringpost.contract.errors import StateError, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import Fits, Reply, Request, SendOptions, T
from ringpost.core import ids
from ringpost.core.keep import keep_s
from ringpost.core.message import Envelope, Message, Priority
from ringpost.settings import Settings

VERBS_MAX = 1000
STAGED_BYTES_MAX = 16 << 20
_HASH = blake2b(digest_size=8, person=b"staged")
_HASH_MASK = (1 << 61) - 1  # room to count on from it
_encode = Encoder().encode

_R = TypeVar("_R")


class Staged(Coroutine[Any, Any, _R], Generic[_R]):
    """What a staging verb gives: the receipt is there at once, awaiting it only hands it over. Nothing warns where the
    await was forgotten, as nothing is lost."""

    __slots__ = ("_value",)

    def __init__(self, value: _R) -> None:
        self._value = value

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> "Staged[_R]":
        return self

    def __next__(self) -> Never:
        raise StopIteration(self._value)

    def send(self, value: Any, /) -> Never:
        raise StopIteration(self._value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Never:
        raise typ if val is None else val

    def close(self) -> None:
        pass


class StagedReceipt(Receipt):
    """The receipt of something staged: it leaves when the handler succeeds, so there is nothing to wait for yet."""

    __slots__ = ("_raw",)

    def __init__(self, id: bytes) -> None:
        self._raw = id
        self.duplicate = False
        self.receivers = 1
        self.level = "staged"

    def __getattr__(self, name: str) -> Any:
        if name == "id":  # few read it: it is written as text when somebody does
            self.id = ids.text(self._raw)
            return self.id
        if name == "store":
            return ""  # which one shows with the commit
        if name in ("result", "status", "updates", "cancel"):
            raise UsageError(
                f"{name} of a staged message: it leaves when this handler succeeds, so waiting for it here would never "
                "end. Use ctx.call for an answer now, ctx.now.send to send at once, or reply_to for the outcome."
            )
        raise AttributeError(name)


class Usual(Struct, frozen=True, gc=False):
    """What a send without options comes to, of an operation that makes no keys: all that needs no request."""

    queue: str
    head: bytes  # of the envelope, as JSON
    priority: Priority
    ttl_s: float | None
    keep_s: int


UsualSends = dict[Operation[Any, Any], Usual | None]


class Staging:
    """The messages of one handling, in the order of the verbs, with ids that a repetition of the handling gives again.

    `seed` and `seed_ms` are the id and the age of what is handled: staged ids tell that time, and count on from a hash
    of the id, as scattered ids would cost the store many times as much. `usual` is kept for all handlings.
    """

    __slots__ = ("_asks", "_bytes", "_first", "_seed", "_seed_ms", "_settings", "_tail", "_usual", "messages", "origin")

    def __init__(
        self,
        settings: Settings,
        usual: dict[Operation[Any, Any], Usual | None],
        origin: Origin,
        seed: bytes,
        seed_ms: int,
    ) -> None:
        self._settings = settings
        self._usual = usual
        hashed = _HASH.copy()  # copying costs half of making one
        hashed.update(seed)
        self._first = int.from_bytes(hashed.digest(), "big") & _HASH_MASK
        self._seed = seed
        self._seed_ms = seed_ms
        self._bytes = 0
        self._asks = 0
        self._tail = b""
        self.origin = origin
        self.messages: list[Message] = []

    def send(self, operation: Operation[Any, Any], request: object, options: SendOptions, reply_to: object) -> Receipt:
        """Stage one message."""
        id = self._id(0)
        usual = None if options or reply_to is not None else self._usual_of(operation)
        if usual is None:
            message = message_of(
                operation, request, options, settings=self._settings, origin=self.origin, reply_to=reply_to, id=id
            )
        else:
            body = operation.request.encode(request)
            check_size(body, self._settings, usual.queue)
            message = Message(id, usual.queue, body, usual.head + (self._tail or self._made_tail()))
            message.priority, message.ttl_s, message.keep_s = usual.priority, usual.ttl_s, usual.keep_s
        self._add(message)
        return StagedReceipt(id)

    def send_fallback(
        self, operation: Operation[Any, Any], request: object, options: SendOptions, id: bytes
    ) -> Receipt:
        """Stage what nobody answered when it was asked, under the id that it was asked with."""
        message = fallback_of(operation, request, options, id, settings=self._settings, origin=self.origin)
        self._add(message)
        return StagedReceipt(id)

    def next_id(self, what: bytes) -> bytes:
        """Give the id for a request that may become a message: the same when the handling is repeated and asks alike
        (`what`), another where it asks otherwise."""
        self._asks += 1
        return ids.derived(self._seed, b"asked", self._asks.to_bytes(4, "big"), what)

    def send_all(
        self, operation: Operation[Any, Any], requests: Iterable[object], options: SendOptions
    ) -> list[Receipt]:
        """Stage many messages, or none where one of them doesn't fit."""
        messages = messages_of(operation, requests, options, settings=self._settings, origin=self.origin)
        for index, message in enumerate(messages):
            message.id = self._id(index)
        self._check(len(messages), sum([len(message.body) for message in messages]))
        for message in messages:
            self._add(message)
        return [StagedReceipt(message.id) for message in messages]

    def publish(self, event: Event[Any], data: object, options: SendOptions) -> Receipt:
        """Stage an event."""
        # Under a key the same event is known by its key, whoever publishes it.
        id = None if "idempotency_key" in options else self._id(0)
        message = event_of(event, data, options, settings=self._settings, origin=self.origin, id=id)
        self._add(message)
        return StagedReceipt(message.id)

    def _id(self, ahead: int) -> bytes:
        return ids.uuid7(self._seed_ms, self._first + len(self.messages) + ahead)

    def _usual_of(self, operation: Operation[Any, Any]) -> Usual | None:
        try:
            return self._usual[operation]
        except (KeyError, TypeError):
            if not isinstance(operation, Operation):
                return None  # refused where every verb does it
        away = operation.contract_name in self._settings.addresses  # then it is forwarded, and says more
        usual = self._usual[operation] = None if away else _usual_of(operation)
        return usual

    def _made_tail(self) -> bytes:
        """Write what is the same in the envelopes of one handling: without the brace that opens it."""
        origin = self.origin
        envelope = Envelope(
            causation_id=origin.causation_id,
            correlation_id=origin.correlation_id,
            trace=origin.trace,
            tracestate=origin.tracestate,
            sender=origin.sender,
            hops=origin.hops,
        )
        self._tail = b"," + _encode(envelope)[1:]
        return self._tail

    def _add(self, message: Message) -> None:
        size = len(message.body)
        if self._bytes + size > STAGED_BYTES_MAX or len(self.messages) >= VERBS_MAX:
            self._check(1, size)
        self._bytes += size
        self.messages.append(message)

    def _check(self, count: int, size: int) -> None:
        if len(self.messages) + count > VERBS_MAX or self._bytes + size > STAGED_BYTES_MAX:
            raise UsageError(
                f"One handling stages at most {VERBS_MAX:,} messages and {STAGED_BYTES_MAX >> 20} MiB. Let one message "
                "do a part and send the next, or use ctx.now."
            )


def _usual_of(operation: Operation[Any, Any]) -> Usual | None:
    if operation._line_key is not None or operation._dedup_key is not None:
        return None
    name = operation.full_name
    return Usual(
        name,
        b'{"operation":' + _encode(name),
        priority_of(None, operation.priority),
        operation.ttl_s,
        keep_s(waited_for=not operation.reply.empty),
    )


def derived_id(seed: bytes, seed_ms: int, what: str) -> bytes:
    """Make an id that is always the same for the same seed, and tells a time."""
    if ids.is_uuid7(seed):
        return ids.derived(seed, what)
    return ids.uuid7(seed_ms, int.from_bytes(ids.hash128(seed, what), "big"))


class Now(Sender):
    """`ctx.now`: commits at once, whatever becomes of the handler. A repetition of the handling must not send again, so
    it needs an idempotency key, given or declared at the operation; the id is made of it."""

    def __init__(self, sender: StoreSender, settings: Settings, origin: Origin, seed: bytes, seed_ms: int) -> None:
        self._sender = sender
        self._settings = settings
        self._origin = origin
        self._seed = seed
        self._seed_ms = seed_ms

    async def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        message = message_of(
            operation, request, options, settings=self._settings, origin=self._origin, reply_to=reply_to
        )
        return await self._sender.put(self._keyed(message, "send"))

    async def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]:
        messages = messages_of(operation, requests, options, settings=self._settings, origin=self._origin)
        return await self._sender.put_all([self._keyed(message, "send_all") for message in messages])

    async def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt:
        if "idempotency_key" not in options:
            raise UsageError(_KEYLESS.format(verb="publish"))
        message = event_of(event, data, options, settings=self._settings, origin=self._origin)
        return await self._sender.put(message)

    def _keyed(self, message: Message, verb: str) -> Message:
        if message.dedup is None:
            raise UsageError(_KEYLESS.format(verb=verb))
        message.id = derived_id(self._seed, self._seed_ms, message.dedup.hex())
        return message


_KEYLESS = (
    "ctx.now.{verb} needs an idempotency_key: it commits at once, and when the handler runs again the key is what "
    "keeps it from happening twice."
)


def staged(value: _R) -> "CoroutineType[Any, Any, _R]":
    """Give a value as what an `async def` gives, as type checkers have it."""
    made: Any = Staged(value)
    coroutine: CoroutineType[Any, Any, _R] = made
    return coroutine


def over() -> StateError:
    """Say that the handling has ended, as a task that outlives its handler finds out."""
    return StateError(
        "This handling is over: what it staged has been committed or discarded. Await what a handler starts before it "
        "returns, or use a Client elsewhere."
    )
