"""How long an operation takes at a target: the 95th percentile of the last 128 good answers.

It is worked out anew at every 32nd, so that the others cost one append. Before the first 32 it says nothing.
"""

from msgspec import Struct

KEPT = 128
STEP = 32
SHARE = 0.95


class Latency(Struct):
    """The last lengths of time in seconds. `p95_s` is None until enough is known."""

    p95_s: float | None = None
    _fresh: list[float] = []
    _kept: list[float] = []

    def note(self, took_s: float) -> None:
        """Take note of one."""
        self._fresh.append(took_s)
        if len(self._fresh) >= STEP:
            self._fold()

    def _fold(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._kept = kept = [*self._kept, *fresh][-KEPT:]
        if kept:
            self.p95_s = sorted(kept)[min(int(len(kept) * SHARE), len(kept) - 1)]
