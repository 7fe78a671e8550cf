"""What a relay tells its log: how far it is, what is late, what is in the way."""

import logging
import time
from collections.abc import Sequence

from ringpost.contract.errors import RingpostError
from ringpost.relay.port import TableAway, Waiting
from ringpost.relay.row import Row

EVERY_S = 10.0
LATE_S = 60.0  # from when on a row that waits is worth a warning
_LOG = logging.getLogger("ringpost.relay")


class Telling:
    """The voice of one relay."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._next_s = 0.0
        self._told = 0  # of what was relayed
        self.in_the_way = ""  # why it can't go on; empty while it can

    def goes_on(self) -> None:
        """Tell that nothing is in the way any more, if anything was."""
        if self.in_the_way:
            _LOG.info("relaying from %s goes on", self._shown)
            self.in_the_way = ""

    def progress(self, relayed: int, waiting: Waiting, now_ms: int) -> None:
        """Tell how many were relayed and how many have just been found to wait, now and then, where there is anything
        to tell."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        is_late = waiting.oldest_ms is not None and now_ms - waiting.oldest_ms > LATE_S * 1000
        if relayed == self._told and not is_late:
            return
        self._next_s = now_s + EVERY_S
        count, self._told = relayed - self._told, relayed
        level = logging.WARNING if is_late else logging.INFO
        _LOG.log(level, "%d messages relayed from %s; %s", count, self._shown, said(waiting, now_ms))

    def aside(self, rows: Sequence[tuple[Row, str]]) -> None:
        """Tell which rows nobody relays any more."""
        for row, why in rows:
            _LOG.error("the message %s for %s in %s was set aside: %s", row.id, row.target, self._shown, why)

    def trouble(self, error: Exception) -> None:
        """Tell what is in the way, once for as long as it is the same."""
        why = str(error) or type(error).__name__
        if why == self.in_the_way:
            return
        self.in_the_way = why
        if isinstance(error, TableAway | RingpostError):
            _LOG.warning("nothing can be relayed from %s now, what is there waits: %s", self._shown, why)
        else:
            _LOG.error(
                "relaying from %s failed by a fault of Ringpost, and is tried again", self._shown, exc_info=error
            )


def said(waiting: Waiting, now_ms: int) -> str:
    """Say how many wait, and for how long."""
    text = f"{waiting.count:,} wait"
    if waiting.oldest_ms is not None:
        text += f", the oldest for {max(0, now_ms - waiting.oldest_ms) / 1000:.0f} s"
    return f"{text}; {waiting.aside:,} are set aside" if waiting.aside else text
