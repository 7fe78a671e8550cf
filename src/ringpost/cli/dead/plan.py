"""Which dead letters are replayed, and in which steps: a few first, the rest once those have ended well."""

from collections.abc import AsyncIterator
from typing import Final

from msgspec import Struct

from ringpost.cli.output import instant
from ringpost.core.message import Record, State
from ringpost.store.port import Filter, Store

_PAGE: Final = 100


class Plan(Struct, frozen=True, kw_only=True):
    """What is asked for. `canary`: so many, after a single one, have to end well before the rest; 0: all at once.

    `error` is looked for in type and text of the last error, `died_after_ms` is when it died at the earliest.
    """

    queue: str | None = None
    cause: str | None = None
    error: str | None = None
    died_after_ms: int | None = None
    limit: int | None = None
    rate: float | None = None
    canary: int = 0
    canary_wait_s: float = 60.0

    def takes(self, record: Record) -> bool:
        """Say whether a dead letter of its queue is meant."""
        if self.cause is not None and record.cause.word != self.cause:
            return False
        if self.died_after_ms is not None and (record.settled_ms or record.created_ms) < self.died_after_ms:
            return False
        if self.error is None:
            return True
        last = record.failures[-1] if record.failures else None
        return last is not None and self.error.lower() in f"{last.type}: {last.message}".lower()

    def words(self) -> str:
        """Say what was asked for, for the audit."""
        said = {
            "queue": self.queue,
            "cause": self.cause,
            "error": self.error,
            "died after": instant(self.died_after_ms),
            "limit": self.limit,
            "rate": self.rate,
            "canary": self.canary or None,
        }
        return ", ".join(["all", *(f"{name} {value}" for name, value in said.items() if value is not None)])

    def size(self, step: int) -> int:
        """Say how many the step takes, counted from 0; those of a canary are waited for."""
        if self.waits(step):
            return 1 if step == 0 else self.canary
        return _PAGE if self.rate is None else max(1, min(_PAGE, int(self.rate)))

    def waits(self, step: int) -> bool:
        """Say whether the step has to end well before the next."""
        return self.canary > 0 and step < 2


async def steps(store: Store, plan: Plan) -> AsyncIterator[list[Record]]:
    """Give the dead letters of a plan step by step, the oldest first: so the order of each key is kept."""
    batch: list[Record] = []
    step = 0
    async for record in found(store, plan):
        batch.append(record)
        if len(batch) == plan.size(step):
            yield batch
            batch, step = [], step + 1
    if batch:
        yield batch


async def found(store: Store, plan: Plan, *, bodies: bool = False) -> AsyncIterator[Record]:
    """Give the dead letters page by page, those that were there when it began to ask for a page."""
    after, given = 0, 0
    while plan.limit is None or given < plan.limit:
        page = await store.find(Filter(queue=plan.queue, states=(State.DEAD,), after=after, limit=_PAGE, bodies=bodies))
        for record in page:
            if plan.takes(record):
                yield record
                given += 1
                if given == plan.limit:
                    return
        if len(page) < _PAGE:
            return
        after = page[-1].ref
