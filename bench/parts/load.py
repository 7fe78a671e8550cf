"""A closed loop of calls: so many callers, each with its next call as soon as the last one is answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

WARM_S = 0.7


class Options(Struct):
    """Where the server is, and which process it is: its CPU time is read from outside."""

    url: str
    server_pid: int
    at_once: int
    seconds: float
    path: str = "/bench/echo"
    reads: bool = False  # an operation that only reads: it may be tried again and hedged


async def closed_loop(call: Callable[[], Awaitable[None]], asked: Options) -> dict[str, float]:
    """Give calls a second, latency in µs, and CPU µs a call on both sides."""
    taken_us: list[float] = []

    async def calls(until_s: float, keep: Callable[[float], None]) -> None:
        while (began_s := time.perf_counter()) < until_s:
            await call()
            keep((time.perf_counter() - began_s) * 1e6)

    async def load(seconds: float, keep: Callable[[float], None]) -> None:
        until_s = time.perf_counter() + seconds
        await asyncio.gather(*[calls(until_s, keep) for _ in range(asked.at_once)])

    await load(WARM_S, lambda _: None)
    server_clock = (~asked.server_pid << 3) | 2  # the kernel's number of another process's CPU clock
    server_s, client_s, began_s = time.clock_gettime(server_clock), time.process_time(), time.perf_counter()
    await load(asked.seconds, taken_us.append)
    taken_s, client_s = time.perf_counter() - began_s, time.process_time() - client_s
    server_s = time.clock_gettime(server_clock) - server_s
    taken_us.sort()
    count = len(taken_us)
    return {
        "rate": count / taken_s,
        "p50": taken_us[count // 2],
        "p99": taken_us[int(count * 0.99)],
        "client CPU": client_s / count * 1e6,
        "server CPU": server_s / count * 1e6,
    }
