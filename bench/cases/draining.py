"""What draining a queue is measured with: a filled store, workers started as users start them, and what came of it."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import apsw

from bench import children
from bench.children import Child, ChildFailed
from bench.session import Sample, Session
from ringpost.settings import Settings
from ringpost.store import store_for

LOOK_S = 0.02
WITHIN_S = 120.0
FILE = "bench.db"

Prepare = Callable[[Path], None]


class Place(Protocol):
    """A store that is drained."""

    @property
    def url(self) -> str: ...
    def rate(self, before: int, /) -> float: ...


class File:
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.url = f"sqlite:///{self._path}"

    def rate(self, before: int, /) -> float:
        """Read from the rows themselves how many were settled a second, but for those that were there before."""
        db = apsw.Connection(str(self._path))
        try:
            rows = db.execute(
                "SELECT count(*), min(started_ms), max(settled_ms) FROM (SELECT * FROM ringpost_message"
                " WHERE state = 10 ORDER BY seq LIMIT -1 OFFSET ?)",
                (before,),
            )
            count, first_ms, last_ms = cast("tuple[int, int, int]", next(iter(rows)))
        finally:
            db.close()
        return count / (last_ms - first_ms) * 1000


def drained(
    session: Session,
    count: int,
    *,
    prepare: Prepare | None = None,
    handler: str = "nothing",
    slots: int = 200,
    workers: int = 1,
    burn_us: float = 0.0,
    place: Callable[[Path], Place] = File,
) -> Sample:
    """Drain `count` messages of a fresh store; give the rate, CPU µs a message and the memory of a worker in MB.

    The time is from the first claim to the last settlement, as the store noted them; the CPU time of all workers from
    their first message on.
    """
    with session.scratch() as folder:
        store = place(folder)
        if prepare is None:
            children.told("fill", folder, store=store.url, count=count)
        else:
            prepare(folder)
        before = asyncio.run(_ends_of(store.url))
        options: dict[str, Any] = {"handler": handler, "slots": slots, "workers": workers, "burn_us": burn_us}
        with children.part("worker", folder, store=store.url, **options) as worker:
            said = [worker.says("began", WITHIN_S) for _ in range(workers)]
            pids = [int(one["pid"]) for one in said]
            done = asyncio.run(_until_ended(store.url, before + count, worker)) - before
            cpu_s = children.cpu_s(pids) - sum(one["cpu_s"] for one in said)
            memory_mb = max(children.memory_mb(pid) for pid in pids)
            if done > count:
                worker.kill()  # there is more behind it: no more of that
        return {"rate": store.rate(before), "CPU": cpu_s / done * 1e6, "memory": memory_mb}


def copied(source: Path, folder: Path) -> None:
    """Put a copy of a closed store into a folder."""
    for file in (file for file in source.parent.glob(source.name + "*") if file.is_file()):
        shutil.copy(file, folder / (FILE + file.name.removeprefix(source.name)))


async def _ends_of(url: str) -> int:
    store = store_for(url, Settings())
    await store.open()
    try:
        return sum(depth.ends for depth in await store.depths())
    finally:
        await store.close()


async def _until_ended(url: str, count: int, worker: Child) -> int:
    """Look at the store's counters until so many have ended: from outside there is nothing to wait on that would cost
    the worker nothing."""
    store = store_for(url, Settings())
    await store.open()
    try:
        async with asyncio.timeout(WITHIN_S):
            while (ends := sum(depth.ends for depth in await store.depths())) < count:
                if worker.ended:
                    raise ChildFailed(f"the worker ended after {ends} of {count} messages")
                await asyncio.sleep(LOOK_S)
    finally:
        await store.close()
    return ends
