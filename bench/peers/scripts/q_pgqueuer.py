# mypy: ignore-errors
"""pgqueuer on PostgreSQL, its tables as it makes them (logged), in the batches with which it was fastest here."""

import json
import os
import subprocess
import sys

import asyncpg
import common
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

BATCH = 500
queries = None


def install():
    program = os.path.join(os.path.dirname(sys.executable), "pgq")
    subprocess.run([program, "--pg-dsn", common.URL, "install"], check=True, stdout=subprocess.DEVNULL)


async def asetup():
    global queries
    if sys.argv[1] == "enqueue":
        install()
    queries = Queries(AsyncpgDriver(await asyncpg.connect(common.URL)))


async def asend(payload):
    await queries.enqueue("noop", json.dumps(payload).encode())


async def asend_all(payloads):
    count = len(payloads)
    await queries.enqueue(["noop"] * count, [json.dumps(payload).encode() for payload in payloads], [0] * count)


async def work():
    manager = PgQueuer(AsyncpgDriver(await asyncpg.connect(common.URL)))

    @manager.entrypoint("noop")
    async def noop(job):
        common.hit(json.loads(job.payload))

    await manager.run(batch_size=BATCH)


def worker():
    uvloop.run(work())


if __name__ == "__main__":
    import q_pgqueuer

    common.run(q_pgqueuer)
