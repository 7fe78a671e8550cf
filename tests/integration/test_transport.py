"""The transport against servers that misbehave: it says what happened, whether it may have happened, and pools nothing
of unknown state."""

import asyncio
import functools
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest
import trustme
import uvloop
from servers.programs import free_port

from ringpost.client import connection as connections
from ringpost.client.target import Origin, origin_of
from ringpost.client.transport import Transport
from ringpost.contract.errors import DeadlineExceeded, TransportError, Unavailable, UsageError
from ringpost.settings import Settings
from ringpost.wire.http import Response

Behaviour = Callable[["Peer"], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Peer:
    """The other side of one connection, in a test's hands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Read a whole request; give its body. Raises IncompleteReadError where the connection ended."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return await self.reader.readexactly(length)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ended(self) -> None:
        """Wait until the other side closes."""
        with suppress(ConnectionError):
            await self.reader.read()


class Server:
    """Counts connections and does to each what it was told."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.connections = 0
        self.met = asyncio.Event()
        self.origin = Origin("127.0.0.1", 0, False)
        self._tasks: set[asyncio.Task[None]] = set()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.met.set()
        try:
            await self.behaviour(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def serving(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(behaviour)
    listener = await asyncio.start_server(server.meet, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.origin = Origin("localhost" if tls else "127.0.0.1", port, tls is not None)
    try:
        yield server
    finally:
        listener.close()
        await server.stop()


@asynccontextmanager
async def transporting(
    settings: Settings | None = None, tls: ssl.SSLContext | None = None, connections_per_origin: int = 8
) -> AsyncIterator[Transport]:
    transport = Transport(settings or Settings(), tls=tls, connections_per_origin=connections_per_origin)
    try:
        yield transport
    finally:
        await transport.close()


async def post(transport: Transport, server: Server, body: bytes = b"{}", timeout_s: float = 5.0) -> Response:
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    return await transport.request(server.origin, "POST", "/a/b", [("x", "y")], body, deadline_s=deadline_s)


async def polite(peer: Peer) -> None:
    """Answer every request with its own body."""
    while True:
        body = await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def only_after(peer: Peer, data: bytes) -> None:
    await peer.request()
    await peer.say(data)


def saying(data: bytes) -> Behaviour:
    """Say this to the first request, then leave."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)

    return behave


async def test_one_connection_carries_one_request_after_the_other() -> None:
    async with serving(polite) as server, transporting() as transport:
        for n in range(5):
            answer = await post(transport, server, b'{"n":%d}' % n)
            assert (answer.status, answer.body) == (200, b'{"n":%d}' % n)
        assert server.connections == 1


async def test_requests_at_once_share_a_bounded_number_of_connections() -> None:
    async with serving(polite) as server, transporting(connections_per_origin=3) as transport:
        bodies = [b"[%d]" % n for n in range(50)]
        answers = await asyncio.gather(*(post(transport, server, body) for body in bodies))
        assert [answer.body for answer in answers] == bodies
        assert server.connections == 3


async def test_an_answer_in_chunks_with_trailers_is_read_whole() -> None:
    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nA: b\r\n\r\n3\r\nabc\r\n")
            await asyncio.sleep(0)
            await peer.say(b"2;x=y\r\nde\r\n0\r\nlate: 1\r\n\r\n")

    async with serving(behave) as server, transporting() as transport:
        for _ in range(3):
            answer = await post(transport, server)
            assert answer.body == b"abcde"
            assert ("a", "b") in answer.headers
            assert "late" not in dict(answer.headers)
        assert server.connections == 1


async def test_an_interim_answer_is_read_over() -> None:
    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)

    async with serving(behave) as server, transporting() as transport:
        for _ in range(2):
            answer = await post(transport, server)
            assert (answer.status, answer.body, answer.content_type) == (200, b"{}", "application/json")
            assert "link" not in dict(answer.headers)
        assert server.connections == 1


async def test_an_answer_without_body_ends_with_its_headers() -> None:
    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with serving(behave) as server, transporting() as transport:
        assert [(await post(transport, server)).status for _ in range(2)] == [204, 204]
        assert server.connections == 1


async def test_a_redirect_is_given_not_followed() -> None:
    async with (
        serving(saying(b"HTTP/1.1 307 T\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")) as server,
        transporting() as transport,
    ):
        answer = await post(transport, server)
        assert answer.status == 307
        assert dict(answer.headers)["location"] == "http://127.0.0.1:1/"


async def test_where_nobody_listens_nothing_was_processed() -> None:
    async with transporting() as transport:
        server = Server(polite)
        server.origin = Origin("127.0.0.1", free_port(), False)
        with pytest.raises(Unavailable, match=f"Can't reach {server.origin.url}: nobody") as caught:
            await post(transport, server)
        assert caught.value.processed == "no"


async def test_a_connection_with_itself_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may choose the port that it is to connect to as our own end; here it is told to."""
    with socket.socket() as probe:  # our own end must be free to take, so this is no free_port()
        probe.bind(("127.0.0.1", 0))
        here = probe.getsockname()
    loop = asyncio.get_running_loop()
    connect = functools.partial(loop.create_connection, local_addr=here)
    monkeypatch.setattr(loop, "create_connection", connect)
    async with transporting() as transport:
        server = Server(polite)
        server.origin = Origin(*here, False)
        with pytest.raises(Unavailable, match="nobody listens there") as caught:
            await post(transport, server)
        assert caught.value.processed == "no"
        await asyncio.sleep(0)  # what is aborted is closed by the loop's next turn
        socket.create_server(here).close()  # the port is the server's again


async def test_a_deadline_with_the_answer_outstanding_says_maybe() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.ended()

    async with serving(behave) as server, transporting() as transport:
        with pytest.raises(DeadlineExceeded) as caught:
            await post(transport, server, timeout_s=0.03)
        assert caught.value.processed == "maybe"
        assert isinstance(caught.value, TimeoutError)


async def test_a_deadline_in_line_for_a_connection_says_no() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.ended()

    async with serving(behave) as server, transporting(connections_per_origin=1) as transport:
        first = asyncio.ensure_future(post(transport, server))
        await server.met.wait()
        with pytest.raises(DeadlineExceeded) as caught:
            await post(transport, server, timeout_s=0.03)
        assert caught.value.processed == "no"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncont",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n\r\n{}",  # no length: who can say whether this is all
        b"HTTP/1.0 200 OK\r\n\r\n{}",
    ],
)
async def test_an_answer_that_breaks_off_may_have_been_processed(begun: bytes) -> None:
    async with serving(saying(begun)) as server, transporting() as transport:
        with pytest.raises(Unavailable) as caught:
            await post(transport, server)
        assert caught.value.processed == "maybe"


@pytest.mark.parametrize(
    "answer",
    [
        b"SMTP ready\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 20_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 20,
    ],
)
async def test_an_answer_that_breaks_a_rule_is_given_up(answer: bytes) -> None:
    async with serving(saying(answer)) as server, transporting() as transport:
        with pytest.raises(TransportError, match="was given up") as caught:
            await post(transport, server)
        assert caught.value.processed == "maybe"


async def test_headers_that_never_end_are_cut_off() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\na: ")
        while True:
            await peer.say(b"b" * 1024)

    async with serving(behave) as server, transporting() as transport:
        with pytest.raises(TransportError, match="headers are too many or too long"):
            await post(transport, server)


@pytest.mark.parametrize("late", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong", b"x"])
async def test_what_nobody_asked_for_ends_the_connection(late: bytes) -> None:
    async def behave(peer: Peer) -> None:
        body = await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body) + late)
        await polite(peer)

    async with serving(behave) as server, transporting() as transport:
        assert (await post(transport, server, b"1")).body == b"1"
        assert (await post(transport, server, b"2")).body == b"2"
        assert server.connections == 2


async def test_a_connection_closed_while_idle_is_not_used_again() -> None:
    async with serving(saying(OK)) as server, transporting() as transport:
        for _ in range(3):
            assert (await post(transport, server)).status == 200
            await asyncio.sleep(0.01)
        assert server.connections == 3


async def test_a_connection_closed_behind_a_blocked_loop_is_seen_before_writing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "CHECK_IDLE_S", 0.0)
    async with serving(saying(OK)) as server, transporting() as transport:
        assert (await post(transport, server)).status == 200
        # The peer closes in the same turn in which the next request begins: the loop hasn't told us yet.
        for _ in range(20):
            await asyncio.sleep(0)
            answer = await post(transport, server)
            assert answer.status == 200


