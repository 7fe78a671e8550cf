"""A TCP proxy on loopback that breaks connections in the ways in which networks do.

It stands between any two that speak over TCP: a client and a service, a service and a server. `requests` is the way
from who connects to who listens, `answers` the way back. Nothing is random: a test says what happens and waits for it.

    async with TcpProxy("127.0.0.1", port) as proxy:
        lost = proxy.lose_answer(b"COMMIT")     # the request arrives, its answer never does
        ...                                     # connect to proxy.port
        await lost.wait()

Not modelled: a connect that times out (the kernel always accepts on loopback; `refuse` is a connect that fails), and a
kernel that gives up after minutes of retransmission.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Literal, Self

from servers.programs import free_port

CHUNK_BYTES = 1 << 16
LINKS_MAX = 1024
MARK_BYTES_MAX = 256
_NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends RST

Side = Literal["client", "server"]
Asked = Callable[["Link", bytes], bool]  # says whether a piece of a connection's requests is the one
End = Literal["reset", "close", "silence", "half open"]  # half open: the client is told, the server isn't


class Cut:
    """A cut that is to come, once. `await wait()` until it has."""

    def __init__(self, how: End, after_bytes: int | None = None, at: bytes | None = None) -> None:
        self.how: End = how
        self.after_bytes = after_bytes
        self.at = at
        self.due: Asked = lambda _link, request: at is not None and at in request
        self._happened = asyncio.Event()

    @property
    def happened(self) -> bool:
        return self._happened.is_set()

    def note(self) -> None:
        self._happened.set()

    async def wait(self, timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            await self._happened.wait()

    def place(self, passed: int, tail: bytes, data: bytes) -> int | None:
        """Say how many bytes of `data` still pass before the cut; None if all do."""
        if self.after_bytes is not None:
            left = max(0, self.after_bytes - passed)
            return left if left < len(data) else None
        assert self.at is not None
        found = (tail + data).find(self.at, max(0, len(tail) - len(self.at) + 1))
        return max(0, found - len(tail)) if found >= 0 else None


class Direction:
    """One way through the proxy, of all connections. What is set holds from the next bytes on."""

    def __init__(self) -> None:
        self.delay_s = 0.0  # each piece arrives so much later
        self.bytes_per_s: float | None = None  # one byte at a time, so many a second
        self.bytes_passed = 0
        self.cuts: list[Cut] = []
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let nothing pass, neither bytes nor an end. What comes meanwhile waits, as a kernel would send it again."""
        self._open.clear()

    def flow(self) -> None:
        """Let everything pass again, also what has waited."""
        self.delay_s, self.bytes_per_s = 0.0, None
        self._open.set()

    def cut(self, *, after_bytes: int | None = None, at: bytes | None = None, how: End = "reset") -> Cut:
        """Cut the first connection that gets so far: after so many of its bytes, or before the bytes `at`."""
        if (after_bytes is None) == (at is None):
            raise ValueError("name either `after_bytes` or the bytes `at`")
        cut = Cut(how, after_bytes, at)
        self.cuts.append(cut)
        return cut

    async def opened(self) -> None:
        await self._open.wait()


