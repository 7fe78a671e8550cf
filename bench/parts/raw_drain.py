"""The store alone: claim and settle through its port, two turns under way as a worker has them, and nothing else."""

import asyncio
import time

import uvloop
from msgspec import Struct

from bench.parts.rows import HOLDER, QUEUE, settlements
from bench.parts.saying import options, say
from ringpost.core.message import Delivery
from ringpost.service.worker import run_fast
from ringpost.settings import Settings
from ringpost.store.sqlite import SqliteStore


class Options(Struct):
    path: str
    slots: int = 200
    stop_after: int = 1 << 60


async def main(asked: Options) -> None:
    run_fast()
    store = SqliteStore(asked.path, Settings(depth_max=100_000_000))
    await store.open()
    done = 0

    async def turns() -> None:
        nonlocal done
        held: list[Delivery] = []
        while done < asked.stop_after:
            claimed = await store.claim({QUEUE: asked.slots // 2}, HOLDER, 30.0, settlements(held))
            done += len(held)
            held = claimed.deliveries
            if not held:
                return

    cpu_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.gather(turns(), turns())
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    await store.close()
    say(measured={"rate": done / taken_s, "CPU": cpu_s / done * 1e6})


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
