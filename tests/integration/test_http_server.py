"""The server on real sockets: order, limits in size and time, streams, TLS, and how it ends."""

import asyncio
import inspect
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme
import uvloop

from ringpost.http.server import Server
from ringpost.settings import Settings
from ringpost.wire.http import Request, Response

PATIENCE_S = 10.0
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
BIG = 8 * 1024 * 1024


async def echo(request: Request) -> Response:
    return Response(200, request.body or request.path.encode(), content_type="text/plain")


async def until(so: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not so():  # noqa: ASYNC110 (what happens in the server tells nobody)
            await asyncio.sleep(0.01)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """A client that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[str] = field(default_factory=list)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        line, *lines = raw[:-4].decode().split("\r\n")
        headers = dict((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines))
        return int(line.split(" ")[1]), headers

    async def answer(self, *, to_head: bool = False) -> Answer:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join([chunk async for chunk in self.chunks()]))
        length = 0 if to_head else int(headers.get("content-length", 0))
        return Answer(status, headers, await asyncio.wait_for(self.reader.readexactly(length), PATIENCE_S))

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE_S), 16)
            data = await asyncio.wait_for(self.reader.readexactly(size + 2), PATIENCE_S)
            if not size:
                return
            yield data[:-2]

    async def closed(self) -> bytes:
        """Give what still comes until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except ConnectionError:
            return b""


class Site:
    def __init__(self, server: Server, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.server = server
        self.address = address
        self.tls = tls
        self._writers: list[asyncio.StreamWriter] = []

    async def peer(self) -> Peer:
        name = "localhost" if self.tls else None
        reader, writer = await asyncio.open_connection(*self.address, ssl=self.tls, server_hostname=name)
        self._writers.append(writer)
        return Peer(reader, writer)

    def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def serving(
    handle: Callable[[Request], Awaitable[Response]] = echo,
    *,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    **settings: Any,
) -> AsyncGenerator[Site, None]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(handle, Settings(**settings), tls=tls[0] if tls else None)
    await server.listen(listener)
    site = Site(server, listener.getsockname(), tls[1] if tls else None)
    try:
        yield site
    finally:
        site.leave()
        await server.close(0.0)
        listener.close()


# Requests and answers.


async def test_a_connection_is_kept_and_answers_are_in_order() -> None:
    async with serving() as site:
        peer = await site.peer()
        for _ in range(3):
            await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer.headers["content-type"] == "text/plain"
            assert "date" in answer.headers
            assert "connection" not in answer.headers


async def test_pipelined_requests_are_answered_in_their_order_whatever_they_take() -> None:
    running = most = 0

    async def slow_first(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05 if request.path == "/0" else 0)
        running -= 1
        return await echo(request)

    async with serving(slow_first) as site:
        peer = await site.peer()
        await peer.send(b"".join(GET % b"/%d" % n for n in range(100)))
        assert [(await peer.answer()).body for _ in range(100)] == [b"/%d" % n for n in range(100)]
    assert most == 1


async def test_head_has_the_headers_and_no_body() -> None:
    async with serving() as site:
        peer = await site.peer()
        await peer.send(b"HEAD /abc HTTP/1.1\r\nHost: a\r\n\r\n" + GET % b"/next")
        answer = await peer.answer(to_head=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "4")
        assert (await peer.answer()).body == b"/next"


async def test_204_has_no_length() -> None:
    async def nothing(request: Request) -> Response:
        return Response(204)

    async with serving(nothing) as site:
        peer = await site.peer()
        await peer.send(GET % b"/" * 2)
        for _ in range(2):
            status, headers = await peer.head()
            assert (status, "content-length" in headers, "content-type" in headers) == (204, False, False)


async def test_http_1_0_is_closed_unless_it_asks() -> None:
    async with serving() as site:
        peer = await site.peer()
        await peer.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await peer.answer()).headers["connection"] == "keep-alive"
        await peer.send(b"GET /b HTTP/1.0\r\n\r\n")
        assert (await peer.answer()).headers["connection"] == "close"
        assert await peer.closed() == b""


async def test_connection_close_is_obeyed() -> None:
    async with serving() as site:
        peer = await site.peer()
        await peer.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await peer.answer()).headers["connection"] == "close"
        assert await peer.closed() == b""


