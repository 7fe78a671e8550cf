"""What a memory store keeps: rows, the logs of events, notes, audits, and the last fence."""

from collections import deque

from msgspec import Struct

from ringpost.store.memory.log import Log
from ringpost.store.memory.rows import Rows
from ringpost.store.port import Audited

FIRST_FENCE = 1 << 24
_AUDITS_MAX = 10_000


class KeptNote(Struct):
    """A note as it is kept. One whose lease has ended is as good as gone, but its version still counts on."""

    value: bytes
    version: int
    until_ms: int | None

    def alive(self, now_ms: int) -> bool:
        return self.until_ms is None or self.until_ms > now_ms

    def left_s(self, now_ms: int) -> float | None:
        return None if self.until_ms is None else (self.until_ms - now_ms) / 1000


class Place:
    """All that is stored. Whoever has the turn may change it."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.log = Log()
        self.notes: dict[str, KeptNote] = {}
        self.audits: deque[tuple[bytes, Audited]] = deque(maxlen=_AUDITS_MAX)
        self.fence = FIRST_FENCE

    def next_fence(self) -> int:
        self.fence += 1
        return self.fence
