"""The limit of the transport: a task per request on httptools and uvloop, without routes, limits, deadlines."""

import asyncio

import httptools
import msgspec
import uvloop

from bench.parts.contract import Job
from bench.parts.saying import say

_DECODER, _ENCODER = msgspec.json.Decoder(Job), msgspec.json.Encoder()


class Connection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._task = self._loop.create_task(self._answer(body))

    async def _answer(self, body: bytes) -> None:
        reply = _ENCODER.encode(await echo(_DECODER.decode(body)))
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(reply), reply)
        )


async def echo(job: Job) -> Job:
    return job


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0)
    say(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
