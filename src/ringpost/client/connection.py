"""One kept-alive HTTP/1.1 connection: one request at a time, and never a second one on a connection of unknown state.

The parser is httptools' (llhttp, strict). A connection that is given up with an answer outstanding is drained aside
for at most a second: only an answer that was read whole lets it be used again.
"""

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import IntEnum
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from msgspec import Struct

from ringpost.client.sweep import NEVER_S, Sweep
from ringpost.contract.errors import DeadlineExceeded, TransportError, Unavailable
from ringpost.wire.http import Response

DRAIN_S = 1.0
CHECK_IDLE_S = 1.0  # idle for longer than this: look whether the other side has closed before writing
STREAM_SILENCE_S = 60.0  # a stream that says nothing for so long is broken; ours sends a comment every 10 s
STREAM_BUFFER_BYTES = 256 * 1024
_TOO_MUCH_HEAD = "its headers are too many or too long"


class Limits(Struct, frozen=True):
    """How large an answer may be."""

    body_bytes: int = 1024 * 1024
    head_bytes: int = 16 * 1024
    head_count: int = 100


class Received(Struct, gc=False):
    """An answer as it came; its headers are read only where somebody asks."""

    status: int
    body: bytes
    fields: list[tuple[bytes, bytes]]
    stream: "Stream | None" = None

    def response(self) -> Response:
        """Give it as door and transport exchange it."""
        content_type = ""
        headers: list[tuple[str, str]] = []
        for raw_name, raw_value in self.fields:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers.append((name, value))
            if name == "content-type":
                content_type = value
        return Response(self.status, self.body, tuple(headers), content_type, self.stream)


class Exchange(Protocol):
    """What is told, from `due_s` on, that there is no answer yet; NEVER_S: nothing."""

    due_s: float

    def late(self, now_s: float, connection: "Connection", answer: "asyncio.Future[Received]") -> float:
        """Take note that it is late; gives when to be told again, NEVER_S: not any more."""
        ...


class Phase(IntEnum):
    """What a connection is doing."""

    CONNECTING = 0
    IDLE = 1
    BUSY = 2  # a caller waits for the answer
    DRAINING = 3  # nobody does any more
    STREAMING = 4
    CLOSED = 5


# Members looked up once: this is the hot path.
_IDLE, _BUSY, _DRAINING, _STREAMING, _CLOSED = (
    Phase.IDLE,
    Phase.BUSY,
    Phase.DRAINING,
    Phase.STREAMING,
    Phase.CLOSED,
)


class Broken(Exception):
    """Raised inside a parser's callback: the answer breaks a limit or a rule."""


