"""What a sender gets back. A ticket reads the outcome from wherever it can: the store, or a door over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, Literal, Protocol, final

from ringpost.client.deadline import within_block
from ringpost.client.outcome import reply_of
from ringpost.contract.errors import DeadlineExceeded
from ringpost.contract.operation import Operation
from ringpost.contract.vocabulary import Reply, Seconds, seconds
from ringpost.core.message import Answer
from ringpost.core.receipt import Level, Status

Cancelling = Literal["cancelled", "requested", "too_late"]
FINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


_RANKS = {"accepted": 0, "running": 1}


def is_news(status: Status, shown: Status | None) -> bool:
    """Say whether a status is to be shown after another: it is different, and not one from before it."""
    if shown is None:
        return True
    before = (shown.generation, _RANKS.get(shown.state, 2))
    now = (status.generation, _RANKS.get(status.state, 2))
    if now != before:
        return now > before
    return (status.progress, status.note, status.attempt) != (shown.progress, shown.note, shown.attempt)


class TicketSource(Protocol):
    """Where tickets are looked up. Unknown ids raise StateError, those kept no longer TicketExpired."""

    async def status(self, id: str) -> Status: ...

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        """Wait for the outcome until an instant of the loop's clock; None where it isn't there by then."""
        ...

    def updates(self, id: str) -> AsyncIterator[Status]:
        """Yield the status now and at every change; the last one is final."""
        ...

    async def cancel(self, id: str) -> Cancelling: ...


class Receipt:
    """Say that a message is safe, and how safe: `level`.

    `id` is the message's (an event's: the event's). `duplicate`: it had been sent before, and nothing new was stored.
    `receivers`: 1 for a send, 0 where nobody ever served the operation; for an event the number of its subscriptions.
    `store`: the id of the store that keeps it; empty where it isn't known, and of what is staged.
    """

    __slots__ = ("duplicate", "id", "level", "receivers", "store")

    def __init__(
        self, id: str, *, duplicate: bool = False, receivers: int = 1, level: Level = "durable", store: str = ""
    ) -> None:
        self.id = id
        self.store = store
        self.duplicate = duplicate
        self.receivers = receivers
        self.level: Level = level

    def __repr__(self) -> str:
        repeat = ", duplicate" if self.duplicate else ""
        return f"<{type(self).__name__} {self.id}, {self.level}, receivers {self.receivers}{repeat}>"


class EventReceipt(Receipt):
    """The receipt of an event: its id is the event's, and what happens to it are its deliveries."""

    __slots__ = ("_event",)

    def __init__(self, receipt: Receipt, event: str) -> None:
        """Say of a receipt that it is an event's; `event` is its full name."""
        super().__init__(
            receipt.id,
            duplicate=receipt.duplicate,
            receivers=receipt.receivers,
            level=receipt.level,
            store=receipt.store,
        )
        self._event = event


@final
class Ticket(Receipt, Generic[Reply]):
    """Follow a message: wait for its outcome, watch it, cancel it. Its id is all that must be kept: `client.ticket`."""

    __slots__ = ("_operation", "_source")

    def __init__(
        self,
        operation: Operation[Any, Reply],
        source: TicketSource,
        id: str,
        *,
        duplicate: bool = False,
        receivers: int = 1,
        level: Level = "durable",
        store: str = "",
    ) -> None:
        super().__init__(id, duplicate=duplicate, receivers=receivers, level=level, store=store)
        self._operation = operation
        self._source = source

    async def result(self, timeout: Seconds = 60) -> Reply:
        """Wait at most `timeout` seconds for the outcome: the reply, or the error that the call would have raised. A
        `deadline` block around it counts too.

        Raises DeadlineExceeded where it isn't there by then, the message goes on; the operation's Problems;
        OperationFailed for what ended otherwise; TicketExpired where the outcome is kept no longer. Safe to repeat.
        """
        timeout_s = seconds(timeout, "timeout")
        now_s = asyncio.get_running_loop().time()
        until_s = within_block(now_s + timeout_s)
        answer = await self._source.answer(self.id, until_s)
        if answer is None:
            waited_s = max(0.0, until_s - now_s)
            raise DeadlineExceeded(
                f"{self._operation.full_name} ({self.id}) had no outcome after {waited_s:g} s. It goes on: ask again.",
                processed="maybe",
            )
        return reply_of(self._operation, answer, self.id)

    async def status(self) -> Status:
        """Say how far it is. Raises StateError for an unknown id, TicketExpired where it is kept no longer. Safe to
        repeat."""
        return await self._source.status(self.id)

    def updates(self) -> AsyncIterator[Status]:
        """Yield the status now and whenever it changes; the last one is final. A slow reader misses what is between.

        Raises StateError for an unknown id, TicketExpired. Safe to repeat.
        """
        return self._source.updates(self.id)

    async def cancel(self) -> Cancelling:
        """Ask that it isn't done: `cancelled` at once where it waits, `requested` where it runs, else `too_late`.

        What it has sent already isn't cancelled. Raises StateError for an unknown id, TicketExpired. Safe to repeat.
        """
        return await self._source.cancel(self.id)
