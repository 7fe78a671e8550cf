"""Move a SQLite store to another one, and be killed at a chosen step: for the tests of moves.

usage: moving_process.py OLD NEW STEP [twin]
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ringpost.settings import Settings
from ringpost.store import moving
from ringpost.store.log import Logged
from ringpost.store.moving import Mover, Terms, move
from ringpost.store.moving_log import LogMover
from ringpost.store.port import Exported, Passage, Put
from ringpost.store.sqlite.store import SqliteStore

STEPS = ("before take in", "after take in", "before take out", "after take out")
LOG_STEPS = ("before take in log", "after take in log", "before take out log", "after take out log")
BATCH = 2  # in the second one: the first is through
LEASE_S = 0.6


class Killed(SqliteStore):
    """A store whose process is gone at a step of its second batch."""

    def __init__(self, path: str, step: str) -> None:
        super().__init__(path, Settings())
        self._step = step
        self._batches = self._logs = 0

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        self._batches += 1
        self._at("before take in")
        puts = await super().take_in(rows, passage)
        self._at("after take in")
        return puts

    async def take_out(self, rows: Sequence[Exported], passage: Passage) -> list[bool]:
        self._batches += 1
        self._at("before take out")
        gone = await super().take_out(rows, passage)
        self._at("after take out")
        return gone

    async def take_in_log(self, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
        self._logs += 1
        self._at("before take in log")
        places = await super().take_in_log(event, entries, passage)
        self._at("after take in log")
        return places

    async def take_out_log(self, event: str, entries: Sequence[Logged]) -> None:
        self._logs += 1
        self._at("before take out log")
        await super().take_out_log(event, entries)
        self._at("after take out log")

    def _at(self, step: str) -> None:
        if step == self._step and (self._logs if step in LOG_STEPS else self._batches) == BATCH:
            os.kill(os.getpid(), signal.SIGKILL)


class TakesOutFirst(Mover):
    """The broken twin: for a moment a row is in no store."""

    async def carry(self, rows: Sequence[Exported]) -> None:
        await self._there.take_out(rows, self._passage)
        await self._here.take_in(rows, self._passage)


class TakesLogsOutFirst(LogMover):
    """The same of a log."""

    async def carry(self, event: str, entries: Sequence[Logged]) -> bool:
        await self._there.take_out_log(event, entries)
        await self._here.take_in_log(event, entries, self._passage)
        return True


async def main(old: str, new: str, step: str) -> None:
    source, target = Killed(old, step), Killed(new, step)
    await source.open()
    await target.open()
    await move(source, target, Terms(who="test", lease_s=LEASE_S))


if __name__ == "__main__":
    moving.BATCH_ROWS = 10
    if Path(sys.argv[-1]).name == "twin":
        moving.Mover = TakesOutFirst  # type: ignore[misc]
        moving.LogMover = TakesLogsOutFirst  # type: ignore[misc]
    asyncio.run(main(*sys.argv[1:4]))
