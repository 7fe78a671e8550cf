"""`after=`: a call that is made once the effects of messages sent before are there.

As a rule the receiver waits: the call carries a token that names its store and the messages. Where the receiver is on
another store, or they are in several, the caller waits before it calls, if it can look there itself: into its own
store, or by their tickets.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

from ringpost.client.effects import Effects
from ringpost.client.outcome import reply_of
from ringpost.client.ticket import EventReceipt, Receipt, Ticket
from ringpost.contract.errors import NotHere, NotYet, StateError, UsageError
from ringpost.contract.operation import Operation
from ringpost.core import ids
from ringpost.core.after import IDS_MAX, After, Awaited, until_s
from ringpost.core.call import Call


def receipts_of(given: object) -> list[Receipt]:
    """Give the receipts to wait for. Raises UsageError for what can't be waited for, before any I/O."""
    many = cast(Sequence[object], given) if isinstance(given, list | tuple) else (given,)
    if len(many) > IDS_MAX:
        raise UsageError(f"after takes at most {IDS_MAX} receipts, not {len(many)}.")
    receipts: list[Receipt] = []
    for receipt in many:
        if not isinstance(receipt, Receipt):
            raise UsageError(f"after takes receipts, as send and publish give them, not {type(receipt).__name__}.")
        if receipt.level == "staged":
            raise UsageError(
                f"after={receipt.id}: this message is staged and leaves when this handler succeeds, so waiting for it "
                "here would wait for ever. Send it with ctx.now, or call from what handles it."
            )
        if not isinstance(receipt, EventReceipt) or receipt.receivers:  # an event without subscribers has no effects
            receipts.append(receipt)
    return receipts


class Awaiting:
    """What one call waits for, and who can."""

    def __init__(self, receipts: Sequence[Receipt], own: Effects) -> None:
        """`own` answers for the caller's store: a ticket that names none was sent there."""
        self._own = own
        self._by_store: dict[str, list[Receipt]] = {}
        for receipt in receipts:
            self._by_store.setdefault(receipt.store or own.store_id, []).append(receipt)

    def token(self) -> After | None:
        """Give what the receiver is to wait for; None where the caller has to, or there is nothing."""
        store_id = next(iter(self._by_store), "")
        return _token(store_id, self._by_store[store_id]) if store_id and len(self._by_store) == 1 else None

    def can_wait(self) -> bool:
        """Say whether the caller can look at all of them itself."""
        return all(self._is_own(store_id) or all(map(_is_ticket, many)) for store_id, many in self._by_store.items())

    def _is_own(self, store_id: str) -> bool:
        return store_id != "" and store_id == self._own.store_id

    async def wait(self, operation: Operation[Any, Any], call: Call) -> None:
        """Wait here, at most 5 s and within the call's deadline.

        Raises what the receiver would have been the cause of: NotYet, StateError for what ended without success,
        NotHere for what nobody here can look at.
        """
        if not self.can_wait():
            raise NotHere(
                f"{operation.full_name} can't be called after messages of several stores that can't be looked at from "
                "here: give tickets, as a Client's send does, or call once for each store."
            )
        until = until_s(asyncio.get_running_loop().time(), call.deadline_s)
        await asyncio.gather(
            *(self._wait_in(store_id, many, operation, call, until) for store_id, many in self._by_store.items())
        )

    async def _wait_in(
        self, store_id: str, many: Sequence[Receipt], operation: Operation[Any, Any], call: Call, until: float
    ) -> None:
        if self._is_own(store_id):
            refused = await self._own.refusal(_token(store_id, many), call.deadline_s, call.operation)
            if refused is not None:
                reply_of(operation, refused)
            return
        tickets = [receipt for receipt in many if _is_ticket(receipt)]
        await asyncio.gather(*(_ended_well(ticket, until) for ticket in tickets))


async def _ended_well(ticket: Ticket[Any], until: float) -> None:
    """Wait for the outcome of a message where its ticket finds it."""
    answer = await ticket._source.answer(ticket.id, until)
    if answer is None:
        raise NotYet(
            f"The effects of {ticket.id} aren't there yet: the call that was to come after it wasn't made.",
            states={ticket.id: "unknown"},
        )
    if answer.status >= 300:
        raise StateError(
            f"The message {ticket.id} ended without success ({answer.status}): its effects will not come, and the call "
            "that was to see them wasn't made."
        )


def _token(store_id: str, receipts: Sequence[Receipt]) -> After:
    awaited = {
        Awaited(ids.parse(receipt.id), receipt._event if isinstance(receipt, EventReceipt) else ""): None
        for receipt in receipts
    }
    return After(store_id, tuple(awaited))


def _is_ticket(receipt: Receipt) -> TypeGuard[Ticket[Any]]:
    return isinstance(receipt, Ticket)
