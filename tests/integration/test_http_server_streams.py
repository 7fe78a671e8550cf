"""Answers that come in pieces, and clients that go away or don't read."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from http_peer import BIG, GET, PATIENCE_S, once_more_on_uvloop, serving, until

from ringpost.wire.http import Request, Response


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


test_on_uvloop = once_more_on_uvloop(globals())
