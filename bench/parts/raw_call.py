"""The limit of the transport, the calling side: kept-alive connections, httptools, and no more than that."""

import asyncio

import httptools
import msgspec
import uvloop

from bench.answers import REFUSALS
from bench.parts.contract import Job, job
from bench.parts.load import Options, closed_loop
from bench.parts.saying import options, say

_DECODER, _ENCODER = msgspec.json.Decoder(Job), msgspec.json.Encoder()


class Connection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._answer.set_result(None if self._parser.get_status_code() in REFUSALS else body)

    def request(self, head: bytes, body: bytes) -> "asyncio.Future[bytes | None]":
        """Ask; None: it was refused."""
        self._answer: asyncio.Future[bytes | None] = self._loop.create_future()
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        return self._answer


async def main(asked: Options) -> None:
    host, _, port = asked.url.removeprefix("http://").rpartition(":")
    head = f"POST {asked.path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\ncontent-length: "
    begin, loop, request = head.encode(), asyncio.get_running_loop(), job(23_456)
    idle = [(await loop.create_connection(lambda: Connection(loop), host, int(port)))[1] for _ in range(asked.at_once)]

    async def call() -> None:
        connection = idle.pop()
        body = _ENCODER.encode(request)
        while (answer := await connection.request(begin, body)) is None:
            pass  # what can be carried is asked for, so who is turned away comes again
        reply = _DECODER.decode(answer)
        idle.append(connection)
        assert reply.user_id == 123_456

    say(measured=await closed_loop(call, asked))


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
