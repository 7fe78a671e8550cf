"""Send to an idle worker, a message every few milliseconds, each with the instant at which it was sent."""

import asyncio
import time

import uvloop
from msgspec import Struct

from bench.parts.contract import Bench, job
from bench.parts.saying import options, say, wait_for_go
from ringpost import Client

WARM_UP = 20


class Options(Struct):
    path: str
    count: int
    gap_s: float = 0.005


async def main(asked: Options) -> None:
    async with Client(store=f"sqlite:///{asked.path}") as client:
        say(ready=True)
        await asyncio.to_thread(wait_for_go)
        taken_ms: list[float] = []
        for number in range(-WARM_UP, asked.count):
            await asyncio.sleep(asked.gap_s)  # the pace itself is what is asked for
            began_s = time.perf_counter()
            await client.send(Bench.work, job(WARM_UP + number, time.time() if number >= 0 else 0.0))
            if number >= 0:
                taken_ms.append((time.perf_counter() - began_s) * 1000)
        say(measured={"sends_ms": taken_ms})


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
