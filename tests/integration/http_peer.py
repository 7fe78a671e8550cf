"""A server on a real socket, and clients that say to it exactly what they are told to."""

import asyncio
import inspect
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
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


def once_more_on_uvloop(names: Mapping[str, Any]) -> Callable[..., None]:
    """Make a test that runs a file's tests so far on uvloop, which `run` uses: its transports differ in what they tell
    and when. Those that take parameters are left out.
    """
    found = [names[name] for name in names if name.startswith("test_")]
    simple = [test for test in found if not inspect.signature(test).parameters]

    @pytest.mark.parametrize("test", simple, ids=lambda test: test.__name__.removeprefix("test_"))
    def test_on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        run_on_uvloop(test())

    return test_on_uvloop


def run_on_uvloop(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)
