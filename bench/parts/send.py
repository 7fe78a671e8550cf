"""Send durably from one process: one by one, a hundred at once, a thousand in one call."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import uvloop
from msgspec import Struct

from bench.parts.contract import Bench, job
from bench.parts.saying import options, say
from ringpost import Client
from ringpost.store.sqlite.store import SqliteStore


class Options(Struct):
    path: str
    singles: int
    rounds_of_100: int
    rounds_of_1000: int


async def main(asked: Options) -> None:
    store = SqliteStore(asked.path)
    await store.open(create=True)
    await store.close()
    async with Client(store=f"sqlite:///{asked.path}") as client:

        async def one() -> None:
            await client.send(Bench.work, job(1))

        async def hundred() -> None:
            await asyncio.gather(*[client.send(Bench.work, job(number)) for number in range(100)])

        async def thousand() -> None:
            await client.send_all(Bench.work, [job(number) for number in range(1000)])

        await hundred()
        measured: dict[str, float] = {}
        for name, step, rounds, size in (
            ("one", one, asked.singles, 1),
            ("hundred", hundred, asked.rounds_of_100, 100),
            ("thousand", thousand, asked.rounds_of_1000, 1000),
        ):
            rate, cpu_us = await timed(step, rounds, size)
            measured |= {f"{name}_rate": rate, f"{name}_cpu": cpu_us}
        say(measured=measured)


async def timed(step: Callable[[], Awaitable[None]], rounds: int, size: int) -> tuple[float, float]:
    """Give messages a second, and CPU µs a message."""
    cpu_s, began_s = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        await step()
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return rounds * size / taken_s, cpu_s / (rounds * size) * 1e6


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
