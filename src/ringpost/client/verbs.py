"""The verbs as types: what a helper takes that sends, or that calls too. Client and Context fill them in."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import cast

from typing_extensions import Unpack

from ringpost.client.cancelling import cancelled
from ringpost.client.posting import refuse_one_key
from ringpost.client.ticket import Receipt
from ringpost.contract.errors import InvalidRequest, RingpostError, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import CallOptions, Fits, Options, Reply, Request, Seconds, SendOptions, T


class Sender(ABC):
    """Take this in helpers that send. In a handler it is its Context, elsewhere a Client."""

    __slots__ = ()

    @abstractmethod
    async def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt:
        """Hand a message over: it is safe when this returns, and handled by whoever serves the operation.

        `delay` in seconds or an aware datetime, `ttl` in seconds until it expires, `ordering_key`: one after the
        other, `reply_to`: the operation that takes the Outcome. Raises UsageError and InvalidRequest before any I/O,
        StoreError, Overloaded where the queue is full. Repeating it sends it twice unless it has an idempotency key.
        """

    @abstractmethod
    async def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]:
        """Hand many messages over at once, much faster than one by one; a receipt each, in their order.

        Every request is checked before the first one is stored. Raises as `send` does; a note at the error says how
        many were stored. Safe to repeat where the operation makes idempotency keys.
        """

    @abstractmethod
    async def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt:
        """Tell all subscribers: it is safe when this returns; `receivers` of the receipt says how many there are.

        Raises UsageError and InvalidRequest before any I/O, StoreError, Overloaded. Repeating it tells them twice
        unless it has an idempotency key.
        """


class Caller(Sender):
    """Take this in helpers that call, and may send."""

    __slots__ = ()

    @abstractmethod
    async def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply:
        """Ask and wait for the reply, at most `timeout` seconds (default: the operation's, else 5; at most 60).

        Raises UsageError and InvalidRequest before any I/O; the operation's Problems; OperationFailed; Unavailable,
        Overloaded and DeadlineExceeded. With `processed="maybe"` it may have taken effect: repeat only with a key.
        `after`: at most 64 receipts whose effects it is to see; NotYet where they aren't there after 5 seconds (safe to
        repeat), StateError where they never will be, NotHere where nobody can tell.
        """

    @abstractmethod
    async def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Reply | Receipt:
        """Ask, and wait at most `wait` seconds for the reply; then it goes on as a message, and a receipt comes back.

        The request is made safe before it is handled: nothing is lost if either side fails meanwhile.
        """

    async def call_all(
        self,
        operation: Operation[Request, Reply],
        requests: Iterable[Fits[Request]],
        /,
        *,
        concurrency: int = 20,
        **options: Unpack[CallOptions],
    ) -> list[Reply]:
        """Call once for every request, `concurrency` at a time; the replies in the order of the requests.

        The first failure cancels the rest, also where they are handled, and is raised with a note that says which
        request it was; what was done before stays done. `timeout` is each call's, `with deadline(…)` bounds all.
        """
        refuse_one_key(options, "call_all")
        _check_concurrency(concurrency)
        replies: dict[int, Reply] = {}
        waiting = iter(enumerate(requests))

        async def work() -> None:
            for index, request in waiting:
                try:
                    replies[index] = await self.call(operation, request, **options)
                except RingpostError as error:
                    error.add_note(f"call_all: request {index} failed (the first is 0).")
                    raise

        tasks = [asyncio.ensure_future(work()) for _ in range(concurrency)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await cancelled(tasks)
        for task in tasks:
            if task in done:
                task.result()
        return [replies[index] for index in range(len(replies))]

    async def call_each(
        self,
        operation: Operation[Request, Reply],
        requests: Iterable[Fits[Request]],
        /,
        *,
        concurrency: int = 20,
        **options: Unpack[CallOptions],
    ) -> AsyncIterator[Outcome[Request, Reply]]:
        """Call once for every request, `concurrency` at a time, and yield each Outcome as soon as it is there.

        A failure is an Outcome too and stops nothing. At most `concurrency` requests are taken ahead of the reader. Who
        leaves early closes it (`contextlib.aclosing`), which cancels the rest, also where they are handled.
        """
        refuse_one_key(options, "call_each")
        _check_concurrency(concurrency)
        waiting = iter(requests)
        running: set[asyncio.Task[Outcome[Request, Reply]]] = set()
        done: set[asyncio.Task[Outcome[Request, Reply]]] = set()

        async def one(request: Fits[Request]) -> Outcome[Request, Reply]:
            asked = cast(Request, request)
            try:
                reply = await self.call(operation, request, **options)
            except UsageError as error:
                if not isinstance(error, InvalidRequest):
                    raise
                return Outcome[Request, Reply].of_error(operation, "", asked, error)
            except RingpostError as error:
                return Outcome[Request, Reply].of_error(operation, "", asked, error)
            return Outcome[Request, Reply].of_reply(operation, "", asked, reply)

        try:
            while True:
                for request in waiting:
                    running.add(asyncio.ensure_future(one(request)))
                    if len(running) >= concurrency:
                        break
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            await cancelled(running | done)


def _check_concurrency(concurrency: int) -> None:
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or not 1 <= concurrency <= 1000:
        raise UsageError(f"concurrency is how many calls are out at once, 1 to 1,000, not {concurrency!r}.")
