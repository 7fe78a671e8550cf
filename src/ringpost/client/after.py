"""`after=`: a call that waits, within its time, until the effects of messages sent before are there."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeGuard, cast

from ringpost.client.ticket import Receipt, Ticket
from ringpost.contract.errors import DeadlineExceeded, StateError, UsageError

WAIT_S_MAX = 5.0
RECEIPTS_MAX = 64


def tickets_after(after: object) -> list[Ticket[Any]]:
    """Give the tickets to wait for. Raises UsageError for what can't be waited for, before any I/O."""
    many = cast(Sequence[object], after) if isinstance(after, list | tuple) else (after,)
    if len(many) > RECEIPTS_MAX:
        raise UsageError(f"after takes at most {RECEIPTS_MAX} receipts, not {len(many)}.")
    tickets: list[Ticket[Any]] = []
    for receipt in many:
        if _is_ticket(receipt):
            tickets.append(receipt)
            continue
        if not isinstance(receipt, Receipt):
            raise UsageError(f"after takes receipts, as send gives them, not {type(receipt).__name__}.")
        if receipt.level == "staged":
            raise UsageError(
                f"after={receipt.id}: this message is staged and leaves when this handler succeeds, so waiting for it "
                "here would wait for ever. Send it with ctx.now, or call from what handles it."
            )
        raise UsageError(
            f"after={receipt.id}: this receipt can't be waited for. A Client's send gives tickets, which can; the "
            "effects of an event are its subscribers' own."
        )
    return tickets


async def wait_for(tickets: Sequence[Ticket[Any]], deadline_s: float) -> None:
    """Wait at most 5 s, and not beyond the deadline, until all have succeeded.

    Raises DeadlineExceeded (`processed="no"`: the call wasn't made), StateError where one ended otherwise.
    """
    until_s = min(deadline_s, asyncio.get_running_loop().time() + WAIT_S_MAX)
    answers = await asyncio.gather(*(ticket._source.answer(ticket.id, until_s) for ticket in tickets))
    for ticket, answer in zip(tickets, answers, strict=True):
        if answer is None:
            raise DeadlineExceeded(
                f"The effects of {ticket.id} aren't there yet: the call that was to come after it wasn't made.",
                processed="no",
            )
        if answer.status >= 300:
            raise StateError(
                f"The message {ticket.id} ended without success ({answer.status}): its effects will not come, and the "
                "call that was to see them wasn't made."
            )


def _is_ticket(receipt: object) -> TypeGuard[Ticket[Any]]:
    return isinstance(receipt, Ticket)
