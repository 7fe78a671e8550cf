"""How the server ends: what runs is answered within the grace, and what is idle is closed."""

import asyncio

import pytest
from http_peer import GET, PATIENCE_S, echo, once_more_on_uvloop, serving

from ringpost.wire.http import Request, Response


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


test_on_uvloop = once_more_on_uvloop(globals())
