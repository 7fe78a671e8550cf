# mypy: ignore-errors
"""huey on SQLite, with the sync that makes a send durable."""

import os
import sys

import common
from huey import SqliteHuey

huey = SqliteHuey("bench", filename=common.DIR + "/huey.db", fsync=True, results=False)


@huey.task()
def noop(payload):
    common.hit(payload)


def send(payload):
    noop(payload)


def worker():
    program = os.path.join(os.path.dirname(sys.executable), "huey_consumer")
    os.execv(program, ["huey_consumer", "q_huey.huey", "-w", "1", "-k", "thread", "-q"])


if __name__ == "__main__":
    import q_huey

    common.run(q_huey)
