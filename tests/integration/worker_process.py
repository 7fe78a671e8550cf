"""A worker in a process of its own, over a SQLite store, whose handlers do as the command line says.

usage: worker_process.py STORE LEASE_S HOW    HOW: quick, hang, block=SECONDS, wait=FILE
Every line that it prints is a JSON object; on SIGTERM it stops and prints how it was doing.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ringpost.core.message import Delivery, Settlement, State
from ringpost.service.slots import Slots
from ringpost.service.worker import Worker
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore

QUEUE = "mail.welcome"


def say(**words: object) -> None:
    sys.stdout.write(json.dumps({"pid": os.getpid(), **words}) + "\n")
    sys.stdout.flush()


class StandIn:
    """A pipeline whose handlers hang, block the event loop, or wait for a file."""

    def __init__(self, how: str) -> None:
        self._how, _, self._what = how.partition("=")
        self._slots = Slots(50)
        self._running: dict[int, asyncio.Task[Any]] = {}

    def slots(self, handler: object) -> Slots:
        return self._slots

    async def handle_message(self, handler: object, delivery: Delivery, *, charge: bool = True) -> Settlement:
        task = asyncio.current_task()
        assert task is not None
        self._running[delivery.ref] = task
        say(began=delivery.id.hex(), fence=delivery.fence, losses=delivery.losses)
        try:
            await self._do()
        except asyncio.CancelledError:
            task.uncancel()
            return Settlement(delivery, State.READY, charge=False)
        finally:
            del self._running[delivery.ref]
        say(ended=delivery.id.hex(), fence=delivery.fence)
        return Settlement(delivery, State.SUCCEEDED)

    async def _do(self) -> None:
        match self._how:
            case "hang":
                await asyncio.Event().wait()
            case "block":
                time.sleep(float(self._what))  # noqa: ASYNC251 (what a careless handler does)
            case "wait":
                while not Path(self._what).exists():  # noqa: ASYNC110, ASYNC240
                    await asyncio.sleep(0.01)
            case _:
                pass

    def cancel(self, ref: int, reason: str) -> bool:
        say(cancelled=ref, reason=reason)
        return ref in self._running and self._running[ref].cancel()


async def main(path: str, lease_s: float, how: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    store = SqliteStore(path, Settings(lease_s=lease_s))
    await store.open()
    handler: Any = SimpleNamespace(queue=QUEUE, plan=None)
    worker = Worker(store, StandIn(how), [handler], lease_s=lease_s)
    await worker.start()
    say(ready=True)
    await stopped.wait()
    await worker.stop(0.5)
    await store.close()
    working = worker.working()
    say(settled=working.settled, fences_lost=working.fences_lost)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
