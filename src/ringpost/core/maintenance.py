"""Maintenance windows: a service is closed until an instant; then what waited is drained, at a rate that was set.

Instants ending in `_ms` are of the wall clock, as they are the same for all processes; `_s` are of a monotonic one.
"""

from math import inf

from msgspec import Struct

RETRY_AFTER_S_LEAST = 1.0
RETRY_AFTER_S_MOST = 3600.0
"""A caller comes to see once an hour: a window may end before its time."""
DRAIN_S_MAX = 24 * 3600.0
"""How long after the end of a window the rate holds at most, where more comes than it lets through."""
_BURST_S = 0.25  # longer than the time from one claim to the next: else what a late one missed would be lost


class Window(Struct, frozen=True, omit_defaults=True):
    """A service is closed until `until_ms`. `rate`: messages per second that each of its queues is drained with
    afterwards, until nothing waits any more; 0: as fast as it goes. It is kept as a note of the store."""

    until_ms: int = 0
    rate: float = 0.0
    reason: str = ""
    who: str = ""
    at_ms: int = 0

    def closed(self, now_ms: int) -> bool:
        """Say whether the window is open, and the service closed."""
        return now_ms < self.until_ms

    def draining(self, now_ms: int) -> bool:
        """Say whether what waited is to be drained at the rate."""
        return 0 <= now_ms - self.until_ms < DRAIN_S_MAX * 1000 and self.rate > 0

    def over(self, now_ms: int) -> bool:
        """Say whether it says nothing any more."""
        return not self.closed(now_ms) and not self.draining(now_ms)

    def retry_after_s(self, now_ms: int) -> float:
        """Say when a caller shall come again."""
        return min(max((self.until_ms - now_ms) / 1000, RETRY_AFTER_S_LEAST), RETRY_AFTER_S_MOST)


class Drain(Struct):
    """How many messages of a queue may be claimed, so many a second. It begins with one and saves up little."""

    rate: float
    _saved: float = 1.0
    _seen_s: float = -inf

    def allowance(self, now_s: float) -> int:
        """Say how many may be claimed now."""
        if self._seen_s > -inf:
            most = self.rate * _BURST_S + 1.0
            self._saved = min(self._saved + (now_s - self._seen_s) * self.rate, most)
        self._seen_s = now_s
        return int(self._saved + 1e-9)

    def took(self, count: int) -> None:
        """Take note of how many were claimed."""
        self._saved -= count