async def test_a_server_that_says_close_is_taken_at_its_word() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        await polite(peer)

    async with serving(behave) as server, transporting() as transport:
        await post(transport, server)
        await post(transport, server)
        assert server.connections == 2


async def test_idle_connections_are_closed_before_the_server_would() -> None:
    async with serving(polite) as server, transporting(Settings(pool_idle_s=0.02)) as transport:
        await post(transport, server)
        await asyncio.sleep(0.03)
        await post(transport, server)
        assert server.connections == 2


async def test_a_call_given_up_is_drained_aside_and_its_connection_used_again() -> None:
    answering = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        await answering.wait()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold")
        await polite(peer)

    async with serving(behave) as server, transporting(connections_per_origin=1) as transport:
        with pytest.raises(DeadlineExceeded):
            await post(transport, server, timeout_s=0.03)
        second = asyncio.ensure_future(post(transport, server, b"new"))
        await asyncio.sleep(0)
        answering.set()
        assert (await second).body == b"new"
        assert server.connections == 1


async def test_a_call_given_up_that_is_never_answered_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "DRAIN_S", 0.02)
    gone = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.ended()
        gone.set()

    async with serving(behave) as server, transporting() as transport:
        with pytest.raises(DeadlineExceeded):
            await post(transport, server, timeout_s=0.01)
        await asyncio.wait_for(gone.wait(), 5)


