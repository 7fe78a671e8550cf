"""The worker's ear: one wait on the store at a time, for queues with room and for messages that run long."""

import asyncio
import logging
from collections.abc import Callable

from ringpost.store.logged import log_error
from ringpost.store.port import Store, Woken

_LOG = logging.getLogger("ringpost.worker")
_RETRY_S = 1.0


class Listener:
    """Wait for hints. `heard` is called with what a wait gave, an empty one after its timeout; then nobody listens."""

    def __init__(self, store: Store, heard: Callable[[Woken], None]) -> None:
        self._store = store
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self.queues: frozenset[str] = frozenset()  # listened to now
        self.ids: frozenset[bytes] = frozenset()

    @property
    def listening(self) -> bool:
        return self._task is not None

    def listen(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> None:
        """Listen to these instead of what was listened to. Whoever claims after this call misses no put."""
        self.stop()
        self.queues, self.ids = queues, ids
        self._task = asyncio.get_running_loop().create_task(
            self._wait(queues, ids, timeout_s), name="ringpost-listener"
        )

    def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self.queues, self.ids = frozenset(), frozenset()

    async def _wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> None:
        try:
            woken = await self._store.wait(queues, ids, timeout_s)
        except Exception as error:  # noqa: BLE001 (a border: without hints the worker polls)
            log_error(_LOG, logging.WARNING, error, "the store can't be listened to")
            await asyncio.sleep(_RETRY_S)
            woken = Woken()
        self._task = None
        self.queues, self.ids = frozenset(), frozenset()
        self._heard(woken)
