"""A client that forwards itself: where nobody on its store does, what it sends to other stores would only lie there.

It forwards while it is open, and says at its close how much is left for whoever comes next.
"""

import asyncio
import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Protocol, cast

from ringpost.contract.errors import RingpostError
from ringpost.core.handover import forward_queue
from ringpost.core.message import State
from ringpost.core.notes import INSTANCE, decode_instance
from ringpost.settings import Settings
from ringpost.store.logged import log_error
from ringpost.store.port import Filter, Store

LOOK_S = 5.0  # how often it is looked at most whether somebody forwards
LAST_S = 2.0  # what has been sent may still leave before the client is closed
_POLL_S = 0.02
_WAITING = (State.SCHEDULED, State.WAITING, State.READY, State.RUNNING)
_LOG = logging.getLogger("ringpost.client")


class Forwards(Protocol):
    """What forwards, as this room knows it."""

    async def start(self) -> None: ...
    async def stop(self, grace_s: float) -> None: ...


class MakesForwarder(Protocol):
    """Make what forwards for contracts that have an address."""

    def __call__(self, store: Store, settings: Settings, contracts: Iterable[str]) -> Forwards: ...


class OwnForwarding:
    """Forward for one client, from when something waits and nobody else on the store would take it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._queues = {forward_queue(contract): contract for contract in settings.addresses}
        self._forwarders: list[Forwards] = []
        self._own: set[str] = set()  # queues
        self._looking: asyncio.Task[None] | None = None
        self._looked_s = float("-inf")

    def open(self) -> None:
        """Go on with what an earlier program has left."""
        self._looking = asyncio.ensure_future(self._go_on())

    def sent(self) -> None:
        """Take note that something was put that is to be forwarded."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s >= LOOK_S and len(self._own) < len(self._queues):
            self._looked_s = now_s
            self._looking = asyncio.ensure_future(self._look(self._looking))

    async def close(self) -> None:
        """Let what was sent leave, if it does within a moment; then stop, and say what is left."""
        if self._looking is not None:
            await asyncio.wait((self._looking,))
        if not self._own:
            return
        try:
            async with asyncio.timeout(LAST_S):
                await self._emptied()
        except TimeoutError:
            pass
        for forwarder in self._forwarders:
            await forwarder.stop(LAST_S)
        left = await self._left()
        if left:
            _LOG.warning(
                "%d messages for %s are still in %s, and no process on it forwards them: start one with "
                "`ringpost run`, or open a Client there again",
                left,
                ", ".join(sorted(self._queues[queue] for queue in self._own)),
                self._store.facts.url,
            )

    async def _go_on(self) -> None:
        try:
            left = await self._anything()
        except RingpostError as error:
            log_error(_LOG, logging.WARNING, error, "whether something is left to be forwarded could not be found out")
            return
        if left:
            await self._look(None)

    async def _look(self, before: "asyncio.Task[None] | None") -> None:
        """Forward what nobody else does."""
        if before is not None:
            await asyncio.wait((before,))
        try:
            taken = await self._taken()
            missing = [queue for queue in self._queues if queue not in taken and queue not in self._own]
            if missing:
                await self._forward(missing)
        except RingpostError as error:
            log_error(_LOG, logging.WARNING, error, "whether somebody forwards could not be found out")

    async def _forward(self, queues: list[str]) -> None:
        # What forwards stands above this room, as it works with the same worker as services do: it is loaded by its
        # name when it is needed, as a driver is.
        make = cast(MakesForwarder, import_module("ringpost.forward.forwarder").Forwarder)
        forwarder = make(self._store, self._settings, [self._queues[queue] for queue in queues])
        self._own.update(queues)
        self._forwarders.append(forwarder)
        await forwarder.start()

    async def _taken(self) -> set[str]:
        """Give the forward queues that somebody alive takes from."""
        instances = [decode_instance(note.value) for note in await self._store.notes(INSTANCE)]
        return {queue for instance in instances if not instance.stopping for queue in instance.queues}

    async def _anything(self) -> bool:
        """Say whether anything waits to be forwarded, or for its outcome."""
        states = (*_WAITING, State.FORWARDED)
        for queue in self._queues:
            if await self._store.find(Filter(queue, states, limit=1, bodies=False)):
                return True
        return False

    async def _emptied(self) -> None:
        for _ in range(round(LAST_S / _POLL_S)):
            if not await self._left():
                return
            await asyncio.sleep(_POLL_S)

    async def _left(self) -> int:
        """Count what waits to be forwarded."""
        depths = await self._store.depths()
        mine = [depth for depth in depths if depth.queue in self._own]
        return sum(depth.ready + depth.running + depth.scheduled + depth.waiting for depth in mine)
