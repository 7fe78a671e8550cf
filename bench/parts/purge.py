"""Remove rows whose time is over: settle them now, then look at the file from two hours later."""

import time

import uvloop
from msgspec import Struct

from bench.parts.rows import HOLDER, QUEUE, messages, settlements
from bench.parts.saying import options, say
from ringpost.core.message import Delivery
from ringpost.settings import Settings
from ringpost.store import hostclock
from ringpost.store.sqlite.store import SqliteStore

_LATER_MS = 2 * 3600 * 1000


class Options(Struct):
    path: str
    count: int


async def main(asked: Options) -> None:
    settings = Settings(depth_max=100_000_000)
    store = SqliteStore(asked.path, settings)
    await store.open(create=True)
    for at in range(0, asked.count, 1000):
        await store.put(messages(1000, at))
    held: list[Delivery] = []
    while held or not at < 0:
        claimed = await store.claim({QUEUE: 1000}, HOLDER, 30.0, settlements(held))
        held, at = claimed.deliveries, -1
    await store.close()
    later = SqliteStore(
        asked.path, settings, clock=hostclock.HostClock(wall_ms=lambda: hostclock.wall_ms() + _LATER_MS)
    )
    await later.open()
    gone, steps = 0, 0
    cpu_s, began_s = time.process_time(), time.perf_counter()
    while gone < asked.count and steps < asked.count:
        gone += (await later.tend()).purged
        steps += 1
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    await later.close()
    say(measured={"CPU": cpu_s / gone * 1e6, "rate": gone / taken_s})


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
