"""What a test makes go wrong, by queue and service; chance comes from the harness's seed."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from random import Random

from ringpost.service.context import Context


class Faults:
    """The faults that are in force now. `services`: queue → service."""

    def __init__(self, services: Mapping[str, str], seed: int) -> None:
        self._services = services
        self._random = Random(seed)
        self._down: Counter[str] = Counter()
        self._slow_s: defaultdict[str, float] = defaultdict(float)
        self._repeating: dict[str, float] = {}
        self._repeated: set[bytes] = set()
        self._crashing: Counter[str] = Counter()

    # --- what the test says

    def set_down(self, service: str, by: int) -> None:
        self._down[service] += by

    def set_slow(self, service: str, seconds: float) -> None:
        self._slow_s[service] += seconds

    def set_repeating(self, service: str, share: float) -> None:
        """Repeat so large a share of the messages; 0: none."""
        self._repeating[service] = share

    def set_crashing(self, service: str, count: int) -> None:
        self._crashing[service] = count

    # --- what store, host and handlers ask

    def down(self, queue: str) -> bool:
        """Say whether nobody works at a queue."""
        return self._down[self._services.get(queue, "")] > 0

    def crashes(self, queue: str) -> bool:
        """Say whether the worker dies now that a handler of the queue is done; each time counts."""
        service = self._services.get(queue, "")
        if self._crashing[service] <= 0:
            return False
        self._crashing[service] -= 1
        return True

    def repeats(self, queue: str, id: bytes) -> bool:
        """Say whether a message is to be handled once more; of each it is said at most once."""
        share = self._repeating.get(self._services.get(queue, ""), 0.0)
        if share <= 0 or id in self._repeated:
            return False
        self._repeated.add(id)
        return self._random.random() < share

    def middleware(self, service: str) -> Callable[[Context, Callable[[], Awaitable[object]]], Awaitable[object]]:
        """Give what runs around the handlers of a service and slows them."""

        async def slowed(ctx: Context, proceed: Callable[[], Awaitable[object]]) -> object:
            if self._slow_s[service] > 0:
                await asyncio.sleep(self._slow_s[service])
            return await proceed()

        return slowed
