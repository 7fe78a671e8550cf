# mypy: ignore-errors
"""taskiq on Redis streams, which acknowledge."""

import os
import sys

import common
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(common.URL)


@broker.task(task_name="noop")
async def noop(payload: dict) -> None:
    common.hit(payload)


async def asetup():
    await broker.startup()


async def asend(payload):
    await noop.kiq(payload)


def worker():
    program = os.path.join(os.path.dirname(sys.executable), "taskiq")
    how = ["--workers", "1", "--max-async-tasks", "200", "--log-level", "ERROR"]
    os.execv(program, ["taskiq", "worker", "q_taskiq:broker", *how])


if __name__ == "__main__":
    import q_taskiq

    common.run(q_taskiq)
