"""One of several writers of one file, flat out: puts batches, or claims and settles them. Tells how long it waited."""

import time

import uvloop
from msgspec import Struct

from bench.parts.rows import HOLDER, QUEUE, messages, settlements
from bench.parts.saying import options, say, wait_for_go
from ringpost.core.message import Delivery
from ringpost.service.worker import run_fast
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore


class Options(Struct):
    path: str
    batch: int
    seconds: float
    works: bool = False


async def main(asked: Options) -> None:
    run_fast()
    store = SqliteStore(asked.path, Settings(depth_max=100_000_000))
    await store.open()
    say(ready=True)
    wait_for_go()
    rows, held = 0, list[Delivery]()
    waits_ms: list[float] = []
    until_s = time.perf_counter() + asked.seconds
    while time.perf_counter() < until_s:
        fresh = [] if asked.works else messages(asked.batch)
        began_s = time.perf_counter()
        if asked.works:
            claimed = await store.claim({QUEUE: asked.batch}, HOLDER, 30.0, settlements(held))
            rows += len(held)
            held = claimed.deliveries
        else:
            await store.put(fresh)
            rows += asked.batch
        waits_ms.append((time.perf_counter() - began_s) * 1000)
    say(measured={"rows": rows, "waits_ms": waits_ms})
    await store.close()


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
