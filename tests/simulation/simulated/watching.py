"""What is looked at from within while a run goes on: calls and their attempts, and probes of breakers."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ringpost.client.attempt import Attempt
from ringpost.client.outbound import Outbound
from ringpost.client.transport import Transport
from simulated.history import History
from simulated.machine import Loop, current


@contextmanager
def watched(history: History, loop: Loop) -> Generator[None]:
    """Note every call that goes out, every attempt at it, and whether breakers let one probe out at a time."""
    attempt, repeated, exchange = Outbound.attempt, Outbound.repeated, Transport.exchange
    repeating: set[object] = set()  # tasks: what they attempt is no new call

    def attempted(self: Outbound, out: Any) -> Any:
        target = self._addresses.get(out.contract)
        if target is not None and asyncio.current_task() not in repeating:
            history.calls[_way(target.url)] += 1
        return attempt(self, out)

    async def repeats(self: Outbound, out: Any, missed: Any) -> Any:
        task = asyncio.current_task()
        repeating.add(task)
        try:
            return await repeated(self, out, missed)
        finally:
            repeating.discard(task)

    async def exchanged(self: Transport, origin: Any, data: bytes, *rest: Any) -> Any:
        this = rest[-1] if rest else None
        if not isinstance(this, Attempt):
            return await exchange(self, origin, data, *rest)
        url = _way(this.target.url)
        name = f"{this.out.name} {url}"
        history.attempts[url] += 1
        if not this.probe:
            if not this.guard.breaker.passing:
                history.broken.append(f"{loop.now_s:.3f} a call of {name} passed an open breaker")
            answer = await exchange(self, origin, data, *rest)
            history.good[url] += 1
            return answer
        until_s = _probes_until_s(this)
        probes = history.probes[name]
        probes.append(until_s)
        at_once = sum(until_s > loop.now_s for until_s in probes)
        if at_once > 1:
            history.broken.append(f"{loop.now_s:.3f} {at_once} probes of {name} at once")
        try:
            answer = await exchange(self, origin, data, *rest)
            history.good[url] += 1
            return answer
        finally:
            probes.remove(until_s)

    with (
        mock.patch.object(Outbound, "attempt", attempted),
        mock.patch.object(Outbound, "repeated", repeats),
        mock.patch.object(Transport, "exchange", exchanged),
    ):
        yield


def _probes_until_s(this: Attempt) -> float:
    """Say until when an attempt is a probe. One that waits at the other side for a ticket to end is no probe any more
    once a call would have been slow: then it says nothing, and another may go out beside it."""
    return this.until_s if this.out.timed else min(this.until_s, this.began_s + this.guard.breaker.rule.slow_s)


def _way(url: str) -> str:
    process = current()
    assert process is not None
    return f"from {process} to {url}"
