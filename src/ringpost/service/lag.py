"""How late the event loop is. While it is late claims pause: draining a queue must not ruin the latency of calls."""

import asyncio
from collections.abc import Callable

LAG_S_MAX = 0.010
_PERIOD_S = 0.020
_PERIOD_HIGH_S = 0.001


class Lag:
    """A timer that looks how late it is: 50 times a second while somebody works, more often while it was late."""

    def __init__(self, busy: Callable[[], bool], late: Callable[[], None]) -> None:
        """`busy` says whether to go on looking; `late` is called while the loop is late, and once after."""
        self._busy = busy
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self.high = False

    def watch(self) -> None:
        """Look from now on, until nobody is busy. Repeating it is harmless."""
        if self._timer is None:
            self._arm(_PERIOD_S)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.high = False

    def _arm(self, period_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(period_s, self._look, loop, loop.time() + period_s)

    def _look(self, loop: asyncio.AbstractEventLoop, planned_s: float) -> None:
        was_high, self.high = self.high, loop.time() - planned_s > LAG_S_MAX
        self._timer = None
        if self.high or self._busy():
            self._arm(_PERIOD_HIGH_S if self.high else _PERIOD_S)
        if self.high or was_high:
            self._late()
