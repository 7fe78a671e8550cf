"""The ways in which a path through the fault proxy breaks. When one of them returns, the path is well again."""

import asyncio
from collections.abc import Awaitable, Callable

from tcp_proxy import TcpProxy

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
    """What is connected is dead for good, and nobody is told."""
    proxy.black_hole()


async def reset(proxy: TcpProxy) -> None:
    """What is connected is reset."""
    proxy.reset()


async def half_open_there(proxy: TcpProxy) -> None:
    """Who connected is told that it is over; who listens isn't."""
    proxy.half_open(gone="client")


async def half_open_here(proxy: TcpProxy) -> None:
    """Who listens is told; who connected talks into nothing."""
    proxy.half_open(gone="server")


MODES: list[Callable[[TcpProxy], Awaitable[None]]] = [
    partitioned,
    refused,
    black_hole,
    reset,
    half_open_there,
    half_open_here,
]
