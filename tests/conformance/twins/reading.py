"""Stores that read, count or wait wrongly."""

import asyncio
from collections.abc import Sequence

from msgspec import structs

from ringpost.core.message import Record
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Depth, Filter, Woken


class NeverWakes(MemoryStore):
    """Lets who waits sleep to the end."""

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        await asyncio.sleep(timeout_s)
        return Woken()


class MissesWhatCameBefore(MemoryStore):
    """Hears only what comes while somebody listens."""

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        for queue in queues:
            self._alarm.clear(queue)
        return await self._alarm.wait(queues, ids, timeout_s)


class FindsAllAtOnce(MemoryStore):
    """Takes no notice of where a page begins."""

    async def find(self, filter: Filter, /) -> list[Record]:
        return await super().find(structs.replace(filter, after=0))


class CountsWrong(MemoryStore):
    """Counts what runs as ready."""

    async def depths(self) -> list[Depth]:
        return [structs.replace(one, ready=one.ready + one.running, running=0) for one in await super().depths()]


class AnswersOutOfOrder(MemoryStore):
    """Answers a batch of reads in the order of the rows."""

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        found = await super().read(ids, bodies=bodies)
        return sorted(found, key=lambda record: (record is None, record.ref if record else 0))
