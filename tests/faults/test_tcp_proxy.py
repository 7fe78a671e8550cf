"""The fault proxy does to connections what it says, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from servers.programs import free_port
from tcp_proxy import End, TcpProxy

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that answers each line with the same line in capitals, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.errors: list[BaseException] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.gone = asyncio.Event()  # a connection has ended

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                self.seen.append(line)
                writer.write(line.upper())
                await writer.drain()
        except ConnectionError as error:
            self.errors.append(error)
        finally:
            writer.close()
            self.gone.set()


@asynccontextmanager
async def an_echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    try:
        yield echo
    finally:
        server.close()
        for writer in echo.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with an_echo() as echo:
        yield echo


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@asynccontextmanager
async def connected(proxy: TcpProxy) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def said(pair: Pair, line: bytes) -> bytes:
    reader, writer = pair
    writer.write(line)
    return await heard(reader.readline())


async def heard(reading: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return await reading


async def nothing_comes(pair: Pair) -> bool:
    """Say whether neither a byte nor an end comes. The only way to see that nothing comes is to wait a little."""
    waiting = asyncio.ensure_future(pair[0].read(1))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    waiting.cancel()
    await asyncio.wait([waiting])
    return not done


async def test_everything_passes_whole_and_ends_are_told(proxy: TcpProxy, echo: Echo) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
    async with connected(proxy) as (reader, writer):
        writer.write(b"\n".join([b"y" * 50_000] * 20) + b"\n")
        writer.write_eof()
        assert len(await heard(reader.read(-1))) == 20 * 50_001
    assert proxy.connects == 2
    assert proxy.requests.bytes_passed == proxy.answers.bytes_passed == 2 + 20 * 50_001
    await proxy.until(lambda: not proxy.links)


async def test_a_partition_holds_everything_back_and_healing_delivers_it(proxy: TcpProxy, echo: Echo) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
        proxy.partition()
        pair[1].write(b"b\n")
        assert await nothing_comes(pair)
        assert echo.seen == [b"a\n"]
        proxy.heal()
        assert await heard(pair[0].readline()) == b"B\n"


@pytest.mark.parametrize("way", ["requests", "answers"])
async def test_one_way_can_be_held_alone(proxy: TcpProxy, echo: Echo, way: str) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
        held = proxy.requests if way == "requests" else proxy.answers
        held.hold()
        pair[1].write(b"b\n")
        assert await nothing_comes(pair)
        assert (b"b\n" in echo.seen) == (way == "answers")
        held.flow()
        assert await heard(pair[0].readline()) == b"B\n"


async def test_a_black_hole_swallows_for_good_and_new_connections_are_well(proxy: TcpProxy, echo: Echo) -> None:
    async with connected(proxy) as old:
        assert await said(old, b"a\n") == b"A\n"
        proxy.black_hole()
        old[1].write(b"b\n")
        assert await nothing_comes(old)
        proxy.heal()
        assert await nothing_comes(old)
        async with connected(proxy) as new:
            assert await said(new, b"c\n") == b"C\n"
    assert b"b\n" not in echo.seen


async def test_a_reset_is_one_to_both_sides(proxy: TcpProxy, echo: Echo) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read(1))
        await asyncio.wait_for(echo.gone.wait(), 10)
        assert isinstance(echo.errors[0], ConnectionResetError)


async def test_half_open_the_server_is_gone_and_the_client_is_not_told(proxy: TcpProxy, echo: Echo) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
        proxy.half_open(gone="server")
        await asyncio.wait_for(echo.gone.wait(), 10)
        pair[1].write(b"b\n")
        assert await nothing_comes(pair)
        assert echo.seen == [b"a\n"]


async def test_half_open_the_client_is_gone_and_the_server_is_not_told(proxy: TcpProxy, echo: Echo) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
        proxy.half_open(gone="client")
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read(1))
        echo.writers[0].write(b"unasked\n")
        await echo.writers[0].drain()
        assert not echo.gone.is_set()


@pytest.mark.parametrize("how", ["reset", "close", "silence"])
async def test_a_cut_comes_after_so_many_bytes_and_once(proxy: TcpProxy, how: End) -> None:
    cut = proxy.answers.cut(after_bytes=3, how=how)
    async with connected(proxy) as pair:
        pair[1].write(b"abcdef\n")
        assert await heard(pair[0].readexactly(3)) == b"ABC"
        await cut.wait()
        if how == "silence":
            assert await nothing_comes(pair)
        elif how == "close":
            assert await heard(pair[0].read()) == b""
        else:
            with pytest.raises(ConnectionResetError):
                await heard(pair[0].read())
    async with connected(proxy) as pair:
        assert await said(pair, b"abcdef\n") == b"ABCDEF\n"


async def test_a_cut_finds_its_bytes_across_pieces(proxy: TcpProxy, echo: Echo) -> None:
    cut = proxy.requests.cut(at=b"MARK")
    async with connected(proxy) as pair:
        assert await said(pair, b"aMA\n") == b"AMA\n"
        pair[1].write(b"one\nxMA")
        assert await heard(pair[0].readline()) == b"ONE\n"
        assert not cut.happened
        pair[1].write(b"RK more\n")
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read())
    assert cut.happened
    assert echo.seen[:2] == [b"aMA\n", b"one\n"]
    assert not any(b"MARK" in line for line in echo.seen)


async def test_a_cut_looks_only_at_what_comes_after_it_was_asked_for(proxy: TcpProxy) -> None:
    async with connected(proxy) as pair:
        assert await said(pair, b"MARK\n") == b"MARK\n"
        cut = proxy.requests.cut(at=b"MARK")
        assert await said(pair, b"other\n") == b"OTHER\n"
        assert not cut.happened
        pair[1].write(b"MARK\n")
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read())


async def test_between_request_and_answer_the_request_arrives_and_the_answer_is_lost(
    proxy: TcpProxy, echo: Echo
) -> None:
    lost = proxy.lose_answer(b"COMMIT")
    async with connected(proxy) as pair:
        assert await said(pair, b"begin\n") == b"BEGIN\n"
        pair[1].write(b"COMMIT\n")
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read())
    await lost.wait()
    assert echo.seen == [b"begin\n", b"COMMIT\n"]


async def test_a_test_may_say_itself_which_answer_is_lost(proxy: TcpProxy, echo: Echo) -> None:
    heard_of: list[bytes] = []
    proxy.overhear = lambda _link, request: heard_of.append(request)
    lost = proxy.lose_answer(lambda _link, request: request.startswith(b"b") and len(heard_of) > 1)
    async with connected(proxy) as pair:
        assert await said(pair, b"ab\n") == b"AB\n"
        pair[1].write(b"b\n")
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read())
    await lost.wait()
    assert echo.seen == heard_of == [b"ab\n", b"b\n"]


async def test_a_cut_may_leave_the_server_waiting(proxy: TcpProxy, echo: Echo) -> None:
    cut = proxy.requests.cut(at=b"COMMIT", how="half open")
    async with connected(proxy) as pair:
        assert await said(pair, b"begin\n") == b"BEGIN\n"
        pair[1].write(b"COMMIT\n")
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read())
    await cut.wait()
    assert echo.seen == [b"begin\n"]
    assert not echo.gone.is_set()


async def test_a_delay_makes_late_and_a_drip_makes_slow_but_nothing_is_lost(proxy: TcpProxy) -> None:
    loop = asyncio.get_running_loop()
    async with connected(proxy) as pair:
        proxy.answers.delay_s = 0.05
        began_s = loop.time()
        assert await said(pair, b"a\n") == b"A\n"
        assert loop.time() - began_s >= 0.05
        proxy.heal()
        proxy.answers.bytes_per_s = 100
        began_s = loop.time()
        assert await said(pair, b"abcdefghi\n") == b"ABCDEFGHI\n"
        assert loop.time() - began_s >= 0.09


async def test_refusing_and_healing_keep_the_port_and_what_is_open(proxy: TcpProxy) -> None:
    port = proxy.port
    async with connected(proxy) as pair:
        assert await said(pair, b"a\n") == b"A\n"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, port)
        assert await said(pair, b"b\n") == b"B\n"
        proxy.heal()
        assert proxy.port == port
        async with connected(proxy) as other:
            assert await said(other, b"c\n") == b"C\n"


async def test_a_server_that_is_down_is_a_reset() -> None:
    async with TcpProxy("127.0.0.1", free_port()) as proxy, connected(proxy) as pair:
        with pytest.raises(ConnectionResetError):
            await heard(pair[0].read(1))