async def test_a_client_is_told_to_continue_when_its_body_is_wanted() -> None:
    async with serving(request_bytes_max=10) as site:
        peer = await site.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert (await peer.head())[0] == 100
        await peer.send(b"hello")
        assert (await peer.answer()).body == b"hello"
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")
        assert (await peer.answer()).status == 413


async def test_a_refused_client_gets_its_answer_even_if_it_goes_on_sending() -> None:
    async with serving(request_bytes_max=10) as site:
        peer = await site.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BIG)
        for _ in range(16):
            peer.writer.write(b"x" * (BIG // 16))
        answer = await peer.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await peer.closed() == b""


async def test_what_came_before_a_bad_request_is_answered_first() -> None:
    async with serving() as site:
        peer = await site.peer()
        await peer.send(GET % b"/good" + b"BAD\r\n\r\n" + GET % b"/smuggled")
        assert (await peer.answer()).body == b"/good"
        assert (await peer.answer()).status == 400
        assert await peer.closed() == b""


# Streams.


async def test_a_stream_is_sent_as_it_comes() -> None:
    step = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await step.wait()
        yield b"two"

    async def streaming(request: Request) -> Response:
        return Response(200, stream=pieces())

    async with serving(streaming) as site:
        peer = await site.peer()
        await peer.send(GET % b"/" + GET % b"/")
        assert (await peer.head())[1]["transfer-encoding"] == "chunked"
        chunks = peer.chunks()
        assert await anext(chunks) == b"one"
        step.set()
        assert [chunk async for chunk in chunks] == [b"two"]
        assert (await peer.answer()).body == b"onetwo"
        old = await site.peer()
        await old.send(b"GET / HTTP/1.0\r\n\r\n")
        status, headers = await old.head()
        assert (status, "transfer-encoding" in headers) == (200, False)
        assert await old.closed() == b"onetwo"


async def test_a_stream_that_fails_has_no_end(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("no more")

    async def streaming(request: Request) -> Response:
        return Response(200, stream=pieces())

    async with serving(streaming) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        await peer.head()
        assert b"0\r\n\r\n" not in await peer.closed()
    assert "no more" in caplog.text


async def test_a_stream_ends_with_its_client() -> None:
    ended = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async def streaming(request: Request) -> Response:
        return Response(200, stream=pieces())

    async with serving(streaming) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        await peer.head()
        peer.writer.close()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


# Who goes away.


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_goes_away_cancels_its_request(how: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return Response(200)

    async with serving(slow) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        await began.wait()
        peer.writer.close() if how == "close" else peer.writer.transport.abort()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_a_door_that_fails_is_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(request: Request) -> Response:
        raise RuntimeError("secret")

    async with serving(failing) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        answer = await peer.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
    assert "secret" in caplog.text


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_split_an_answer_never_leaves(value: str, caplog: pytest.LogCaptureFixture) -> None:
    async def splitting(request: Request) -> Response:
        return Response(200, headers=(("X-User", value),))

    async with serving(splitting) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        answer = await peer.answer()
        assert answer.status == 500
        assert "x-user" not in answer.headers
        assert "set-cookie" not in answer.headers


# Limits in time.


async def test_a_slow_head_is_cut() -> None:
    async with serving(header_time_s=0.2) as site:
        silent, slow = await site.peer(), await site.peer()
        await slow.send(b"GET / HTTP/1.1\r\nHo")
        assert (await slow.answer()).status == 408
        assert await slow.closed() == b""
        assert (await silent.closed())[:12] in (b"", b"HTTP/1.1 408")


async def test_a_head_that_trickles_is_cut_all_the_same() -> None:
    async with serving(header_time_s=0.3) as site:
        peer = await site.peer()

        async def trickle() -> None:
            with_head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
            for n in range(10_000):
                await peer.send(with_head[n : n + 1] or b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await peer.answer()).status == 408
        trickling.cancel()


async def test_a_slow_body_is_cut() -> None:
    async with serving(body_time_s=0.2) as site:
        peer = await site.peer()
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        assert (await peer.answer()).status == 408
        assert await peer.closed() == b""


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with serving(keep_alive_s=0.2) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        await peer.answer()
        assert await peer.closed() == b""


async def test_a_handler_is_not_hurried_by_the_limits_for_clients() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(1.0)
        return await echo(request)

    async with serving(slow, header_time_s=0.1, body_time_s=0.1, keep_alive_s=0.1) as site:
        peer = await site.peer()
        await peer.send(GET % b"/a")
        assert (await peer.answer()).body == b"/a"


async def test_who_doesnt_read_is_cut_and_keeps_no_memory() -> None:
    handled = 0

    async def big(request: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(200, b"x" * BIG)

    async with serving(big, body_time_s=0.5) as site:
        peer = await site.peer()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(GET % b"/" * 10)
        await until(lambda: handled and not site.server.connections)
        assert handled == 1  # the next ones were never begun: nobody read the first


async def test_a_stream_waits_for_its_reader() -> None:
    made = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield b"x" * 65536

    async def streaming(request: Request) -> Response:
        return Response(200, stream=pieces())

    async with serving(streaming, body_time_s=0.5) as site:
        peer = await site.peer()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(GET % b"/")
        await until(lambda: made and not site.server.connections)
        assert made * 65536 < 64 * 1024 * 1024


async def test_when_all_places_are_taken_the_most_silent_goes() -> None:
    async with serving(connections_max=5) as site:
        silent = [await site.peer() for _ in range(5)]
        for peer in silent:
            await peer.send(b"GET /")
        await until(lambda: len(site.server.connections) == 5)
        good = await site.peer()
        await good.send(GET % b"/good")
        assert (await good.answer()).body == b"/good"
        assert len(site.server.connections) <= 5
        done, _ = await asyncio.wait(
            [asyncio.create_task(peer.closed()) for peer in silent], return_when=asyncio.FIRST_COMPLETED
        )
        assert done


async def test_slow_clients_in_hundreds_leave_room_for_a_good_one() -> None:
    async with serving(header_time_s=2.0) as site:
        slow = [await site.peer() for _ in range(300)]
        for n, peer in enumerate(slow):
            await peer.send(
                b"GET / HTTP/1.1\r\n" if n % 2 else b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
            )
        good = await site.peer()
        for n in range(50):
            await good.send(GET % b"/%d" % n)
            assert (await good.answer()).body == b"/%d" % n


# TLS.


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with serving(tls=contexts) as site:
        peer = await site.peer()
        await peer.send(GET % b"/a")
        assert (await peer.answer()).body == b"/a"
        await peer.send(b"BAD\r\n\r\n")
        assert (await peer.answer()).status == 400
        assert await peer.closed() == b""


async def test_plain_http_on_a_tls_port_is_closed(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with serving(tls=contexts) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        peer = Peer(reader, writer)
        await peer.send(GET % b"/a")
        assert b"200" not in await peer.closed()
        writer.close()


# The end.


async def test_at_the_end_what_runs_is_answered_and_what_is_idle_closed() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        if request.path == "/slow":
            began.set()
            await go_on.wait()
        return await echo(request)

    async with serving(slow) as site:
        idle, busy = await site.peer(), await site.peer()
        await idle.send(GET % b"/")
        await idle.answer()
        await busy.send(GET % b"/slow")
        await began.wait()
        closing = asyncio.create_task(site.server.close(PATIENCE_S))
        assert await idle.closed() == b""
        assert not closing.done()
        with pytest.raises(ConnectionError):
            await site.peer()
        go_on.set()
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"/slow", "close")
        await asyncio.wait_for(closing, PATIENCE_S)


async def test_beyond_the_grace_what_runs_is_cut() -> None:
    began = asyncio.Event()

    async def endless(request: Request) -> Response:
        began.set()
        await asyncio.sleep(60)
        return await echo(request)

    async with serving(endless) as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        await began.wait()
        await asyncio.wait_for(site.server.close(0.1), PATIENCE_S)
        assert await peer.closed() == b""


async def test_while_retiring_every_answer_closes() -> None:
    async with serving() as site:
        peer = await site.peer()
        await peer.send(GET % b"/")
        await peer.answer()
        site.server.retire()
        await peer.send(GET % b"/")
        assert (await peer.answer()).headers["connection"] == "close"
        assert await peer.closed() == b""


# All of it once more on uvloop, which `run` uses: its transports differ in what they tell and when.

ON_UVLOOP = [
    function
    for name, function in list(globals().items())
    if name.startswith("test_") and not inspect.signature(function).parameters
]


@pytest.mark.parametrize("test", ON_UVLOOP, ids=lambda test: test.__name__.removeprefix("test_"))
def test_on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_tls_on_uvloop(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_tls(contexts))