class Connection(asyncio.Protocol):
    """What the parser and the loop call back. `released` is told when it is free again, `closed` when it is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweep: Sweep,
        limits: Limits,
        released: Callable[["Connection"], None],
        closed: Callable[["Connection"], None],
        name: str,
    ) -> None:
        self.deadline_s = NEVER_S
        self.idle_since_s = 0.0
        self._exchange: Exchange | None = None  # who is told of it before the deadline
        self._until_s = NEVER_S
        self._loop = loop
        self._sweep = sweep
        self._due = sweep.due
        self._limits = limits
        self._released = released
        self._closed = closed
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.CONNECTING
        self._answer: asyncio.Future[Received] | None = None
        self._stream: Stream | None = None
        self._streams = False
        self._parser = HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._chunks: list[bytes] = []
        self._head_bytes = self._body_bytes = 0
        self._field_count = 0
        self._head_done = False
        self._complete = False
        self._reusable = True
        # The head of the last plain answer, the length of what followed it, and how it was read: the next one is the
        # same to the byte, but for a new date every second.
        self._known_head = b""
        self._known_bytes = 0
        self._known: Received | None = None

    @property
    def phase(self) -> Phase:
        return self._phase

    # What the pool and the transport do with it.

    def usable(self, now_s: float) -> bool:
        """Say whether a request may be written: nothing closed it, and nothing came that nobody asked for."""
        transport = self._transport
        if self._phase is not _IDLE or transport is None or transport.is_closing():
            return False
        return now_s - self.idle_since_s < CHECK_IDLE_S or not _readable(transport)

    def begin(
        self, data: bytes, deadline_s: float, streams: bool = False, exchange: Exchange | None = None
    ) -> asyncio.Future[Received]:
        """Write a request in one piece and give the future of its answer. The connection must be usable. `exchange` is
        told when it is late."""
        transport = self._transport
        assert transport is not None and self._phase is _IDLE
        self._phase = _BUSY
        self._streams = streams
        self.deadline_s = deadline_s
        if exchange is not None and exchange.due_s < deadline_s:
            self._exchange, self._until_s, self.deadline_s = exchange, deadline_s, exchange.due_s
        answer = self._answer = self._loop.create_future()
        if self.deadline_s < self._due.covered_s:
            self._due.by(self.deadline_s)
        transport.write(data)
        return answer

    def abandon(self, answer: asyncio.Future[Received]) -> None:
        """Wait for this answer no longer; drain it aside for a second, then close.

        It may have come meanwhile, and the connection be somebody else's already: then nothing is to be done.
        """
        if self._phase is _BUSY and self._answer is answer:
            self._phase = _DRAINING
            self._answer = self._exchange = None
            self.deadline_s = self._loop.time() + DRAIN_S
            self._due.by(self.deadline_s)

    def close(self) -> None:
        """Close at once, whatever is outstanding."""
        self._fail(Unavailable(f"The connection to {self._name} was closed.", processed="maybe"))

    def expire(self) -> None:
        """The time of what is outstanding is over."""
        if self._phase is _BUSY:
            answer = self._answer
            assert answer is not None
            if self._exchange is not None and not answer.done():
                self._tell_late(self._exchange, answer)
                return
            self.abandon(answer)
            if not answer.done():
                answer.set_exception(
                    DeadlineExceeded(
                        f"{self._name} didn't answer in time. It may have done what was asked: repeat only with an "
                        "idempotency key.",
                        processed="maybe",
                    )
                )
        elif self._phase is _STREAMING:
            self._fail(Unavailable(f"The stream from {self._name} fell silent.", processed="maybe"))
        elif self._phase is _DRAINING:
            self._abort()

    def _tell_late(self, exchange: Exchange, answer: "asyncio.Future[Received]") -> None:
        until_s = self._until_s
        again_s = exchange.late(self._loop.time(), self, answer)
        if again_s >= until_s:
            self._exchange = None
        self.deadline_s = min(again_s, until_s)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's isn't a subclass
        self._phase = _IDLE
        self.idle_since_s = self._loop.time()
        self._sweep.watch(self)

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is not _BUSY and phase is not _DRAINING and phase is not _STREAMING:
            self._abort()  # an answer that nobody asked for: who knows to whom the next one would belong
            return
        if not self._head_done:
            known = self._known
            if known is not None and not self._head_bytes and phase is _BUSY and not self._streams:
                head = self._known_head
                if len(data) == self._known_bytes and data.startswith(head):
                    self._finish_known(known, data[len(head) :])
                    return
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                self._fail(_broken(self._name, error))
                return
            self._reusable = False
        if self._complete:
            if self._head_bytes == len(data) and self._reusable and not self._streams:
                self._remember(data)
            self._finish()
        elif (not self._head_done and self._head_bytes > self._limits.head_bytes) or (
            len(self._fields) > self._limits.head_count
        ):
            self._fail(_broken(self._name, Broken(_TOO_MUCH_HEAD)))

    def eof_received(self) -> bool | None:
        return False  # close our half too

    def connection_lost(self, exc: Exception | None) -> None:
        if self._phase is not _CLOSED:
            detail = f" ({exc})" if exc else ""
            begun = "in the middle of its answer" if self._head_bytes else "without an answer"
            self._fail(
                Unavailable(
                    f"{self._name} closed the connection {begun}{detail}. It may have done what was asked.",
                    processed="maybe",
                )
            )
        self._transport = None
        self._closed(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete or self._parser.get_status_code() < 200:
            return
        # What was read up to here is at least the head: only where that is too much, it is looked at closely.
        fields, limits = self._fields, self._limits
        if len(fields) > limits.head_count or (
            self._head_bytes > limits.head_bytes and sum([len(n) + len(v) + 4 for n, v in fields]) > limits.head_bytes
        ):
            raise Broken(_TOO_MUCH_HEAD)
        self._head_done = True
        self._field_count = len(fields)  # trailers come after them
        if self._streams and self._phase is _BUSY:
            self._begin_stream()

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        if self._stream is not None:
            self.deadline_s = self._loop.time() + STREAM_SILENCE_S
            self._stream.feed(body)
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            raise Broken(f"it is longer than {self._limits.body_bytes:,} bytes")
        if not self._body:
            self._body = body
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # an interim answer: the real one follows
            self._fields.clear()
            return
        if not self._parser.should_keep_alive():
            self._reusable = False
        self._complete = True

    # The end of an answer.

    def _remember(self, data: bytes) -> None:
        """Keep how a head was read, if the answer came in one piece and all behind its head is its body: then it has a
        Content-Length, and an answer with the same head is read the same."""
        body, end = self._body, data.find(b"\r\n\r\n") + 4
        if body and not self._chunks and len(data) - end == len(body):
            self._known_head, self._known_bytes = data[:end], len(data)
            self._known = Received(self._parser.get_status_code(), b"", self._fields)

    def _finish_known(self, known: Received, body: bytes) -> None:
        """End an answer whose head was read before, without the parser: it stands between two messages."""
        answer = self._answer
        if answer is not None and not answer.done():
            answer.set_result(Received(known.status, body, known.fields))
        self.deadline_s = NEVER_S
        transport = self._transport
        assert transport is not None
        if transport.is_closing() or transport.get_write_buffer_size():
            self._abort()
            return
        self._answer = self._exchange = None
        self._phase = _IDLE
        self.idle_since_s = self._loop.time()
        self._released(self)

    def _finish(self) -> None:
        self.deadline_s = NEVER_S
        answer, stream, fields = self._answer, self._stream, self._fields
        if self._phase is _BUSY and answer is not None and not answer.done():
            if len(fields) != self._field_count:
                del fields[self._field_count :]
            body = b"".join((self._body, *self._chunks)) if self._chunks else self._body
            answer.set_result(Received(self._parser.get_status_code(), body, fields))
        elif stream is not None:
            stream.end(None)
            self._stream = None
        transport = self._transport
        assert transport is not None
        if not self._reusable or transport.is_closing() or transport.get_write_buffer_size():
            self._abort()
            return
        self._answer = self._exchange = None
        self._fields = []
        self._body = b""
        if self._chunks:
            self._chunks = []
        self._head_bytes = self._body_bytes = 0
        self._head_done = self._complete = False
        self._phase = _IDLE
        self.idle_since_s = self._loop.time()
        self._released(self)

    def _begin_stream(self) -> None:
        received = Received(self._parser.get_status_code(), b"", self._fields)
        if not received.response().content_type.startswith("text/event-stream"):
            return
        answer = self._answer
        assert self._transport is not None
        if answer is None or answer.done():
            return
        self._phase = _STREAMING
        self.deadline_s = self._loop.time() + STREAM_SILENCE_S
        self._due.by(self.deadline_s)
        self._stream = Stream(self._loop, self._transport, self._abort)
        received.stream = self._stream
        self._answer = self._exchange = None
        answer.set_result(received)

    def _fail(self, error: TransportError) -> None:
        answer, stream = self._answer, self._stream
        self._abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)
        if stream is not None:
            stream.end(error)

    def _abort(self) -> None:
        self._sweep.forget(self)
        self._phase = _CLOSED
        self._answer = self._exchange = None
        self._stream = None
        if self._transport is not None:
            self._transport.abort()


class Stream(AsyncIterator[bytes]):
    """A body as it comes. Reading pauses where the reader doesn't keep up."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, close: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._close = close
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._ended = False
        self._error: TransportError | None = None
        self._wakes: asyncio.Future[None] | None = None

    def feed(self, chunk: bytes) -> None:
        """Take what arrived."""
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        if self._buffered > STREAM_BUFFER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def end(self, error: TransportError | None) -> None:
        """Take note that no more comes."""
        self._ended = True
        self._error = error
        self._wake()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._wakes = self._loop.create_future()
            await self._wakes
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._paused and self._buffered <= STREAM_BUFFER_BYTES // 2 and not self._ended:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def aclose(self) -> None:
        """Read no more: the connection is closed."""
        if not self._ended:
            self._ended = True
            self._close()

    def _wake(self) -> None:
        if self._wakes is not None and not self._wakes.done():
            self._wakes.set_result(None)


def _broken(name: str, error: Exception) -> TransportError:
    # A callback's own error arrives wrapped by the parser's.
    cause: BaseException = error.__context__ if isinstance(error.__context__, Broken) else error
    detail = str(cause) or type(cause).__name__
    return TransportError(f"The answer of {name} was given up: {detail}.", processed="maybe")


def _readable(transport: asyncio.Transport) -> bool:
    """Say whether something waits to be read: on an idle connection that is its end, or what must not be there."""
    wire = transport.get_extra_info("socket")
    if wire is None or wire.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(wire.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
