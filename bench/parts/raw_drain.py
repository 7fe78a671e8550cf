"""The store alone: claim through its port as many as a worker has slots, settle them with the next claim, go on."""

import time

import uvloop
from msgspec import Struct

from bench.parts.rows import HOLDER, QUEUE, settlements
from bench.parts.saying import options, say
from ringpost.core.message import Delivery
from ringpost.service.worker import run_fast
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore


class Options(Struct):
    path: str
    slots: int = 200


async def main(asked: Options) -> None:
    run_fast()
    store = SqliteStore(asked.path, Settings(depth_max=100_000_000))
    await store.open()
    done, held = 0, list[Delivery]()
    cpu_s, began_s = time.process_time(), time.perf_counter()
    while True:
        claimed = await store.claim({QUEUE: asked.slots}, HOLDER, 30.0, settlements(held))
        done += len(held)
        held = claimed.deliveries
        if not held:
            break
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    await store.close()
    say(measured={"rate": done / taken_s, "CPU": cpu_s / done * 1e6})


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
