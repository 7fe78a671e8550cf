"""Where a message is looked up: at the door that took it, or in the store. Both show it as the monitor of HTTP does."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import msgspec

from ringpost.cli.reach import Reach
from ringpost.client.outcome import answer_from
from ringpost.client.remote import Closing, events_of
from ringpost.client.store_tickets import StoreTickets, unknown
from ringpost.client.target import Target
from ringpost.client.ticket import FINAL, Cancelling
from ringpost.client.transport import Transport
from ringpost.contract.errors import (
    DeadlineExceeded,
    StateError,
    TicketExpired,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.core import ids
from ringpost.core.message import Answer
from ringpost.store.port import Cancel, Store
from ringpost.wire.http import Response
from ringpost.wire.ticket import monitor_of

Monitor = dict[str, Any]

ASK_S: Final = 10.0
_LONG_POLL_S: Final = 25.0
_TRANSIT_S: Final = 5.0
_AGAIN_S: Final = 1.0


class Place(Protocol):
    """Where one message is. Unknown ids raise StateError, those kept no longer TicketExpired."""

    async def monitor(self) -> Monitor: ...

    def monitors(self) -> AsyncIterator[Monitor]:
        """Yield the monitor now and at every change; the last one is final."""
        ...

    async def answer(self, timeout_s: float) -> Answer:
        """Wait for the outcome. Raises DeadlineExceeded where it isn't there in time."""
        ...

    async def cancel(self, who: str) -> Cancelling: ...


class InStore:
    """A message in the store."""

    def __init__(self, store: Store, id: str) -> None:
        self._store = store
        self._id = id
        self._tickets = StoreTickets(store)

    async def monitor(self) -> Monitor:
        (record,) = await self._store.read([ids.parse(self._id)])
        if record is None:
            raise unknown(self._id)
        return monitor_of(record)

    async def monitors(self) -> AsyncIterator[Monitor]:
        async for _ in self._tickets.updates(self._id):
            yield await self.monitor()

    async def answer(self, timeout_s: float) -> Answer:
        answer = await self._tickets.answer(self._id, asyncio.get_running_loop().time() + timeout_s)
        if answer is None:
            raise _still_going(self._id, timeout_s)
        return answer

    async def cancel(self, who: str) -> Cancelling:
        (changed,) = await self._store.change([Cancel(ids.parse(self._id), who)])
        if changed.result == "unknown":
            raise unknown(self._id)
        return {"done": "cancelled", "requested": "requested"}.get(changed.result, "too_late")  # type: ignore[return-value]


class AtDoor:
    """A message at a door."""

    def __init__(self, transport: Transport, target: Target, id: str) -> None:
        self._transport = transport
        self._target = target
        self._id = id

    async def monitor(self) -> Monitor:
        return _monitor(self._checked(await self._ask("GET")).body, self._id)

    async def monitors(self) -> AsyncIterator[Monitor]:
        shown: Monitor | None = None
        while True:
            response = self._checked(await self._ask("GET", headers=(("accept", "text/event-stream"),), streams=True))
            bodies = _once(response.body) if response.stream is None else events_of(response.stream)
            try:
                async for body in bodies:
                    monitor = _monitor(body, self._id)
                    if monitor != shown:
                        shown = monitor
                        yield monitor
                    if monitor["state"] in FINAL:
                        return
            except Unavailable:
                pass  # the door went away in the middle; the message didn't
            finally:
                if isinstance(response.stream, Closing):
                    await response.stream.aclose()
            await asyncio.sleep(_AGAIN_S)

    async def answer(self, timeout_s: float) -> Answer:
        clock = asyncio.get_running_loop().time
        until_s = clock() + timeout_s
        while True:
            wait_s = math.ceil(max(0.0, min(until_s - clock(), _LONG_POLL_S)))
            response = await self._ask("GET", "/result", (("prefer", f"wait={wait_s}"),), timeout_s=wait_s + _TRANSIT_S)
            if response.status != 202:
                _refuse_gone(response, self._id)
                return answer_from(response)
            if clock() >= until_s:
                raise _still_going(self._id, timeout_s)

    async def cancel(self, who: str) -> Cancelling:
        response = await self._ask("DELETE")
        if response.status == 409:
            return "too_late"
        return "cancelled" if self._checked(response).status == 200 else "requested"

    async def _ask(
        self,
        method: str,
        rest: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        streams: bool = False,
        timeout_s: float = ASK_S,
    ) -> Response:
        return await self._transport.request(
            self._target.origin,
            method,
            f"{self._target.prefix}/tickets/{self._id}{rest}",
            headers,
            deadline_s=asyncio.get_running_loop().time() + timeout_s,
            streams=streams,
        )

    def _checked(self, response: Response) -> Response:
        _refuse_gone(response, self._id)
        if not 200 <= response.status < 300:
            raise TransportError(f"{self._target.origin.url} answered {response.status} for the ticket {self._id}.")
        return response


async def place_of(reach: Reach, id: str) -> Place:
    """Find a message: in the store if there is one and it is there, else at a door."""
    try:
        id = ids.text(ids.parse(id))
    except ValueError:
        raise UsageError(f"{id[:80]!r} is no message id; `ringpost send` prints one.") from None
    store = await reach.store()
    if store is not None and (await store.read([ids.parse(id)]))[0] is not None:
        return InStore(store, id)
    tried: list[str] = []
    kept_no_longer: TicketExpired | None = None
    async for target in reach.doors():
        place = AtDoor(reach.transport(), target, id)
        try:
            await place.monitor()
        except TicketExpired as error:
            kept_no_longer = error
        except StateError:
            tried.append(f"{target.origin.url} doesn't know it")
        except TransportError as error:
            tried.append(str(error).rstrip("."))
        else:
            return place
    if kept_no_longer is not None:
        raise kept_no_longer
    if store is not None:
        raise unknown(id)
    if any(text.endswith("doesn't know it") for text in tried):
        raise StateError(f"There is no message {id} ({'; '.join(tried)}), or it is kept no longer.")
    raise Unavailable(f"nobody can say how {id} is: {'; '.join([*tried, reach.no_store.rstrip('.')])}.")


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _monitor(body: bytes, id: str) -> Monitor:
    try:
        monitor = msgspec.json.decode(body, type=Monitor)
    except msgspec.MsgspecError:
        monitor = {}
    if not isinstance(monitor.get("state"), str):
        raise TransportError(f"What answered for the ticket {id} is no door of Ringpost.")
    return monitor


def _refuse_gone(response: Response, id: str) -> None:
    """Tell an unknown ticket from an outcome that has the same status."""
    if response.status == 410 and b'"gone"' in response.body:
        raise TicketExpired(f"The message {id} is kept no longer.")
    if response.status == 404 and b'"not_found"' in response.body:
        raise StateError(f"There is no message {id} at that door, or it is kept no longer.")


def _still_going(id: str, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no outcome of {id} after {timeout_s:g} s; it goes on. Ask again with `ringpost ticket {id}`."
    )
