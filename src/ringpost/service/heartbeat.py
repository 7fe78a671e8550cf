"""The heartbeat: leases are renewed from a thread of their own, so that a blocked event loop keeps its messages.

What the thread learns reaches the loop by `call_soon_threadsafe`: that somebody asked to cancel, and that renewing has
failed for two thirds of a lease, when handlers must end before another worker takes their messages over.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from ringpost.core.lease import renew_every_s
from ringpost.store.logged import log_error
from ringpost.store.port import Store

_LOG = logging.getLogger("ringpost.heartbeat")
_FAILURES_MAX = 2


class Heartbeat:
    """Renew every lease of the holders each third of its length. `holders` may be set at any time."""

    def __init__(
        self,
        store: Store,
        holders: tuple[int, ...],
        lease_s: float,
        *,
        on_cancel: Callable[[list[int]], None],
        on_failing: Callable[[], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_cancel` gets the refs that somebody wants ended; `on_failing` is called after two failures in a row and
        after each one that follows. Both are called on the loop."""
        self._store = store
        self.holders = holders
        self._lease_s = lease_s
        self._on_cancel = on_cancel
        self._on_failing = on_failing
        self._clock_s = clock_s
        self._failures = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = threading.Event()
        self.renewed_s = clock_s()  # when the last renewal that succeeded was asked for

    def start(self, *, thread: bool = True) -> None:
        """Begin to renew, telling the running loop. Without a thread of its own (under virtual time, where no loop is
        ever blocked) it renews on the loop."""
        self._loop = asyncio.get_running_loop()
        self.renewed_s = self._clock_s()
        if thread:
            threading.Thread(target=self._run, name="ringpost-heartbeat", daemon=True).start()
        else:
            self._run_on(self._loop)

    def stop(self) -> None:
        """End it. A thread that the store keeps in a renewal is not waited for."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        while not self._stopping.wait(renew_every_s(self._lease_s)):
            self.beat()

    def _run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self.beat()
        self._timer = loop.call_later(renew_every_s(self._lease_s), self._run_on, loop)

    def beat(self) -> None:
        """Renew once, and tell the loop what there is to tell."""
        asked_s = self._clock_s()
        try:
            cancel = [ref for holder in self.holders for ref in self._store.renew(holder, self._lease_s).cancel]
        except Exception as error:  # noqa: BLE001 (a border: whatever a store raises, renewing goes on)
            if self._stopping.is_set():
                return
            self._failures += 1
            log_error(_LOG, logging.WARNING, error, "leases could not be renewed (%d in a row)", self._failures)
            if self._failures >= _FAILURES_MAX:
                self._tell(self._on_failing)
            return
        self._failures = 0
        self.renewed_s = asked_s
        if cancel:
            self._tell(self._on_cancel, cancel)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop was closed meanwhile: nobody is left to tell
            self._stopping.set()
