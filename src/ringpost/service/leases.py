"""What a worker holds, and when it must let go: renewals, cancel flags, and the end before a lease ends.

A lease that can't be renewed is given up at two thirds of its length: then the handler is cancelled, before another
worker takes the message over. A claim that failed may have taken messages that nobody here knows of; as renewing would
keep them for ever, what is claimed after it is held under another number, and the old one is renewed no longer than
what is known to run under it.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Protocol

from ringpost.core import ids
from ringpost.core.lease import give_up_after_s
from ringpost.core.message import State
from ringpost.service.heartbeat import Heartbeat
from ringpost.service.runners import Runners
from ringpost.store.port import Store

_LOG = logging.getLogger("ringpost.worker")
_LONG_S = 0.2
_CHECK_S_MAX = 1.0
_CALL_S_MAX = 60.0  # calls under a key are held by the same number, no longer than a call may take


class Cancels(Protocol):
    """What is needed of the pipeline to end a handler."""

    def cancel(self, ref: int, reason: str) -> bool: ...


class Leases:
    """Keep the leases of a worker, and cancel handlers whose lease is lost or that somebody wants ended."""

    def __init__(
        self, store: Store, pipeline: Cancels, runners: Runners, lease_s: float, clock_s: Callable[[], float]
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._runners = runners
        self._lease_s = lease_s
        self._clock_s = clock_s
        self._old: dict[int, float] = {}  # former holder → when it was given up
        self._cancelled: set[int] = set()  # refs of what runs and was cancelled
        self.holder = new_holder()
        self._heartbeat = Heartbeat(
            store, (self.holder,), lease_s, on_cancel=self._asked, on_failing=self.check, clock_s=clock_s
        )

    def start(self, *, thread: bool) -> None:
        """Renew from now on."""
        self._heartbeat.start(thread=thread)

    def stop(self) -> None:
        """Renew no more."""
        self._heartbeat.stop()

    async def run(self, checked: Callable[[], None]) -> None:
        """Check every second until cancelled."""
        while True:
            await asyncio.sleep(min(self._lease_s / 12, _CHECK_S_MAX))
            self.check()
            checked()

    def check(self) -> None:
        """Cancel what has not been renewed for two thirds of its lease, counted from when its claim was asked for."""
        last_s = self._clock_s() - give_up_after_s(self._lease_s)
        if self._heartbeat.renewed_s < last_s:
            for delivery, asked_s in self._runners.running():
                if asked_s < last_s:
                    self._cancel(delivery.ref, "lease_lost")
        if self._cancelled:
            self._cancelled &= {delivery.ref for delivery, _ in self._runners.running()}
        if self._old:
            self._forget_old()

    def change_holder(self) -> None:
        """Hold what is claimed from now on under another number."""
        self._old[self.holder] = self._clock_s()
        self.holder = new_holder()
        self._heartbeat.holders = (self.holder, *self._old)

    def cancel_all(self, reason: str) -> None:
        """Cancel whatever runs."""
        for delivery, _ in self._runners.running():
            self._cancel(delivery.ref, reason)

    def long_running(self) -> frozenset[bytes]:
        """Give the ids of messages that have been running for a while, and that somebody may want ended."""
        before_s = self._clock_s() - _LONG_S
        return frozenset(
            delivery.id
            for delivery, asked_s in self._runners.running()
            if asked_s < before_s and delivery.ref not in self._cancelled
        )

    async def look_at(self, ids: frozenset[bytes]) -> None:
        """Cancel those of the messages that somebody wants ended, or that are no longer ours."""
        held = {delivery.id: delivery for delivery, _ in self._runners.running() if delivery.id in ids}
        for record in await self._store.read(list(held)):
            if record is None:
                continue
            delivery = held[record.id]
            if record.state is not State.RUNNING or record.fence != delivery.fence:
                self._cancel(delivery.ref, "lease_lost")
            elif record.cancel_asked:
                self._cancel(delivery.ref, "user")

    def _asked(self, refs: list[int]) -> None:
        for ref in refs:
            self._cancel(ref, "user")

    def _cancel(self, ref: int, reason: str) -> None:
        if ref not in self._cancelled and self._pipeline.cancel(ref, reason):
            self._cancelled.add(ref)
            if reason == "lease_lost":
                _LOG.warning("the lease of %s could not be kept; its handler is cancelled", self._named(ref))

    def _named(self, ref: int) -> str:
        held = next((delivery for delivery, _ in self._runners.running() if delivery.ref == ref), None)
        return f"row {ref}" if held is None else f"message {ids.text(held.id)} of {held.queue}"

    def _forget_old(self) -> None:
        now_s = self._clock_s()
        oldest_s = min((asked_s for _, asked_s in self._runners.running()), default=now_s)
        for holder, given_up_s in list(self._old.items()):
            if oldest_s >= given_up_s and now_s - given_up_s > _CALL_S_MAX:
                del self._old[holder]
        self._heartbeat.holders = (self.holder, *self._old)


def new_holder() -> int:
    """Give a number that no other process holds leases under."""
    return secrets.randbits(62) | 1 << 62
