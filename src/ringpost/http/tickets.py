"""Tickets over HTTP: the monitor, the result, the long poll, the stream of progress, cancelling."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from ringpost.core import ids
from ringpost.core.call import Accepted
from ringpost.core.keep import KEEP_KEYED_S
from ringpost.core.message import Kind, Record
from ringpost.http.answers import Headers, json, not_allowed
from ringpost.http.asked import check_json
from ringpost.http.framing import Refused
from ringpost.store.port import Cancel, Store
from ringpost.wire import headers as read
from ringpost.wire import outcomes
from ringpost.wire import ticket as wire
from ringpost.wire.http import Request, Response
from ringpost.wire.problem import response_of

LONG_POLL_S_MAX: Final = 25.0
POLL_S: Final = 1.0  # a wake-up is a hint that may be lost
HEARTBEAT_S: Final = 10.0  # of a stream
_PREFIX: Final = "/tickets/"
_VARY: Final[Headers] = (("Vary", "Prefer, Accept"),)
_STREAM: Final = "text/event-stream"


class Stored(Protocol):
    """Where tickets are kept: nowhere, in a process without store."""

    @property
    def store(self) -> Store | None: ...


class Tickets:
    """Show and cancel messages. `public`: the URL that Locations begin with; empty: the request's own origin."""

    def __init__(self, host: Stored, public: str, now_ms: Callable[[], int]) -> None:
        self._host = host
        self._public = public
        self._now_ms = now_ms

    async def __call__(self, request: Request) -> Response:
        """Answer `/tickets/{id}` and `/tickets/{id}/result`."""
        text, slash, rest = request.path.removeprefix(_PREFIX).partition("/")
        try:
            id = ids.parse(text)
        except ValueError:
            raise _nothing() from None
        if slash and rest != "result":
            raise _nothing()
        methods = ("GET", "HEAD") if slash else ("GET", "HEAD", "DELETE")
        if request.method not in methods:
            return not_allowed(request, methods)
        if request.method == "DELETE":
            return await self._cancel(request, id)
        if not slash and _STREAM in request.headers.get("accept", ""):
            return await self._stream(request, id)
        wait_s = self._wait(request)
        headers: Headers = _VARY
        if wait_s:
            headers = (*headers, ("Preference-Applied", f"wait={wait_s:g}"))
        record = await self._read(id, bodies=bool(slash))
        if wait_s and not record.state.terminal:
            record = await self._ended(id, request.arrived_s + wait_s, bodies=bool(slash))
        return self._result(request, record, headers) if slash else self._monitor(request, record, 200, headers)

    async def ended(self, id: bytes, until_s: float) -> Record | None:
        """Wait for the end of a message until an instant of the loop's clock."""
        record = await self._ended(id, until_s, bodies=True)
        return record if record.state.terminal else None

    async def wait_for_any(self, request: Request) -> Response:
        """Answer `/tickets:wait`: which of many have ended, as soon as one has."""
        check_json(request.headers)
        wanted = outcomes.read_question(request.body)
        until_s = request.arrived_s + self._wait(request)
        clock = asyncio.get_running_loop().time
        store = self._store()
        while True:
            async with _Listening(store, wanted, until_s - clock()) as listening:
                records = await store.read(wanted, bodies=False)
                found = [None if one is None or one.kind is not Kind.MESSAGE else one for one in records]
                body = outcomes.answer(wanted, found)
                if body is not None or clock() >= until_s:
                    return Response(200, body or outcomes.NOTHING, (("Cache-Control", "no-store"),))
                await listening.heard()

    async def accepted(self, request: Request, accepted: Accepted, headers: Headers) -> Response:
        """Say where a request goes on that became a message, and what its receipt is worth."""
        record = await self._read(accepted.id)
        more = {
            "level": accepted.level,
            "store": accepted.store_id,
            "duplicate": accepted.duplicate,
            "receivers": accepted.receivers,
        }
        return self._monitor(request, record, 202, headers, more)

    # Reading.

    def _store(self) -> Store:
        store = self._host.store
        if store is None:
            raise _nothing()
        return store

    async def _read(self, id: bytes, *, bodies: bool = False) -> Record:
        (record,) = await self._store().read((id,), bodies=bodies)
        if record is None or record.kind is not Kind.MESSAGE:
            raise self._unknown(id)
        return record

    async def _ended(self, id: bytes, until_s: float, *, bodies: bool) -> Record:
        """Read until it has ended or the time is over."""
        clock = asyncio.get_running_loop().time
        while True:
            async with _Listening(self._store(), (id,), until_s - clock()) as listening:
                record = await self._read(id, bodies=bodies)
                if record.state.terminal or clock() >= until_s:
                    return record
                await listening.heard()

    def _wait(self, request: Request) -> float:
        wait_s = read.prefer(request.headers.get("prefer")).wait_s
        return 0.0 if wait_s is None else min(wait_s, LONG_POLL_S_MAX)

    # Showing.

    def _places(self, request: Request, record: Record) -> Headers:
        monitor = f"{self._public or request.origin}{_PREFIX}{ids.text(record.id)}"
        return (("Operation-Location", monitor), ("Location", f"{monitor}/result"))

    def _retry_after(self, record: Record) -> tuple[str, str]:
        return ("Retry-After", str(wire.retry_after_s(record, self._now_ms())))

    def _monitor(
        self,
        request: Request,
        record: Record,
        status: int,
        headers: Headers,
        more: Mapping[str, Any] | None = None,
    ) -> Response:
        headers = (*headers, *self._places(request, record))
        if not record.state.terminal:
            headers = (*headers, self._retry_after(record))
        return json(status, {**wire.monitor_of(record), **(more or {})}, headers)

    def _result(self, request: Request, record: Record, headers: Headers) -> Response:
        if not record.state.terminal:
            return self._monitor(request, record, 202, headers)
        return response_of(wire.result_of(record), headers)

    async def _stream(self, request: Request, id: bytes) -> Response:
        record = await self._read(id)  # unknown ids are refused before the stream begins
        headers = (*_VARY, ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))
        if record.state.terminal and request.headers.get("last-event-id") == wire.event_id(record):
            return Response(204, headers=headers)  # a browser that has seen the end comes back until it is told not to
        return Response(200, headers=headers, content_type=_STREAM, stream=self._updates(id))

    async def _updates(self, id: bytes) -> AsyncGenerator[bytes, None]:
        """Give the monitor now, at every change, and at last when it is final."""
        shown = b""
        clock = asyncio.get_running_loop().time
        spoken_s = clock()
        while True:
            async with _Listening(self._store(), (id,), POLL_S) as listening:
                record = await self._read(id)
                frame = wire.frame(record)
                if frame != shown:
                    shown, spoken_s = frame, clock()
                    yield frame
                    if record.state.terminal:
                        return
                    continue
                await listening.heard()
            if clock() - spoken_s >= HEARTBEAT_S:
                spoken_s = clock()
                yield wire.HEARTBEAT

    # Changing.

    async def _cancel(self, request: Request, id: bytes) -> Response:
        await self._read(id)
        (changed,) = await self._store().change((Cancel(id, who="http"),))
        if changed.result == "too_late":
            raise Refused(409, "too_late", "It has ended already: its result says how.")
        if changed.result not in ("done", "requested"):
            raise self._unknown(id)
        return self._monitor(request, await self._read(id), 200 if changed.result == "done" else 202, ())

    def _unknown(self, id: bytes) -> Refused:
        """Tell an id that is too old from one that was never known here; whose it is, nobody learns."""
        try:
            age_s = (self._now_ms() - ids.created_ms(id)) / 1000
        except ValueError:
            age_s = 0.0
        return Refused(410, "gone", "The ticket is kept no longer.") if age_s > KEEP_KEYED_S else _nothing()


class _Listening:
    """Listen to a store before looking into it, so that what happens in between isn't missed."""

    def __init__(self, store: Store, ids: Iterable[bytes], timeout_s: float) -> None:
        timeout_s = max(0.0, min(timeout_s, POLL_S))
        self._task = asyncio.ensure_future(store.wait(frozenset(), frozenset(ids), timeout_s))

    async def __aenter__(self) -> "_Listening":
        await asyncio.sleep(0)  # it listens once it has started
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        elif not self._task.cancelled():
            self._task.exception()

    async def heard(self) -> None:
        """Wait for a hint, or until it is time to look again."""
        await asyncio.wait((self._task,))


def _nothing() -> Refused:
    return Refused(404, "not_found", "There is no such ticket.")
