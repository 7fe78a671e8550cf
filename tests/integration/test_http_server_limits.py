"""What slow and silent clients are given of the server's time and places."""

import asyncio

from http_peer import GET, echo, once_more_on_uvloop, serving, until

from ringpost.wire.http import Request, Response


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


test_on_uvloop = once_more_on_uvloop(globals())
