"""asyncpg alone: a row, an update by key and a COMMIT of their own for each of so many, on sixteen connections.

What a handler that writes by `tx.execute` does at the least. It waits for its own statement, so that one can't share a
round trip with BEGIN or with COMMIT.
"""

import asyncio
import time
from collections.abc import Iterator

import asyncpg
import uvloop
from msgspec import Struct

from bench.parts.saying import options, say

CONNECTIONS = 16
_TABLES = (
    "CREATE TABLE bench_row (seq bigint PRIMARY KEY, state int); CREATE TABLE bench_entry (user_id int);"
    " INSERT INTO bench_row SELECT n, 5 FROM generate_series(1, {count}) n; ANALYZE bench_row"
)


class Options(Struct):
    url: str
    count: int


async def main(asked: Options) -> None:
    connections = [await asyncpg.connect(asked.url) for _ in range(CONNECTIONS)]
    await connections[0].execute(_TABLES.format(count=asked.count))
    numbers = iter(range(1, asked.count + 1))

    async def handle(connection: asyncpg.Connection, mine: Iterator[int]) -> None:
        for number in mine:
            await connection.execute("BEGIN")
            await connection.fetch("INSERT INTO bench_entry VALUES ($1)", number)
            await connection.execute(f"UPDATE bench_row SET state = 10 WHERE seq = {number} AND state = 5; COMMIT")

    cpu_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*[handle(connection, numbers) for connection in connections])
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    for connection in connections:
        await connection.close()
    say(measured={"rate": asked.count / taken_s, "CPU": cpu_s / asked.count * 1e6})


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
