"""Fill a store through the client, a thousand messages a commit."""

import time

import uvloop
from msgspec import Struct

from bench.parts.contract import Bench, Job, Lines, job
from bench.parts.saying import options, say
from ringpost import Client
from ringpost.settings import Settings
from ringpost.store import store_for


class Options(Struct):
    """`store`: its URL. `keys`: how many ordering keys; 0: none."""

    store: str
    count: int
    keys: int = 0


async def main(asked: Options) -> None:
    store = store_for(asked.store, Settings())
    await store.open(create=True)
    await store.close()
    operation = Lines.work if asked.keys else Bench.work
    began_s = time.perf_counter()
    async with Client(store=asked.store) as client:
        for at in range(0, asked.count, 1000):
            await client.send_all(operation, requests(asked, at, min(at + 1000, asked.count)))
    say(measured={"rate": asked.count / (time.perf_counter() - began_s)})


def requests(asked: Options, first: int, last: int) -> list[Job]:
    return [job(number % asked.keys if asked.keys else number) for number in range(first, last)]


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
