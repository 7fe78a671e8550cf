"""Rehearsals: a message is handled as a worker would, by the same pipeline, and nothing of it takes effect.

For handlers that are declared with `dry_run=True`: those heed `ctx.dry_run` in what they do past Ringpost. What they
send is captured, their transaction is undone where it would commit, and calls go out only to operations that merely
read. No lease is taken, no attempt counted, nothing settled: the process claims nothing and notes nothing, and the only
store that it has is one in which nothing stays (`undone_store.py`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from msgspec import Struct

from ringpost.core.message import Answer, Delivery, Failure, Message, Record, Settled, Settlement, State
from ringpost.service.dry_run import DryRun
from ringpost.service.handler import Handler
from ringpost.service.host import Host
from ringpost.service.service import Service
from ringpost.service.undone_store import undone
from ringpost.settings import Settings
from ringpost.store.port import Store

_STOP_S = 2.0

Prospect = Literal["succeeds", "problem", "later", "fails", "dies", "unsure"]
"""`problem`: it is answered with a declared Problem. `later`: the handler asks to be tried again later. `fails`: it is
tried again; `dies`: it isn't. `unsure`: its handler asked for what a rehearsal doesn't do."""


class Rehearsed(Struct, frozen=True, kw_only=True):
    """What would become of a message. `sends`: what it would send; where it doesn't succeed, that which leaves all the
    same. `why`: of `unsure`, what was asked for."""

    foretold: Prospect
    answer: Answer | None = None
    sends: tuple[Message, ...] = ()
    failure: Failure | None = None
    delay_s: float = 0.0
    why: str = ""


class Rehearsal:
    """Services, as they would handle what is in a store; use it in `async with`. The store is open and stays so.

    Resources are made as for a real run, but for what they write in a Transaction, which is undone as well. Raises what
    starting the services raises.
    """

    def __init__(self, services: Sequence[Service], store: Store, settings: Settings) -> None:
        self._dry = DryRun()
        self._store = undone(store, self._dry)
        self._host = Host(services, self._store, settings, dry=self._dry)

    async def __aenter__(self) -> Self:
        await self._host.start(work=False)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._host.stop(_STOP_S)

    @property
    def host(self) -> Host:
        """What the services are in this process."""
        return self._host

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handlers by queue; those with `dry_run` may be rehearsed."""
        return self._host.handlers

    async def of(self, record: Record) -> Rehearsed:
        """Say what would become of a dead letter that is replayed now; `record` was read with its body.

        One at a time: each finds the store as it is, and nothing of those before it. Bounded by the handler's
        `max_run`.
        """
        return await asyncio.get_running_loop().create_task(self._handled(record))

    async def _handled(self, record: Record) -> Rehearsed:
        handler = self.handlers[record.queue]
        assert handler.dry_run, "whoever doesn't heed ctx.dry_run must not be run"
        self._dry.begin()
        end = await self._host.pipeline.handle_message(handler, replayed(record))
        settlement = end.settlement if isinstance(end, Settled) else await self._with_deferred(handler, end)
        return _foretold(settlement, self._dry)

    async def _with_deferred(self, handler: Handler, settlement: Settlement) -> Settlement:
        """Run what was deferred, as the worker's next turn would, and settle anew where it fails."""
        if not settlement.sql:
            return settlement
        try:
            await self._store.begin(lambda: "its deferred statements").commit(settlement)
        except Exception as error:  # noqa: BLE001 (a border: whatever the database raises is the handler's failure)
            return self._host.pipeline.undone(handler, settlement.delivery, error, charge=True)
        return settlement


def replayed(record: Record) -> Delivery:
    """Give a dead letter as the first claim after its replay would, with the fence of the last one."""
    return Delivery(
        record.ref,
        record.id,
        record.queue,
        record.fence,
        attempt=1,
        losses=0,
        generation=record.generation + 1,
        created_ms=record.created_ms,
        headers=record.headers,
        body=record.body,
        kind=record.kind,
        keep_s=record.keep_s,
    )


def _foretold(settlement: Settlement, dry: DryRun) -> Rehearsed:
    """Read off a settlement what would become of the message."""
    sends = (*dry.sent, *settlement.staged)
    answer, failure = settlement.answer, settlement.failure
    if dry.refused:
        return Rehearsed(foretold="unsure", sends=sends, failure=failure, why=dry.refused)
    if settlement.to is State.SUCCEEDED:
        return Rehearsed(foretold="succeeds", answer=answer, sends=sends)
    if settlement.to is State.FAILED:
        return Rehearsed(foretold="problem", answer=answer, sends=sends)
    if settlement.to is State.DEAD:
        return Rehearsed(foretold="dies", sends=sends, failure=failure)
    if failure is None:
        return Rehearsed(foretold="later", sends=sends, delay_s=settlement.delay_s)
    return Rehearsed(foretold="fails", sends=sends, failure=failure, delay_s=settlement.delay_s)
