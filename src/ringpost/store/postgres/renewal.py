"""Renewing leases from a thread of its own, on a connection of its own: also while the event loop is blocked."""

import asyncio
import threading

from ringpost.contract.errors import StoreError
from ringpost.store.port import Renewed
from ringpost.store.postgres import tend
from ringpost.store.postgres.link import Connect, Link
from ringpost.store.postgres.vigil import Vigil

_STOP_S = 3.0


class Renewal:
    """The thread is started by the first renewal."""

    def __init__(self, connect: Connect, shown: str) -> None:
        self._connect = connect
        self._shown = shown
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._vigil: Vigil | None = None

    def renew(self, holder: int, fence: int, lease_s: float) -> Renewed:
        """Renew, blocking for no longer than a third of the lease. Raises StoreError; repeating it is harmless."""
        loop = self._started()
        patience_s = lease_s / 3
        asked = asyncio.run_coroutine_threadsafe(self._renew(holder, fence, lease_s, patience_s), loop)
        try:
            return asked.result(timeout=patience_s + 1)
        except TimeoutError as exc:
            asked.cancel()
            raise StoreError(f"the store {self._shown} did not renew within {patience_s:g} s") from exc

    def stop(self) -> None:
        """End the thread; blocks for a moment."""
        with self._starting:
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        ended = asyncio.run_coroutine_threadsafe(self._close(), loop)
        try:
            ended.result(timeout=_STOP_S)
        except (TimeoutError, StoreError):
            pass
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_STOP_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="ringpost-renewal", daemon=True)
                self._thread.start()
            return self._loop

    async def _renew(self, holder: int, fence: int, lease_s: float, patience_s: float) -> Renewed:
        if self._link is None:
            self._vigil = Vigil(self._connect)
            self._link = Link(self._connect, self._vigil)
        return await self._link.read(lambda db: tend.renew(db, holder, fence, lease_s), patience_s)

    async def _close(self) -> None:
        if self._link is not None and self._vigil is not None:
            await self._link.close()
            await self._vigil.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
