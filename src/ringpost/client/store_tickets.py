"""Tickets read from the store: woken by it, and polled, because a wake-up is only a hint."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from ringpost.client.ticket import FINAL, Cancelling, is_news
from ringpost.contract.errors import StateError, TicketExpired
from ringpost.core import ids
from ringpost.core.keep import KEEP_KEYED_S
from ringpost.core.message import Answer, Record
from ringpost.core.receipt import Status
from ringpost.store.port import Cancel, Store
from ringpost.wire.ticket import result_of, status_of

POLL_S = 1.0


class StoreTickets:
    """Look tickets up in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def knows(self, id: str) -> bool:
        """Say whether this store has the message."""
        return (await self._store.read([ids.parse(id)]))[0] is not None

    async def status(self, id: str) -> Status:
        return status_of(await self._read(id))

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        message_id = ids.parse(id)
        clock = asyncio.get_running_loop().time
        while True:
            # Listen before looking: what ends in between isn't missed.
            hint = self._listen(message_id, deadline_s - clock())
            try:
                record = await self._read(id, bodies=True)
                if record.state.terminal:
                    return result_of(record)
                if clock() >= deadline_s:
                    return None
                await hint
            finally:
                await _stopped(hint)

    async def updates(self, id: str) -> AsyncIterator[Status]:
        message_id = ids.parse(id)
        shown: Status | None = None
        while True:
            hint = self._listen(message_id, POLL_S)
            try:
                status = status_of(await self._read(id))
                news = is_news(status, shown)
                if not news:
                    await hint
            finally:
                await _stopped(hint)
            if news:
                shown = status
                yield status
                if status.state in FINAL:
                    return

    async def cancel(self, id: str) -> Cancelling:
        changed = (await self._store.change([Cancel(ids.parse(id))]))[0]
        match changed.result:
            case "done":
                return "cancelled"
            case "requested":
                return "requested"
            case "too_late":
                return "too_late"
            case _:
                raise unknown(id)

    async def _read(self, id: str, *, bodies: bool = False) -> Record:
        record = (await self._store.read([ids.parse(id)], bodies=bodies))[0]
        if record is None:
            raise unknown(id)
        return record

    def _listen(self, message_id: bytes, most_s: float) -> asyncio.Task[object]:
        wait = self._store.wait(frozenset(), frozenset((message_id,)), max(0.0, min(most_s, POLL_S)))
        return asyncio.ensure_future(wait)


def unknown(id: str) -> StateError:
    """Say that no message is there: kept no longer where its id is old enough for that, else never known here."""
    try:
        age_s = datetime.now(UTC).timestamp() - ids.created_ms(ids.parse(id)) / 1000
    except ValueError:
        age_s = 0.0
    if age_s > KEEP_KEYED_S:
        return TicketExpired(f"The message {id} is kept no longer.")
    return StateError(f"There is no message {id} in this store, or it is kept no longer.")


async def _stopped(task: asyncio.Task[object]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    elif not task.cancelled():
        task.exception()
