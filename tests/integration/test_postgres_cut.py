"""Connections to PostgreSQL break while services work: all goes on by itself, and nothing is lost or done twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from pg_wire import Statements
from servers.postgres import RealPostgres
from tcp_proxy import Asked, TcpProxy
from written_rows import Load, a_load

LEASE_S = 2.0
DOWN_S = 1.0


async def partitioned(proxy: TcpProxy) -> None:
    """Nothing passes for a while, and then all that has waited."""
    proxy.partition()
    await asyncio.sleep(DOWN_S)
    proxy.heal()


async def refused(proxy: TcpProxy) -> None:
    """Connections end, and new ones are refused for a while."""
    proxy.refuse()
    proxy.reset()
    await asyncio.sleep(DOWN_S)
    proxy.heal()


async def black_hole(proxy: TcpProxy) -> None:
    proxy.black_hole()


async def reset(proxy: TcpProxy) -> None:
    proxy.reset()


async def without_service(proxy: TcpProxy) -> None:
    """The service is told that its connections are gone; the server isn't."""
    proxy.half_open(gone="client")


async def without_server(proxy: TcpProxy) -> None:
    """The server is told; the service talks into nothing."""
    proxy.half_open(gone="server")


MODES: list[Callable[[TcpProxy], Awaitable[None]]] = [
    partitioned,
    refused,
    black_hole,
    reset,
    without_service,
    without_server,
]


class Cutting:
    """A load whose way to the server leads through a proxy."""

    def __init__(self, proxy: TcpProxy, statements: Statements, load: Load) -> None:
        self.proxy = proxy
        self.statements = statements
        self.load = load


def kinds_of(statements: Statements) -> dict[str, Asked]:
    """Give the requests that commit, by what they commit."""
    claim = "ORDER BY k.priority, k.seq"
    alone, together = statements.runs(claim), statements.commits(claim)
    return {
        "a put": statements.runs('INSERT INTO "ringpost".letter'),
        "a put under a key": statements.commits("l.dedup = ANY"),
        "a settled batch": statements.commits("SAVEPOINT deferred"),
        "a handler's transaction": statements.commits("'execute'"),
        "a renewal": statements.runs("set_config('synchronous_commit', 'off', true) FROM own"),
        "a claim": lambda link, data: alone(link, data) or together(link, data),
    }


@asynccontextmanager
async def a_cutting(server: RealPostgres) -> AsyncIterator[Cutting]:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        statements = Statements(proxy)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/"
        async with a_load(server, lambda database: url + database, LEASE_S) as load:
            yield Cutting(proxy, statements, load)
        proxy.heal()


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


async def test_it_goes_on_after_every_break(chance: random.Random, postgres: RealPostgres) -> None:
    async with a_cutting(postgres) as cutting:
        for mode in chance.sample(MODES, len(MODES)):
            await mode(cutting.proxy)
            print(f"{mode.__name__}: went on within {await cutting.load.goes_on():.1f} s")
        counted = await cutting.load.ended()
    assert counted.faults == []


async def test_the_answer_to_whatever_is_asked_is_lost(chance: random.Random, postgres: RealPostgres) -> None:
    async with a_cutting(postgres) as cutting:
        kinds = kinds_of(cutting.statements)
        for kind in chance.sample([*kinds] * 2, 2 * len(kinds)):
            await cutting.proxy.lose_answer(kinds[kind], chance.choice(["reset", "close"])).wait()
        counted = await cutting.load.ended()
    assert counted.faults == []
