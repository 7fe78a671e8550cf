"""The store alone: put rows that are built beforehand, one, a hundred, a thousand a commit."""

import time
from itertools import islice

import uvloop
from msgspec import Struct

from bench.parts.rows import messages
from bench.parts.saying import options, say
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore


class Options(Struct):
    path: str
    singles: int
    rounds_of_100: int
    rounds_of_1000: int


async def main(asked: Options) -> None:
    store = SqliteStore(asked.path, Settings(depth_max=100_000_000))
    await store.open(create=True)
    measured: dict[str, float] = {}
    for name, rounds, size in (
        ("one", asked.singles, 1),
        ("hundred", asked.rounds_of_100, 100),
        ("thousand", asked.rounds_of_1000, 1000),
    ):
        rows = iter(messages(rounds * size))
        batches = [list(islice(rows, size)) for _ in range(rounds)]
        cpu_s, began_s = time.process_time(), time.perf_counter()
        for batch in batches:
            await store.put(batch)
        taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        measured |= {f"{name}_rate": rounds * size / taken_s, f"{name}_cpu": cpu_s / (rounds * size) * 1e6}
    await store.close()
    say(measured=measured)


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
