"""What draining a queue is measured with: a filled file, workers started as users start them, and what came of it."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import apsw

from bench import children
from bench.children import Child, ChildFailed
from bench.session import Sample, Session
from ringpost.store.sqlite import SqliteStore

LOOK_S = 0.02
WITHIN_S = 120.0
FILE = "bench.db"

Prepare = Callable[[Path], None]


def drained(
    session: Session,
    count: int,
    *,
    prepare: Prepare | None = None,
    handler: str = "nothing",
    slots: int = 200,
    workers: int = 1,
    burn_us: float = 0.0,
) -> Sample:
    """Drain `count` messages of a fresh file; give the rate, CPU µs a message and the memory of a worker in MB.

    The time is from the first claim to the last settlement, as the store noted them; the CPU time of all workers from
    their first message on.
    """
    with session.scratch() as folder:
        path = folder / FILE
        if prepare is None:
            children.told("fill", folder, path=str(path), count=count)
        else:
            prepare(folder)
        before = ends_at(path)
        options: dict[str, Any] = {"handler": handler, "slots": slots, "workers": workers, "burn_us": burn_us}
        with children.part("worker", folder, store=f"sqlite:///{path}", **options) as worker:
            said = [worker.says("began", WITHIN_S) for _ in range(workers)]
            pids = [int(one["pid"]) for one in said]
            done = asyncio.run(_until_ended(path, before + count, worker)) - before
            cpu_s = children.cpu_s(pids) - sum(one["cpu_s"] for one in said)
            memory_mb = max(children.memory_mb(pid) for pid in pids)
            if done > count:
                worker.kill()  # there is more behind it: no more of that
        return {"rate": rate(path, before), "CPU": cpu_s / done * 1e6, "memory": memory_mb}


def rate(path: Path, before: int) -> float:
    """Read from the rows themselves how many were settled a second, but for those that were there before."""
    db = apsw.Connection(str(path))
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


def ends_at(path: Path) -> int:
    return asyncio.run(_ends_of(path))


def copied(source: Path, folder: Path) -> None:
    """Put a copy of a closed store into a folder."""
    for file in (file for file in source.parent.glob(source.name + "*") if file.is_file()):
        shutil.copy(file, folder / (FILE + file.name.removeprefix(source.name)))


async def _ends_of(path: Path) -> int:
    store = SqliteStore(path)
    await store.open()
    try:
        return sum(depth.ends for depth in await store.depths())
    finally:
        await store.close()


async def _until_ended(path: Path, count: int, worker: Child) -> int:
    """Look at the store's counters until so many have ended: from outside there is nothing to wait on that would cost
    the worker nothing."""
    store = SqliteStore(path)
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
