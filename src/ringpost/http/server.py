"""Our own HTTP/1.1 server: sockets, time limits and the order of answers; `framing` reads, `rendering` writes.

One connection handles one request at a time, each in a task of its own; pipelined ones wait, and answers leave in the
order of the requests. Every limit in time is an instant kept by its connection and looked at by one sweep for all of
them: a timer per request would cost more than the request.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from math import inf
from typing import Final, cast

from ringpost.core.outcome import problem_answer
from ringpost.http.answers import refusal
from ringpost.http.framing import BODY, CHUNKS, HEAD, Arrived, Reader, Refused
from ringpost.http.ports import BACKLOG
from ringpost.http.rendering import BODILESS, CONTINUE, LAST_CHUNK, Renderer, chunk
from ringpost.settings import Settings
from ringpost.wire.http import Request, Response
from ringpost.wire.problem import response_of

Handle = Callable[[Request], Awaitable[Response]]
Refuse = Callable[[Request, bool], Response | None]

SWEEP_S: Final = 0.25
SPARE: Final = 16  # connections beyond the most, for health and the like
LINGER_S: Final = 2.0  # how long a refused client may go on sending before it is cut off
FLUSH_S: Final = 1.0  # at the end, for answers that are on their way
WRITE_BYTES_MAX: Final = 64 * 1024  # unread by the client; beyond it nothing more is handled until it has read

_NOTHING = b""
_CLOSE = b"connection: close\r\n"
_KEEP = b"connection: keep-alive\r\n"

_log = logging.getLogger("ringpost.http")


def refuse_nothing(request: Request, crowded: bool) -> Response | None:
    return None


class Connection(asyncio.Protocol):
    """One client. `due_s` is the instant at which the sweep ends what it is waiting for."""

    __slots__ = (
        "_blocked",
        "_drained",
        "_last",
        "_lingering",
        "_loop",
        "_paused",
        "_reader",
        "_server",
        "_transport",
        "_watched",
        "due_s",
        "spare",
        "streaming",
        "task",
    )

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._loop = server.loop
        self._reader = Reader(server.settings, server.scheme)
        self._transport: asyncio.Transport
        self._drained: asyncio.Future[None] | None = None
        self._blocked = False  # the client doesn't read
        self._paused = False  # we don't read
        self._last = False  # an answer that closes has been written
        self._lingering = False
        self._watched = HEAD  # what due_s is about
        self.due_s = inf
        self.task: asyncio.Task[None] | None = None
        self.streaming = False
        self.spare = False  # beyond the others: only who asks how this process is gets an answer here

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's isn't one by descent
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self.due_s = self._loop.time() + self._server.settings.header_time_s
        self._server.join(self)

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        reader = self._reader
        now_s = reader.now_s = self._loop.time()
        reader.feed(data)
        if self.task is None:
            self._go_on(now_s)
        if reader.held and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Take the end of what the client says for its going away: from here a hang-up looks no different."""
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._blocked = True
        self.due_s = self._loop.time() + self._server.settings.body_time_s

    def resume_writing(self) -> None:
        self._blocked = False
        self.due_s = inf
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._watched = -1
        if self.task is None:
            self._go_on(self._loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self._last = True
        self._server.leave(self)
        if self.task is not None:
            self.task.cancel()

    # One request after the other.

    def _go_on(self, now_s: float) -> None:
        """Start the next request if there is one; else see what is being waited for. None is running."""
        reader = self._reader
        while not (self._blocked or self._last):
            if reader.held and not reader.ready:
                self._read_on(now_s)
            if not reader.ready:
                self._watch(now_s)
                return
            item = reader.ready.popleft()
            if not isinstance(item, Arrived):
                self._refuse(item)
                return
            self._watched = -1
            refusal = self._server.refuse(item, self.spare)
            if self.spare:
                item.keep_alive = False
            if refusal is None:
                item.since_s = now_s
                self.due_s = inf
                self.task = self._loop.create_task(self._answer(item))
                return
            keep = item.keep_alive and not refusal.close and not self._server.retiring
            self._write(item, refusal, keep)
            if not keep:
                self._close()

    def _read_on(self, now_s: float) -> None:
        """Parse what was kept unparsed while there were too many requests, and read again."""
        reader = self._reader
        reader.now_s = now_s
        reader.feed(b"")
        if self._paused and not reader.held:
            self._paused = False
            self._transport.resume_reading()

    def _watch(self, now_s: float) -> None:
        """Set the limit for what the client is to do next, counted from its begin."""
        phase = self._reader.phase
        if phase == self._watched:
            return
        self._watched = phase
        settings = self._server.settings
        if phase == HEAD:
            self.due_s = now_s + settings.header_time_s
        elif phase in (BODY, CHUNKS):
            self.due_s = now_s + settings.body_time_s
            if self._reader.expecting:
                self._reader.expecting = False
                self._transport.write(CONTINUE)
        else:
            self.due_s = now_s + settings.keep_alive_s

    async def _answer(self, request: Arrived) -> None:
        keep = False
        try:
            response = await self._server.handle(request)
            keep = request.keep_alive and not response.close and not self._server.retiring
            if response.stream is None:
                self._write(request, response, keep)
            else:
                keep = await self._stream(request, response, keep and not request.http_1_0)
        except asyncio.CancelledError:
            self._transport.abort()
            raise
        except Exception:  # noqa: BLE001 (the border: whatever happens behind the door, the client is answered)
            _log.exception("%s %s failed in the door", request.method, request.path)
            keep = False
            self._fail(request)
        finally:
            self.task = None
        if keep:
            self._go_on(self._loop.time())
        else:
            self._close()

    def _write(self, request: Arrived, response: Response, keep: bool) -> None:
        renderer, now_s = self._server.renderer, self._loop.time()
        head_only = request.method == "HEAD"
        if keep and not (response.headers or head_only or request.http_1_0 or response.status in BODILESS):
            self._transport.write(renderer.plain(response, now_s))
            return
        connection = _NOTHING if keep and not request.http_1_0 else _KEEP if keep else _CLOSE
        self._transport.write(renderer.whole(response, now_s, head_only=head_only, connection=connection))

    async def _stream(self, request: Arrived, response: Response, keep: bool) -> bool:
        """Send a stream as it comes; say whether it came to its end and the connection may go on."""
        stream = response.stream
        assert stream is not None
        write, chunked = self._transport.write, not request.http_1_0
        connection = _NOTHING if keep else _CLOSE
        now_s = self._loop.time()
        write(self._server.renderer.stream_head(response, now_s, chunked=chunked, connection=connection))
        self.streaming = True
        try:
            if request.method != "HEAD":
                async for piece in stream:
                    if piece:
                        write(chunk(piece) if chunked else piece)
                    if self._blocked:
                        self._drained = self._loop.create_future()
                        await self._drained
                if chunked:
                    write(LAST_CHUNK)
        except Exception:  # noqa: BLE001 (the same border; what is left to say is that this isn't the end)
            _log.exception("%s %s failed while it was streamed", request.method, request.path)
            self._transport.abort()
            return False
        finally:
            self.streaming = False
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()
        return keep

    def _fail(self, request: Arrived) -> None:
        answer = problem_answer("handler_error", "The door failed; its log says why.")
        self._write(request, response_of(answer), keep=False)

    # Ends.

    def _refuse(self, refused: Refused) -> None:
        """Answer and close, but let the client finish its sentence: a reset would take the answer from it."""
        response = refusal(refused)
        self._transport.write(
            self._server.renderer.whole(response, self._loop.time(), head_only=False, connection=_CLOSE)
        )
        self._last = True
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._lingering = True
            self.due_s = self._loop.time() + LINGER_S
            self._transport.write_eof()
        else:
            self._close()

    def _close(self) -> None:
        """Close once everything written is read; the sweep cuts off who doesn't read it."""
        self._last = True
        self._lingering = True
        self.due_s = self._loop.time() + self._server.settings.body_time_s
        self._transport.close()

    def abort(self) -> None:
        self._last = True
        self._transport.abort()

    def expire(self) -> None:
        """End what has waited too long."""
        if self._lingering or self._blocked:
            self.abort()
        elif self._watched in (BODY, CHUNKS):
            self._refuse(Refused(408, "deadline_exceeded", "The body took too long to arrive."))
        elif self._watched == HEAD:
            self._refuse(Refused(408, "deadline_exceeded", "The head took too long to arrive."))
        else:
            self._close()

    @property
    def idle(self) -> bool:
        """Whether it may be closed without breaking a promise: nothing of a request is here."""
        return self.task is None and not self._reader.ready and self._reader.phase < HEAD

    def dismiss(self) -> None:
        """Close it if it is idle; else its next answer does."""
        if self.idle and not self._last:
            self._close()


class Server:
    """Listen, and hold all connections to their limits."""

    def __init__(
        self, handle: Handle, settings: Settings, *, tls: ssl.SSLContext | None = None, refuse: Refuse = refuse_nothing
    ) -> None:
        """`refuse` may answer a request at once, before anything is made for it; it is told whether the request came
        by a spare connection."""
        self.handle = handle
        self.refuse = refuse
        self.settings = settings
        self.scheme = "http" if tls is None else "https"
        self.loop = asyncio.get_running_loop()
        self.renderer = Renderer()
        self.retiring = False
        self.connections: dict[Connection, None] = {}  # in the order in which they came
        self._tls = tls
        self._listening: list[asyncio.AbstractServer] = []
        self._sweeping: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Accept from a socket."""
        listener.setblocking(False)
        server = await self.loop.create_server(
            lambda: Connection(self),
            sock=listener,
            ssl=self._tls,
            ssl_handshake_timeout=self.settings.header_time_s if self._tls else None,
            backlog=BACKLOG,
        )
        self._listening.append(server)

    def retire(self) -> None:
        """Serve on, but let go of every client at its next answer, so that it connects elsewhere."""
        self.retiring = True

    async def close(self, grace_s: float) -> None:
        """Stop listening, let what runs end within the grace, then cut."""
        for server in self._listening:
            server.close()
        self._listening.clear()
        self.retire()
        for connection in tuple(self.connections):
            connection.dismiss()
            if connection.streaming and connection.task is not None:  # it has no end that could be waited for
                connection.task.cancel()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        if tasks and grace_s > 0:
            await asyncio.wait(tasks, timeout=grace_s)
        if self.connections:  # what was written must still be read
            self._emptied = self.loop.create_future()
            await asyncio.wait([self._emptied], timeout=min(grace_s, FLUSH_S))
        for connection in tuple(self.connections):
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()

    # What connections call.

    def join(self, connection: Connection) -> None:
        if len(self.connections) >= self.settings.connections_max:
            self._make_room(connection)
        self.connections[connection] = None
        if self._sweeping is None:
            self._sweeping = self.loop.call_later(SWEEP_S, self._sweep)

    def leave(self, connection: Connection) -> None:
        self.connections.pop(connection, None)
        if self._emptied is not None and not self.connections and not self._emptied.done():
            self._emptied.set_result(None)

    def _make_room(self, newcomer: Connection) -> None:
        """Let go of whoever has been silent longest. If all are at work the newcomer may ask how this process is, by
        one of a few spare connections; or else it is let go of."""
        silent = min(self.connections, key=lambda connection: inf if connection.spare else connection.due_s)
        if silent.due_s != inf and not silent.spare:
            silent.abort()
        elif sum(connection.spare for connection in self.connections) < SPARE:
            newcomer.spare = True
        else:
            newcomer.abort()

    def _sweep(self) -> None:
        now_s = self.loop.time()
        for connection in [connection for connection in self.connections if connection.due_s <= now_s]:
            connection.expire()
        self._sweeping = self.loop.call_later(SWEEP_S, self._sweep) if self.connections else None
