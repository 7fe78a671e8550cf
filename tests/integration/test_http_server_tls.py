"""The server behind TLS."""

import asyncio
import ssl

import pytest
import trustme
from http_peer import GET, Peer, run_on_uvloop, serving


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


def test_tls_on_uvloop(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    run_on_uvloop(test_tls(contexts))
