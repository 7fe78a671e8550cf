"""The same door as an ASGI application, to mount in FastAPI, Starlette or whatever else speaks ASGI 3."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final, TypedDict, cast

from typing_extensions import Unpack

from ringpost.contract.errors import UsageError
from ringpost.http.answers import refusal
from ringpost.http.framing import HOST, ONCE, Refused
from ringpost.http.site import LAST_S, Site
from ringpost.service.service import Service
from ringpost.settings import Given, Settings, load
from ringpost.wire.http import Request, Response

WATCH_AFTER_S: Final = 0.05  # an answer that takes longer is given up when its client goes away

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiOptions(TypedDict, total=False):
    """`store`: its URL."""

    store: str


def asgi(*services: Service, **options: Unpack[AsgiOptions]) -> "Application":
    """Give the door of some services as an ASGI application: `app.mount("/rpc", asgi(accounts))`.

    It opens at its first request (a mounted application gets no lifespan events) or at lifespan startup, and claims no
    messages: to work them in the same process, use `serve(…, http=None)` in the lifespan of the outer application.
    Raises UsageError for settings that can't be; what opening raises fails the startup, or the request.
    """
    return Application(services, load(cast(Given, options)))


class Application:
    """Serve HTTP scopes through a door; refuse others."""

    def __init__(self, services: Sequence[Service], settings: Settings) -> None:
        self._services = services
        self._settings = settings
        self._opening: asyncio.Future[Site] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise UsageError(f"Ringpost serves HTTP, not the ASGI scope {other!r}.")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._site()
        except Exception as error:  # noqa: BLE001 (the server is told, and reports it)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def close(self) -> None:
        """Let what runs end, and close the store. The next request would open anew."""
        opening, self._opening = self._opening, None
        if opening is not None:
            await (await opening).close(max(0.0, self._settings.shutdown_s - LAST_S))

    async def _site(self) -> Site:
        """Give what is open in this loop, or open it."""
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is not None and opening.get_loop() is not loop:
            if opening.get_loop().is_running():
                raise UsageError("This application was opened in another event loop: make one per loop.")
            opening = None  # that loop has ended, and all that was open in it
        if opening is None:
            opening = self._opening = loop.create_task(self._open())
        elif opening.done() and not opening.cancelled() and opening.exception() is None:
            return opening.result()
        try:
            return await asyncio.shield(opening)
        except BaseException:
            if opening.done() and self._opening is opening:
                self._opening = None  # the next one tries again
            raise

    async def _open(self) -> Site:
        site = Site(self._services, self._settings)
        site.door.owns_tasks = False  # they are the outer application's, middleware and all
        await site.open(None, work=False)
        return site

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = await self._request(scope, receive)
        except Refused as refused:
            await _respond(scope, refusal(refused), send)
            return
        except ConnectionError:
            return
        door = (await self._site()).door
        answering = asyncio.current_task()
        assert answering is not None
        watch = _Watch(receive, answering)
        try:
            await _respond(scope, await door(request), send)
        except asyncio.CancelledError:
            # Cancelled by us because the client has gone: nobody is there who could be told.
            if not watch.fired or answering.uncancel() > 0:
                raise
        finally:
            watch.stop()

    async def _request(self, scope: Scope, receive: Receive) -> Request:
        headers = _headers(scope["headers"], self._settings)
        host = headers.get("host", "")
        if HOST.match(host) is None:
            raise Refused(400, "invalid", "The Host header names no host.")
        root: str = scope.get("root_path", "").rstrip("/")
        path: str = scope["path"]
        if root and path.startswith(root):
            path = path[len(root) :]
        origin = f"{scope.get('scheme', 'http')}://{host}{root}" if host else root
        arrived_s = asyncio.get_running_loop().time()
        query = scope.get("query_string", b"").decode("latin-1")
        body = await _body(receive, self._settings.request_bytes_max)
        return Request(scope["method"], path or "/", query, headers, body, arrived_s, origin)


def _headers(given: Iterable[tuple[bytes, bytes]], settings: Settings) -> dict[str, str]:
    headers: dict[str, str] = {}
    size_bytes = 0
    for count, (raw_name, raw_value) in enumerate(given, 1):
        size_bytes += len(raw_name) + len(raw_value) + 4
        if count > settings.header_count_max or size_bytes > settings.header_bytes_max:
            raise Refused(431, "too_large", "The head of the request is too large.")
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in headers:
            if name in ONCE:
                raise Refused(400, "invalid", f"The header {name} may be there once.")
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


async def _body(receive: Receive, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError
        part = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > bytes_max:
            raise Refused(413, "too_large", f"A request may have {bytes_max} bytes.")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


class _Watch:
    """Cancel an answer once its client has gone away. Most answers are there before it is worth while to listen for
    that: a task for each would cost a fifth of the request."""

    def __init__(self, receive: Receive, answering: "asyncio.Task[Any]") -> None:
        self._receive = receive
        self._answering = answering
        self._loop = answering.get_loop()
        self._listening: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._start)

    @property
    def fired(self) -> bool:
        """Whether it was this that cancelled the answer."""
        listening = self._listening
        return listening is not None and listening.done() and not listening.cancelled()

    def stop(self) -> None:
        self._timer.cancel()
        if self._listening is not None:
            self._listening.cancel()

    def _start(self) -> None:
        self._listening = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._answering.cancel()


async def _respond(scope: Scope, response: Response, send: Send) -> None:
    stream, body = response.stream, response.body
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    if response.status not in (204, 304):
        headers.append((b"content-type", response.content_type.encode("latin-1")))
        if stream is None:
            headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if stream is None or scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        return
    try:
        async for piece in stream:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    await send({"type": "http.response.body", "body": b""})