async def test_cancelled_at_any_step_no_caller_ever_reads_anothers_answer() -> None:
    """Cancel after 0, 1, 2 … turns of the loop, beside calls that go on, on two connections."""
    async with serving(polite) as server, transporting(connections_per_origin=2) as transport:
        for turns in range(40):
            doomed = [asyncio.ensure_future(post(transport, server, b'"d%d"' % n)) for n in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in doomed:
                task.cancel()
            bodies = [b'"%d-%d"' % (turns, n) for n in range(4)]
            answers = await asyncio.gather(*(post(transport, server, body) for body in bodies))
            assert [answer.body for answer in answers] == bodies
            await asyncio.gather(*doomed, return_exceptions=True)
        assert (await post(transport, server, b"end")).body == b"end"


async def test_cancelled_while_it_connects_its_place_is_free_again() -> None:
    async with serving(polite) as server, transporting(connections_per_origin=1) as transport:
        for turns in range(12):
            task = asyncio.ensure_future(post(transport, server))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await post(transport, server, b"1")).body == b"1"


async def test_closing_ends_what_is_outstanding() -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.ended()

    async with serving(behave) as server, transporting(connections_per_origin=1) as transport:
        calls = [asyncio.ensure_future(post(transport, server)) for _ in range(2)]
        await server.met.wait()
        await asyncio.sleep(0.01)
        await transport.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        with pytest.raises(Unavailable, match="closed"):
            await post(transport, server)