class _Stream:
    """One way of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, way: Direction) -> None:
        self.source = source
        self.sink = sink
        self.way = way
        self.passed = 0
        self.tail = b""

    async def receive(self) -> bytes:
        await self.way.opened()
        data = await asyncio.get_running_loop().sock_recv(self.source, CHUNK_BYTES)
        if self.way.delay_s:
            await asyncio.sleep(self.way.delay_s)
        await self.way.opened()
        return data

    async def send(self, data: bytes) -> None:
        loop, way = asyncio.get_running_loop(), self.way
        if way.bytes_per_s is None:
            await loop.sock_sendall(self.sink, data)
        else:
            for at in range(len(data)):
                if way.bytes_per_s is None:
                    await loop.sock_sendall(self.sink, data[at:])
                    break
                await way.opened()
                await loop.sock_sendall(self.sink, data[at : at + 1])
                await asyncio.sleep(1 / way.bytes_per_s)
        self.passed += len(data)
        way.bytes_passed += len(data)

    def due_cut(self, data: bytes) -> tuple[Cut, int] | None:
        for cut in self.way.cuts:
            place = cut.place(self.passed, self.tail, data)
            if place is not None:
                return cut, place
        self.tail = (self.tail + data)[-MARK_BYTES_MAX:]
        return None


class Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, proxy: "TcpProxy") -> None:
        self._client = client
        self._server = server
        self._proxy = proxy
        self._dead = False  # bytes that come are swallowed
        self._forgotten = False  # one side has been told that it is over
        self._closed = False
        self._losing: Cut | None = None  # the next answer is lost
        self._open_ways = 2
        requests = _Stream(client, server, proxy.requests)
        answers = _Stream(server, client, proxy.answers)
        self._tasks = [asyncio.ensure_future(self._pump(requests)), asyncio.ensure_future(self._pump(answers))]

    async def _pump(self, stream: _Stream) -> None:
        try:
            while not (self._closed or self._forgotten) and (data := await stream.receive()):
                if not self._dead:
                    await self._pass_on(stream, data)
            if not self._dead:
                stream.sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side has gone without a good-bye: so does the other
            if not self._dead:
                self.abort()
            return
        self._open_ways -= 1
        if not self._open_ways:
            self.close()

    async def _pass_on(self, stream: _Stream, data: bytes) -> None:
        if stream.way is self._proxy.requests:
            self._proxy.overhear(self, data)
            self._losing = self._losing or self._proxy.take_losing(self, data)
        elif self._losing is not None:
            self._end(self._losing)
            return
        due = stream.due_cut(data)
        if due is None:
            await stream.send(data)
            return
        cut, passing = due
        stream.way.cuts.remove(cut)
        if passing:
            await stream.send(data[:passing])
        self._end(cut)

    def _end(self, cut: Cut) -> None:
        match cut.how:
            case "reset":
                self.abort()
            case "close":
                self.close()
            case "silence":
                self.fall_silent()
            case "half open":
                self.forget("client")
        cut.note()

    def fall_silent(self) -> None:
        """Swallow what comes from now on, and say nothing: neither side is told."""
        self._dead = True

    def forget(self, gone: Side) -> None:
        """Reset the connection to one side; the other isn't told and talks into nothing."""
        if self._dead:
            return
        self._dead = self._forgotten = True
        going, staying = (self._client, self._server) if gone == "client" else (self._server, self._client)
        _abort_at_close(going)
        pumps, self._tasks = self._tasks, [asyncio.ensure_future(_swallow(staying))]
        self._proxy.bury(pumps, going)

    def abort(self) -> None:
        """Reset the connection to both sides."""
        _abort_at_close(self._client)
        _abort_at_close(self._server)
        self.close()

    def close(self) -> None:
        """End the connection to both sides."""
        if not self._closed:
            self._closed = self._dead = True
            self._proxy.links.remove(self)
            self._proxy.bury(self._tasks, self._client, self._server)


