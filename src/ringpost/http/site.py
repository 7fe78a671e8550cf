"""Services that run in this loop, with all that belongs to them: store, host, and a door if there is one."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ringpost.client.client import Client
from ringpost.http.door import Door
from ringpost.http.ports import Bound, tls_context
from ringpost.http.server import Server
from ringpost.relay.relaying import Relaying
from ringpost.service.host import Host
from ringpost.service.register import Command
from ringpost.service.service import Service
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Store

if TYPE_CHECKING:
    from ringpost.forward.forwarder import Forwarder

LAST_S = 3.0  # of the time for stopping: what is left to cancel, release and flush once nothing may run any more

_log = logging.getLogger("ringpost")


class Site:
    """Open with `open`, end with `close`; both once.

    `command` is what the process is known by, the same in all that share its sockets.
    """

    def __init__(
        self,
        services: Sequence[Service],
        settings: Settings,
        *,
        accept_loss: bool = False,
        command: Command | None = None,
        give_up: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self.store: Store | None = None
        if settings.store is not None:
            self.store = store_for(settings.store, settings, on_failed=self._store_failed)
        self.host = Host(services, self.store, settings, give_up=give_up)
        if command is not None:
            self.host.command = command
        self.door = Door(self.host, settings)
        self._accept_loss = accept_loss
        self._relaying = Relaying(settings)
        self._server: Server | None = None
        self._forwarder: Forwarder | None = None

    async def open(self, bound: Bound | None, *, work: bool) -> None:
        """Open the store, start the services, then listen. On an error everything is closed again."""
        tls = None if bound is None else tls_context(self.settings)
        if self.store is not None:
            await self.store.open(create=True, accept_loss=self._accept_loss)
        try:
            await self.host.start(work)
            if work:
                await self._forward()
                if self.store is not None:
                    self._relaying.start(self.store)
            if bound is not None:
                self._server = server = Server(self.door, self.settings, tls=tls, refuse=self.door.turn_away)
                # Who finds the door now waits in its backlog; who is told by /readyz that this process is ready must be
                # able to count on its being found.
                await self.host.announce(self.settings.advertise or bound.url)
                for listener in bound.sockets:
                    await server.listen(listener)
            elif work:  # whoever looks at the queues must see that somebody takes from them
                await self.host.announce("")
        except BaseException:
            await self.close(0.0)
            raise

    async def _forward(self) -> None:
        """Forward what waits for contracts behind an address, if there are any."""
        settings = self.host.settings
        if self.store is not None and settings.addresses:
            # It loads the HTTP parser: only who forwards does.
            from ringpost.forward.forwarder import Forwarder

            self._forwarder = forwarder = Forwarder(self.store, settings)
            await forwarder.start()
            self.host.forwards = forwarder.queues

    def _store_failed(self, error: BaseException) -> None:
        self.host.break_down(f"the store has failed: {error}")

    def client(self) -> Client:
        """Give a client in the middle of it: calls to services that are here stay in the process."""
        return Client._attached(self.store, self.host, self.host.settings)

    def retire(self) -> None:
        """Be not ready, and serve on what comes all the same."""
        self.host.drain()
        if self._forwarder is not None:
            self._forwarder.drain()
        if self._server is not None:
            self._server.retire()

    async def close(self, grace_s: float) -> None:
        """Take in no more, let what runs end within the grace, then cancel and release it. Never raises."""
        self.retire()
        self.door.closing = True
        steps = [self.host.stop(grace_s)]
        if self._server is not None:  # answers still go out while the host comes to its end
            steps.append(self._server.close(grace_s + LAST_S / 2))
        if self._forwarder is not None:
            steps.append(self._forwarder.stop(grace_s))
        for error in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(error, BaseException):
                _log.error("stopping failed in part", exc_info=error)
        await self._relaying.stop()
        if self.store is not None:
            try:
                await self.store.close()
            except Exception:  # noqa: BLE001 (the last border: nobody is left who could act on it)
                _log.exception("the store could not be closed")
