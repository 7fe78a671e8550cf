"""Workers on the memory store, with a pipeline and a store that do as a test says."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from ringpost.contract.errors import StoreError
from ringpost.core.message import Delivery, Message, Settlement, State
from ringpost.service.slots import Slots
from ringpost.service.worker import Worker
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Renewed

Handling = Callable[[Delivery], Awaitable[None]]


_ids = itertools.count(1)


def message(queue: str = "mail.welcome", **fields: Any) -> Message:
    return Message(id=next(_ids).to_bytes(16, "big"), queue=queue, body=b"{}", **fields)


def handler(queue: str = "mail.welcome", concurrency: int = 8) -> Any:
    return SimpleNamespace(queue=queue, concurrency=concurrency, plan=None)


class StandIn:
    """A pipeline that runs one function, and settles as the real one does for success and for each reason to cancel."""

    def __init__(self, handling: Handling | None = None) -> None:
        self.handling = handling
        self.handled: list[Delivery] = []
        self.reasons: list[str] = []
        self.most = 0
        self.changed = asyncio.Event()
        self._slots: dict[str, Slots] = {}
        self._running: dict[int, tuple[asyncio.Task[Any], list[str]]] = {}

    def slots(self, handler: Any) -> Slots:
        return self._slots.setdefault(handler.queue, Slots(handler.concurrency))

    async def handle_message(self, handler: Any, delivery: Delivery, *, charge: bool = True) -> Settlement:
        task = asyncio.current_task()
        assert task is not None
        reason: list[str] = []
        self._running[delivery.ref] = task, reason
        self.most = max(self.most, len(self._running))
        self.changed.set()
        try:
            if self.handling is not None:
                await self.handling(delivery)
        except asyncio.CancelledError:
            if not reason:
                raise
            self.reasons += reason
            to = State.CANCELLED if reason == ["user"] else State.READY
            return Settlement(delivery, to, charge=False)
        finally:
            del self._running[delivery.ref]
            self.changed.set()
        self.handled.append(delivery)
        self.changed.set()
        return Settlement(delivery, State.SUCCEEDED)

    def cancel(self, ref: int, reason: str) -> bool:
        if ref not in self._running:
            return False
        task, reasons = self._running[ref]
        reasons.append(reason)
        return task.cancel()

    @property
    def running(self) -> int:
        return len(self._running)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Spied(MemoryStore):
    """A memory store that notes its claims, and fails, loses or hangs where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[dict[str, int]] = []
        self.holders: list[int] = []
        self.claims_fail = 0
        self.renewals_fail = False
        self.renewed = threading.Event()
        self.lose_fences = False

    async def claim(self, want: Any, holder: int, lease_s: float, settlements: Any = (), *, suspects: int = 1) -> Any:
        self.wanted.append(dict(want))
        self.holders.append(holder)
        if self.claims_fail:
            self.claims_fail -= 1
            raise StoreError("the disk is on fire")
        claimed = await super().claim(want, holder, lease_s, settlements, suspects=suspects)
        if self.lose_fences:
            claimed.settled = [False for _ in claimed.settled]
        return claimed

    def renew(self, holder: int, lease_s: float) -> Renewed:
        if self.renewals_fail:
            raise StoreError("no answer")
        renewed = super().renew(holder, lease_s)
        self.renewed.set()
        return renewed

    async def state(self, message: Message) -> State | None:
        (record,) = await self.read([message.id])
        return None if record is None else record.state


@asynccontextmanager
async def working(
    store: MemoryStore, pipeline: StandIn, *handlers: Any, lease_s: float = 30.0, grace_s: float = 5.0, **options: Any
) -> AsyncIterator[Worker]:
    worker = Worker(store, pipeline, handlers or (handler(),), lease_s=lease_s, **options)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace_s)


async def forever(delivery: Delivery) -> None:
    await asyncio.Event().wait()
