"""Put messages into the store, and say what the receipt is worth or why there is none."""

from collections.abc import Sequence

from ringpost.client.ticket import EventReceipt, Receipt
from ringpost.contract.errors import Overloaded, RingpostError, StoreError, UsageError
from ringpost.core import ids
from ringpost.core.message import Message
from ringpost.store.port import Put, Store

BATCH = 1000  # rows of one store transaction
FULL_RETRY_S = 5.0


class StoreSender:
    """Hand messages to a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, message: Message, *, attach: bool = False) -> Receipt:
        """Put a message. `attach`: its id has been given away before, so that what is there under it is the same."""
        (put,) = await self._store.put((message,))
        if put.refused and not (attach and put.refused == "mismatch"):
            raise refused(put, message)
        receipt = self._receipt(put)
        return EventReceipt(receipt, message.event) if message.event else receipt

    async def put_all(self, messages: Sequence[Message]) -> list[Receipt]:
        """Put in transactions of a thousand rows. Where some are refused, the rest of their thousand is safe all the
        same, later ones aren't put; the error's note says how many were stored."""
        receipts: list[Receipt] = []
        for at in range(0, len(messages), BATCH):
            batch = messages[at : at + BATCH]
            puts = await self._store.put(batch)
            error: RingpostError | None = None
            for put, message in zip(puts, batch, strict=True):
                if not put.refused:
                    receipts.append(self._receipt(put))
                elif error is None:
                    error = refused(put, message)
            if error is not None:
                error.add_note(f"{len(receipts):,} of {len(messages):,} messages were stored.")
                raise error
        return receipts

    def _receipt(self, put: Put) -> Receipt:
        facts = self._store.facts
        return Receipt(
            ids.text(put.id),
            duplicate=put.duplicate,
            receivers=put.receivers,
            level=facts.level,
            store=facts.store_id,
        )


def refused(put: Put, message: Message) -> RingpostError:
    """Say why nothing was stored, and what to do."""
    name = message.queue or message.event
    match put.refused:
        case "key_reused":
            return UsageError(
                f"The idempotency key of this {name} was used before with another request (message "
                f"{ids.text(put.id)}). A key stands for one request: use another, or send the same request."
            )
        case "mismatch":
            return UsageError(f"The message {ids.text(message.id)} ({name}) exists already with another content.")
        case "full":
            return Overloaded(
                f"The queue {name} is full: its workers don't keep up, or none runs. Nothing was stored.",
                retry_after=FULL_RETRY_S,
            )
        case _:
            return StoreError(
                f"No room on the disk of the store: nothing of {name} was stored. Free some, then repeat."
            )
