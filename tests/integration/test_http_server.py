"""The server on real sockets: what each request is answered, and in which order."""

import asyncio

import pytest
from http_peer import BIG, GET, echo, once_more_on_uvloop, serving

from ringpost.wire.http import Request, Response


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


test_on_uvloop = once_more_on_uvloop(globals())
