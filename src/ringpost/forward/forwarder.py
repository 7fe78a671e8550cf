"""The forwarder of a process: one worker for the forward queues, and for each address who fetches the outcomes."""

import asyncio
import logging
from collections.abc import Iterable

from msgspec.structs import replace

from ringpost.client.target import target_of
from ringpost.client.world import REAL, World
from ringpost.contract.codec import Codec
from ringpost.core.handover import forward_queue
from ringpost.core.retry import Retry
from ringpost.forward.poster import CONCURRENCY, Poster
from ringpost.forward.puller import Puller
from ringpost.forward.receiver import Receiver
from ringpost.service.handler import Handler
from ringpost.service.worker import Worker
from ringpost.settings import Settings
from ringpost.store.port import Store
from ringpost.wire.outcomes import ANSWER_BYTES_MAX

_LOG = logging.getLogger("ringpost.forward")


class Forwarder:
    """Forward messages for the contracts that have an address, until it is stopped. For the running event loop.

    `contracts`: only for these; by default for all. Several processes on one store may forward beside each other.
    """

    def __init__(
        self, store: Store, settings: Settings, contracts: Iterable[str] | None = None, world: World = REAL
    ) -> None:
        wanted = settings.addresses if contracts is None else contracts
        # Many outcomes come in one answer, as base64.
        bytes_max = 2 * (settings.reply_bytes_max + ANSWER_BYTES_MAX)
        self._transport = world.carrier(replace(settings, reply_bytes_max=bytes_max), CONCURRENCY + 2)
        receivers = [
            Receiver(contract, target_of(settings.addresses[contract]), self._transport, store) for contract in wanted
        ]
        self.queues = tuple(receiver.queue for receiver in receivers)
        self._pullers = {receiver.queue: Puller(store, receiver, settings.lease_s, world) for receiver in receivers}
        poster = Poster(store, receivers, self._is_away, world)
        self._worker = Worker(
            store,
            poster,
            map(_handler, self.queues),
            lease_s=settings.lease_s,
            clock_s=world.clock_s,
            clock_ms=world.wall_ms,
            world=world,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, thread: bool = True) -> None:
        """Begin to forward. `thread=False` renews leases on the loop, for virtual time."""
        await self._worker.start(thread=thread)
        self._tasks = [asyncio.ensure_future(puller.run()) for puller in self._pullers.values()]

    def drain(self) -> None:
        """Take no more messages; what is being posted goes on."""
        self._worker.drain()

    async def stop(self, grace_s: float) -> None:
        """Let what is being posted end for `grace_s` seconds, then release it. What is away stays so."""
        await self._worker.stop(grace_s)
        for task in self._tasks:
            task.cancel()
        for done in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(done, Exception):
                _LOG.error("fetching outcomes failed", exc_info=done)
        await self._transport.close()

    def _is_away(self, queue: str) -> None:
        self._pullers[queue].look()


def queues_of(settings: Settings) -> tuple[str, ...]:
    """Give the forward queues of all contracts that have an address."""
    return tuple(map(forward_queue, settings.addresses))


def _handler(queue: str) -> Handler:
    """Describe a forward queue as the worker has its queues."""
    return Handler(
        work="forward",
        service="",
        name=queue,
        queue=queue,
        function=_handler,
        is_async=True,
        request=Codec(None),
        reply=Codec(None),
        retry={Exception: Retry()},
        concurrency=CONCURRENCY,
    )
