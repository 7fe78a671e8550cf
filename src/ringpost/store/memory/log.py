"""The logs of events in the memory store: one list for all, in the order in which they were published."""

from collections.abc import Iterator

from msgspec import Struct, structs

from ringpost.core.message import Message
from ringpost.store import log
from ringpost.store.log import Entry, Logged
from ringpost.store.port import CATCH_UP_BYTES_MAX


class Kept(Struct):
    """An entry, until when it is kept, and which queues got a delivery with the publish."""

    event: str
    entry: Entry
    until_ms: int
    receivers: frozenset[str]


class Log:
    """The events that are kept."""

    def __init__(self) -> None:
        self._last = 0
        self._kept: dict[int, Kept] = {}
        self._by_id: dict[bytes, Kept] = {}

    def append(self, event: Message, receivers: frozenset[str], now_ms: int) -> int:
        """Keep an event; gives its place."""
        self._last += 1
        entry = Entry(
            pos=self._last,
            id=event.id,
            keep_s=event.keep_s,
            due_ms=log.due_ms(event, now_ms),
            expires_ms=log.expires_ms(event, now_ms),
            line=event.line,
            caller=event.caller,
            headers=event.headers,
            body=event.body,
        )
        kept = Kept(event.event, entry, now_ms + event.log_s * 1000, receivers)
        self._kept[entry.pos] = self._by_id[event.id] = kept
        return entry.pos

    def take_in(self, event: str, logged: Logged) -> int:
        """Keep an entry of another store behind all others, unless it is here; gives its place."""
        known = self._by_id.get(logged.entry.id)
        if known is not None:
            return known.entry.pos
        self._last += 1
        entry = structs.replace(logged.entry, pos=self._last)
        kept = Kept(event, entry, logged.until_ms, frozenset(logged.receivers))
        self._kept[entry.pos] = self._by_id[entry.id] = kept
        return entry.pos

    def take_out(self, pos: int) -> None:
        """Remove the entry of a place, if there is one."""
        kept = self._kept.pop(pos, None)
        if kept is not None:
            del self._by_id[kept.entry.id]

    def last(self, event: str) -> Entry | None:
        """Give the last entry of an event."""
        return next((kept.entry for kept in reversed(self._kept.values()) if kept.event == event), None)

    def known(self, id: bytes) -> Entry | None:
        """Give the entry of an id, if it is there."""
        kept = self._by_id.get(id)
        return None if kept is None else kept.entry

    def step(self, event: str, after: int, limit: int) -> list[Kept]:
        """Give what comes next of an event, up to the bounds of a step."""
        found: list[Kept] = []
        size = 0
        for kept in self._of(event, after):
            if len(found) == limit or size >= CATCH_UP_BYTES_MAX:
                break
            found.append(kept)
            size += len(kept.entry.headers) + len(kept.entry.body)
        return found

    def ends_at(self, event: str, pos: int) -> bool:
        """Say whether nothing of an event comes after a place."""
        return next(self._of(event, pos), None) is None

    def purge(self, now_ms: int) -> bool:
        """Remove one whose time is over; False: there is none."""
        over = next((kept for kept in self._kept.values() if kept.until_ms < now_ms), None)
        if over is not None:
            del self._kept[over.entry.pos], self._by_id[over.entry.id]
        return over is not None

    def _of(self, event: str, after: int) -> Iterator[Kept]:
        return (kept for pos, kept in self._kept.items() if pos > after and kept.event == event)
