"""Maintenance windows as a process obeys them: what the notes of its store say, looked at twice a second.

A closed service answers calls with when to come again, or takes them as messages; it claims none. When the window ends
by its time or by a command, each queue is drained at the rate that was set, shared by the processes that work it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from msgspec import structs

from ringpost.contract.errors import RingpostError
from ringpost.core import notes
from ringpost.core.maintenance import Drain, Window
from ringpost.core.message import Answer
from ringpost.service import verdict
from ringpost.service.handler import Handler
from ringpost.service.slots import Slots
from ringpost.store.port import Note, Store

PERIOD_S = 0.5
DRAINING_S = 0.1
_LOG = logging.getLogger("ringpost.service")

Slow = Callable[[str, Drain], None]


class Maintenance:
    """The windows of the services of one process. `windows` has those that are closed now, by service."""

    def __init__(
        self, store: Store, handlers: Iterable[Handler], slots: Callable[[Handler], Slots], clock_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._handlers = list(handlers)
        self._services = {handler.service for handler in self._handlers}
        self._slots = slots
        self._clock_ms = clock_ms
        self._known: dict[str, Window] = {}  # as last seen
        self._versions: dict[str, int] = {}  # of their notes
        self._drained: dict[str, Window] = {}  # whose drain was begun here
        self.windows: dict[str, Window] = {}
        self.slow: Slow | None = None  # drain a queue slowly; None: nobody claims here
        self.go_on: Callable[[], bool] = lambda: False  # claim; says whether something is drained slowly

    async def look(self) -> None:
        """Read the notes, and do as they say. Raises StoreError."""
        found = {note.name.removeprefix(notes.MAINTENANCE): note for note in await self._store.notes(notes.MAINTENANCE)}
        mine = found.keys() & self._services
        self._known = {name: notes.decode_maintenance(found[name].value) for name in mine}
        self._versions = {name: found[name].version for name in mine}
        await self._obey()

    def refusal(self, handler: Handler) -> Answer | None:
        """Give what a call to a closed service is answered; None if it isn't closed."""
        window = self.windows.get(handler.service)
        if window is None:
            return None
        until = datetime.fromtimestamp(window.until_ms / 1000, UTC).isoformat(timespec="seconds")
        detail = f"The service {handler.service} is closed until {until}{window.reason and ': '}{window.reason}."
        return verdict.refusal(
            "maintenance", detail, handler.name, retry_after_s=window.retry_after_s(self._clock_ms())
        )

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            draining = self.go_on()
            await asyncio.sleep(DRAINING_S if draining else PERIOD_S)
            try:
                if not draining:
                    await self.end_drains()
                await self.look()
            except RingpostError:
                _LOG.debug("the maintenance windows could not be read", exc_info=True)
                await self._obey()  # what is known ends by itself

    async def _obey(self) -> None:
        now_ms = self._clock_ms()
        closed = {name: window for name, window in self._known.items() if window.closed(now_ms)}
        for name in closed.keys() - self.windows.keys():
            _LOG.warning("the service %s is closed for maintenance: %s", name, closed[name].reason or "no reason given")
        opened = self.windows.keys() - closed.keys()
        self.windows = closed
        for name, window in self._known.items():
            if window.draining(now_ms) and self._drained.get(name) != window:
                self._drained[name] = window
                await self._drain(name, window)
        for name in opened:
            _LOG.warning("the service %s is open again", name)
        for handler in self._handlers:
            self._slots(handler).shut(handler.service in closed)

    async def end_drains(self) -> None:
        """Write down what is drained: else whoever starts later would drain slowly what comes then. Raises
        StoreError."""
        now_ms = self._clock_ms()
        drained = {
            name: window
            for name, window in self._known.items()
            if self.slow is not None and self._drained.get(name) == window and window.draining(now_ms)
        }
        if not drained:
            return
        waiting = {depth.queue for depth in await self._store.depths() if depth.ready}
        for name, window in drained.items():
            if waiting.isdisjoint(handler.queue for handler in self._handlers if handler.service == name):
                over = Note(notes.maintenance(name), notes.encode(structs.replace(window, rate=0.0)))
                await self._store.note_put(over, expect=self._versions[name])

    async def _drain(self, service: str, window: Window) -> None:
        """Let each queue of the service claim its share of the rate."""
        if self.slow is None:
            return
        consumers = await self._consumers()
        for handler in self._handlers:
            if handler.service == service:
                self.slow(handler.queue, Drain(window.rate / max(consumers.get(handler.queue, 1), 1)))

    async def _consumers(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for note in await self._store.notes(notes.INSTANCE):
            instance = notes.decode_instance(note.value)
            for queue in instance.queues:
                counts[queue] = counts.get(queue, 0) + instance.processes
        return counts
