"""The outbox: messages that leave with the commit of a transaction that the program began itself."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from typing_extensions import Unpack

from ringpost.client.posting import Origin, event_of, message_of, messages_of
from ringpost.client.store_sender import refused
from ringpost.client.ticket import EventReceipt, Receipt
from ringpost.client.verbs import Sender
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import Fits, Reply, Request, SendOptions, T
from ringpost.core import ids
from ringpost.core.message import Message
from ringpost.settings import Settings
from ringpost.store.port import Joined, Put

ORIGIN = Origin()

Make = Callable[[SendOptions, Settings], list[Message]]


class Ready(Struct):
    """Messages that only wait for their session."""

    messages: Sequence[Message]
    joined: Joined


class Stage(Protocol):
    """Have messages made with a client's settings and headers, for its store. Nothing is stored yet."""

    def __call__(self, options: SendOptions, make: Make, /) -> Coroutine[Any, Any, Ready]: ...


class Outbox(Sender):
    """Send and publish with a session's own commit: `await client.outbox(session).send(Mail.welcome, user)`.

    A receipt has level `staged` and its final id: the message is there once the session commits, and never if it rolls
    back. No queue is full for it, as a refusal would take the session's own work along.
    """

    __slots__ = ("_blocking", "_session", "_stage")

    def __init__(self, stage: Stage, session: object, *, blocking: bool = False) -> None:
        """Take what makes messages ready; `blocking`: the session waits in its thread."""
        self._stage = stage
        self._session = session
        self._blocking = blocking

    def _in_thread(self, run: Callable[[Callable[[], Coroutine[Any, Any, Ready]]], Ready]) -> "Outbox":
        """Give it for a session of this thread, whose client is in the event loop that `run` leads to."""
        ask = self._stage

        async def stage(options: SendOptions, make: Make, /) -> Ready:
            return run(lambda: ask(options, make))

        return Outbox(stage, self._session, blocking=True)

    async def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        def make(options: SendOptions, settings: Settings) -> list[Message]:
            return [message_of(operation, request, options, settings=settings, origin=ORIGIN, reply_to=reply_to)]

        return (await self._put(await self._stage(options, make)))[0]

    async def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]:
        def make(options: SendOptions, settings: Settings) -> list[Message]:
            return messages_of(operation, requests, options, settings=settings, origin=ORIGIN)

        return await self._put(await self._stage(options, make))

    async def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt:
        def make(options: SendOptions, settings: Settings) -> list[Message]:
            return [event_of(event, data, options, settings=settings, origin=ORIGIN)]

        (receipt,) = await self._put(await self._stage(options, make))
        return EventReceipt(receipt, event.full_name)

    async def _put(self, ready: Ready) -> list[Receipt]:
        puts = await ready.joined.put(self._session, blocking=self._blocking)
        for put, message in zip(puts, ready.messages, strict=True):
            if put.refused:
                raise refused(put, message)
        return [_receipt(put) for put in puts]


def _receipt(put: Put) -> Receipt:
    return Receipt(ids.text(put.id), duplicate=put.duplicate, receivers=put.receivers, level="staged")
