"""The outbox: messages that leave with the commit of a transaction that the program began itself.

Where the session's database is the store's own, they go into the store's tables: the database is asked whether it is.
Everywhere else they go into an outbox table, from which a relay brings them to the store (`relay/`).
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

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
from ringpost.relay import writing
from ringpost.settings import Settings
from ringpost.store import holds_store
from ringpost.store.lent import Lent, borrow
from ringpost.store.port import Joined, Put

ORIGIN = Origin()

Make = Callable[[SendOptions, Settings], list[Message]]
Join = Callable[[], Coroutine[Any, Any, Joined]]


class Means(Protocol):
    """What an outbox needs of its client."""

    @property
    def store_url(self) -> str | None:
        """The store that the client is set to, open or not."""
        ...

    def messages(self, options: SendOptions, make: Make, /) -> list[Message]:
        """Have messages made with the client's settings and headers. Nothing is opened, and nothing stored."""
        ...

    async def join(self, messages: Sequence[Message], /) -> Joined:
        """Make messages ready for a transaction on the store's database; opens the store, in the client's loop."""
        ...


class Outbox(Sender):
    """Send and publish with a session's own commit: `await client.outbox(session).send(Mail.welcome, user)`.

    A receipt has level `staged` and its final id: the message is there once the session commits, and never if it rolls
    back. No queue is full for it, as a refusal would take the session's own work along. Where an outbox table takes it,
    the receipt can't say yet who will receive it, nor whether its idempotency key is known: `receivers` is 1.
    """

    __slots__ = ("_means", "_run", "_session")

    def __init__(self, means: Means, session: object, *, run: Callable[[Join], Joined] | None = None) -> None:
        """Take what is needed of the client; `run`: the session waits in its thread, and this leads from there into
        the event loop of the client."""
        self._means = means
        self._session = session
        self._run = run

    def _in_thread(self, run: Callable[[Join], Joined]) -> "Outbox":
        """Give it for a session of this thread."""
        return Outbox(self._means, self._session, run=run)

    async def create_table(self) -> None:
        """Make the outbox table in the session's database, if it isn't there, by the session's own connection. What
        `ringpost outbox ddl` prints does the same. Raises UsageError as `send` does."""
        await writing.make(await self._borrowed(), self._means.store_url)

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

        return (await self._put(options, make))[0]

    async def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]:
        def make(options: SendOptions, settings: Settings) -> list[Message]:
            return messages_of(operation, requests, options, settings=settings, origin=ORIGIN)

        return await self._put(options, make)

    async def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt:
        def make(options: SendOptions, settings: Settings) -> list[Message]:
            return [event_of(event, data, options, settings=settings, origin=ORIGIN)]

        (receipt,) = await self._put(options, make)
        return EventReceipt(receipt, event.full_name)

    async def _put(self, options: SendOptions, make: Make) -> list[Receipt]:
        messages = self._means.messages(options, make)
        lent = await self._borrowed()
        joined = await self._joined(lent, messages)
        if joined is None:
            puts = await writing.write(lent, messages, self._means.store_url)
        else:
            puts = await joined.put(lent.fetch)
        for put, message in zip(puts, messages, strict=True):
            if put.refused:
                raise refused(put, message)
        return [_receipt(put) for put in puts]

    async def _borrowed(self) -> Lent:
        return await borrow(self._session, blocking=self._run is not None)

    async def _joined(self, lent: Lent, messages: Sequence[Message]) -> Joined | None:
        """Give what puts into the store's own tables, where the session's database has them; the database is asked. The
        store is opened only where it may be this one: another one may be away."""
        if not await holds_store(lent, self._means.store_url):
            return None

        def join() -> Coroutine[Any, Any, Joined]:
            return self._means.join(messages)

        joined = await join() if self._run is None else self._run(join)
        return joined if await joined.is_here(lent.fetch) else None


def _receipt(put: Put) -> Receipt:
    return Receipt(ids.text(put.id), duplicate=put.duplicate, receivers=put.receivers, level="staged")