async def test_events_come_as_they_are_said_and_closing_stops_them() -> None:
    gone = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for n in range(3):
            await peer.say(b"8\r\ndata: %d\n\r\n" % n)
        await peer.ended()
        gone.set()

    async with serving(behave) as server, transporting() as transport:
        deadline_s = asyncio.get_running_loop().time() + 5
        answer = await transport.request(server.origin, "GET", "/t", deadline_s=deadline_s, streams=True)
        assert answer.stream is not None
        text = b""
        async for chunk in answer.stream:
            text += chunk
            if text.count(b"\n") == 3:
                break
        assert text == b"data: 0\ndata: 1\ndata: 2\n"
        await answer.stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_stream_that_breaks_off_says_so_and_one_that_ends_ends() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def read(server: Server, transport: Transport) -> bytes:
        deadline_s = asyncio.get_running_loop().time() + 5
        answer = await transport.request(server.origin, "GET", "/t", deadline_s=deadline_s, streams=True)
        assert answer.stream is not None
        return b"".join([chunk async for chunk in answer.stream])

    async with serving(saying(head + b"1\r\na\r\n")) as server, transporting() as transport:
        with pytest.raises(Unavailable):
            await read(server, transport)
    async with serving(saying(head + b"1\r\na\r\n0\r\n\r\n")) as server, transporting() as transport:
        assert await read(server, transport) == b"a"


async def test_a_stream_that_isnt_read_stops_being_sent() -> None:
    sent = 0

    async def behave(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while sent < 64 * 1024 * 1024:
            await peer.say(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536

    async with serving(behave) as server, transporting() as transport:
        deadline_s = asyncio.get_running_loop().time() + 5
        answer = await transport.request(server.origin, "GET", "/t", deadline_s=deadline_s, streams=True)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 32 * 1024 * 1024
        assert answer.stream is not None
        await answer.stream.aclose()  # type: ignore[attr-defined]


async def test_tls_is_checked_against_whom_we_trust() -> None:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with serving(polite, theirs) as server:
        async with transporting(tls=ours) as transport:
            assert (await post(transport, server, b"1")).body == b"1"
            assert (await post(transport, server, b"2")).body == b"2"
            assert server.connections == 1
        async with transporting() as transport:
            with pytest.raises(Unavailable, match="TLS: ") as caught:
                await post(transport, server)
            assert caught.value.processed == "no"


@pytest.mark.parametrize("path", ["/a b", "a", "/a\r\nx: y", "/a\nb", "/\u2028"])
async def test_a_path_or_header_that_would_break_the_request_is_refused(path: str) -> None:
    async with serving(polite) as server, transporting() as transport:
        with pytest.raises(UsageError):
            await transport.request(server.origin, "POST", path, deadline_s=1e9)
        with pytest.raises(UsageError):
            await transport.request(server.origin, "POST", "/a", [("x", "1\r\nhost: evil")], deadline_s=1e9)
        assert server.connections == 0


@pytest.mark.parametrize(
    ("url", "authority", "prefix"),
    [
        ("http://a", "a", ""),
        ("https://a:443/", "a", ""),
        ("https://a:80/x/", "a:80", "/x"),
        ("http://[::1]:8000", "[::1]:8000", ""),
    ],
)
def test_an_address_is_taken_apart(url: str, authority: str, prefix: str) -> None:
    origin, found = origin_of(url)
    assert (origin.authority, found) == (authority, prefix)


@pytest.mark.parametrize(
    "url", ["ftp://a", "a:80", "http://", "http://u:p@a", "http://a/?q", "http://a:99999", "http://a/ b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        origin_of(url)


def _plain_tests() -> list[Callable[[], Awaitable[None]]]:
    """Give every test of this file that needs nothing from pytest."""
    here = dict(globals())
    tests = [one for name, one in here.items() if name.startswith("test_") and inspect.iscoroutinefunction(one)]
    return [one for one in tests if not inspect.signature(one).parameters]


@pytest.mark.parametrize("test", _plain_tests(), ids=lambda test: test.__name__.removeprefix("test_"))
def test_the_same_on_uvloop(test: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
