"""Which subscriptions are attended: a process says that its own are, and suspends those that nobody attends any more.

Every process does both, each hour. Each change is a compare-and-set, so several may, and a service that comes back in
the same moment wins.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from ringpost.core import notes
from ringpost.core.subscription import abandoned, seen
from ringpost.service.handler import Handler
from ringpost.store.port import Note, Store

_LOG: Final = logging.getLogger("ringpost.subscriptions")
_ATTEMPTS_MAX: Final = 20
_LOOKS_APART: Final = 2  # in this many looks, each an hour, whoever lives was seen once


class Attendance:
    """The subscriptions of one process, and its look at all others'."""

    def __init__(self, store: Store, handlers: Iterable[Handler], clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._clock_ms = clock_ms
        self._own = {
            notes.subscription(handler.name, handler.queue): handler for handler in handlers if handler.work == "event"
        }
        self._looks: list[dict[str, int]] = []

    async def say_seen(self) -> None:
        """Subscribe, or say that the subscribers are here; who was suspended gets events from now on."""
        for name, handler in self._own.items():
            await self._see(name, handler)

    async def look(self) -> None:
        """Suspend what nobody attends. To be called once an hour."""
        found = {note.name: note for note in await self._store.notes(notes.SUBSCRIPTION)}
        others = {name: notes.decode_subscription(note.value) for name, note in found.items() if name not in self._own}
        earlier_ms = self._looks.pop(0) if len(self._looks) == _LOOKS_APART else {}
        self._looks.append({name: one.seen_ms for name, one in others.items()})
        for name, suspended in abandoned(others, earlier_ms, self._clock_ms()).items():
            note = Note(name, notes.encode(suspended))
            if await self._store.note_put(note, expect=found[name].version):
                event, queue = notes.subscribed(name)
                _LOG.warning(
                    "%s was not seen for seven days: it is suspended and gets no %s until it starts again", queue, event
                )

    @property
    def names(self) -> Collection[str]:
        """The names of the subscriptions of this process."""
        return self._own.keys()

    async def _see(self, name: str, handler: Handler) -> None:
        """Write one subscription. A publisher that counts what it missed may come between, so it is tried again."""
        for _ in range(_ATTEMPTS_MAX):
            known = {note.name: note for note in await self._store.notes(name)}.get(name)
            before = None if known is None else notes.decode_subscription(known.value)
            after = seen(before, handler.service, self._clock_ms(), from_beginning=handler.from_beginning)
            note = Note(name, notes.encode(after))
            if await self._store.note_put(note, expect=0 if known is None else known.version):
                if before is not None and before.suspended:
                    _warn_of_gap(name, before)
                return
        _LOG.warning("%s could not be written: others kept changing it; it is tried again in an hour", name)


def _warn_of_gap(name: str, before: notes.Subscription) -> None:
    event, queue = notes.subscribed(name)
    fate = f"in its log: `ringpost subscriptions refill {event} {queue}`" if before.gap_at else "lost to it"
    _LOG.warning(
        "%s was suspended and gets %s again; %d that were published meanwhile are %s",
        queue,
        event,
        before.gap_count,
        fate,
    )