class TcpProxy:
    """Listen on a free port of loopback and pass on to `host`:`port`, until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.requests = Direction()
        self.answers = Direction()
        self.losing: list[Cut] = []
        self.overhear: Callable[[Link, bytes], object] = lambda _link, _request: None  # is told all that is asked
        self.links: list[Link] = []
        self.connects = 0  # how many connections there ever were
        self._listening: socket.socket | None = None
        self._joining: set[asyncio.Task[None]] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self.host = "127.0.0.1"
        self.port = free_port()

    async def __aenter__(self) -> Self:
        self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The address for HTTP."""
        return f"http://{self.host}:{self.port}"

    # --- faults

    def partition(self) -> None:
        """Cut the cable: nothing passes either way, and nobody is told. `heal` delivers what has waited."""
        self.requests.hold()
        self.answers.hold()

    def heal(self) -> None:
        """Let everything pass, at full speed, and accept connections."""
        self.requests.flow()
        self.answers.flow()
        if self._listening is None:
            self.listen()

    def black_hole(self) -> None:
        """Let the connections that are open now be dead for good, without telling anybody; new ones are well."""
        for link in list(self.links):
            link.fall_silent()

    def reset(self) -> None:
        """Reset all connections that are open now."""
        for link in list(self.links):
            link.abort()

    def half_open(self, gone: Side) -> None:
        """Let one side of all connections that are open now be gone, without telling the other."""
        for link in list(self.links):
            link.forget(gone)

    def lose_answer(self, to: bytes | Asked, how: End = "reset") -> Cut:
        """Cut between a request and its answer: the first request with these bytes in one piece passes; when the server
        has answered, the connection ends so, and not a byte of the answer arrives. `to` may say itself which it is."""
        cut = Cut(how, at=to) if isinstance(to, bytes) else Cut(how)
        if not isinstance(to, bytes):
            cut.due = to
        self.losing.append(cut)
        return cut

    def refuse(self) -> None:
        """Refuse new connections, until `heal`. Those that are open go on."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
            for joining in self._joining:
                joining.cancel()

    # --- running

    def listen(self) -> None:
        """Listen, always on the same port."""
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind((self.host, self.port))
        listening.listen(128)
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    async def until(self, so: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until something is so; looks when a connection comes or goes."""
        async with asyncio.timeout(timeout_s):
            while not so():
                await self._news.wait()

    async def close(self) -> None:
        self.refuse()
        while self._joining:
            await asyncio.wait(self._joining)
        self.reset()
        while self._burials:
            await asyncio.gather(*self._burials)

    def _accept(self, listening: socket.socket) -> None:
        try:
            client, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        client.setblocking(False)
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setblocking(False)
        joining = asyncio.ensure_future(self._join(server))
        self._joining.add(joining)
        joining.add_done_callback(lambda done: self._joined(done, client, server))

    async def _join(self, server: socket.socket) -> None:
        if len(self.links) >= LINKS_MAX:
            raise OSError("too many connections through the proxy")
        await asyncio.get_running_loop().sock_connect(server, self._target)

    def _joined(self, joining: asyncio.Task[None], client: socket.socket, server: socket.socket) -> None:
        self._joining.discard(joining)
        if joining.cancelled() or joining.exception() is not None:  # nobody is there: who connects learns it as a reset
            _abort_at_close(client)
            client.close()
            server.close()
            return
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connects += 1
        self.links.append(Link(client, server, self))
        self._tell()

    def take_losing(self, link: "Link", request: bytes) -> Cut | None:
        """Give the cut whose request this is, once."""
        for cut in self.losing:
            if cut.due(link, request):
                self.losing.remove(cut)
                return cut
        return None

    def bury(self, pumps: list[asyncio.Task[None]], *sockets: socket.socket) -> None:
        """End pumps, and close sockets once nothing waits for them any more: their numbers may be given out again."""
        current = asyncio.current_task()
        others = [pump for pump in pumps if pump is not current]
        for pump in others:
            pump.cancel()
        burial = asyncio.ensure_future(_close_after(others, sockets))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


async def _close_after(pumps: list[asyncio.Task[None]], sockets: tuple[socket.socket, ...]) -> None:
    await asyncio.gather(*pumps, return_exceptions=True)
    for one in sockets:
        one.close()


async def _swallow(source: socket.socket) -> None:
    try:
        while await asyncio.get_running_loop().sock_recv(source, CHUNK_BYTES):
            pass
    except OSError:
        pass


def _abort_at_close(side: socket.socket) -> None:
    """Let closing be a reset."""
    try:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:  # it is closed already
        pass
