"""One turn of the memory store: a caller has all that is stored to himself, at one instant."""

import threading
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from ringpost.contract.errors import StoreError
from ringpost.core import life
from ringpost.core.life import Happening
from ringpost.core.message import Message, State
from ringpost.settings import Settings
from ringpost.store.memory.alarm import Alarm
from ringpost.store.memory.place import Place
from ringpost.store.memory.row import Row
from ringpost.store.memory.rows import Rows
from ringpost.store.port import Audited


class Turn(Struct):
    """What one call of the port works on. Whoever waits is rung at each step, not at the end: a claim in the same turn
    may take what a settlement gave back, and then there is nothing to wake for."""

    place: Place
    rows: Rows
    alarm: Alarm
    settings: Settings
    watcher: "Watcher | None"
    now_ms: int

    def step(self, row: Row, before: State | None, happening: Happening, to: State) -> None:
        """Let a row go a step along the table of `core/life.py`."""
        assert to in life.allowed(before, happening, row.kind), f"{before} -{happening}-> {to}"
        self.rows.set_state(row, to)
        if to is State.READY:
            self.alarm.ring_queue(row.queue)
        self.alarm.ring_id(row.id)

    def audit(self, id: bytes, who: str, what: str, detail: str) -> None:
        """Note what somebody did with a message."""
        self.place.audits.append((id, Audited(self.now_ms, who, what, detail)))


class Watcher(Protocol):
    """Who is told what a store takes, and may come between it and its workers: the harness, with its faults."""

    def stored(self, message: Message) -> None:
        """Hear of a message or event that is new in the store."""
        ...

    def stops(self, queue: str) -> bool:
        """Say whether nobody can claim from a queue now, as if it were paused."""
        ...

    def loses(self, turn: Turn, row: Row) -> bool:
        """Say whether the settlement of a row is lost on its way. What becomes of the row is the watcher's to do."""
        ...


class Turns:
    """Give the store to one after the other, from any thread: `with turns as turn`."""

    def __init__(
        self, place: Place, alarm: Alarm, settings: Settings, clock: Callable[[], int], watcher: Watcher | None
    ) -> None:
        self._lock = threading.Lock()
        self._place = place
        self._alarm = alarm
        self._settings = settings
        self._clock = clock
        self._watcher = watcher
        self._closed = False

    def __enter__(self) -> Turn:
        self._lock.acquire()
        try:
            if self._closed:
                raise StoreError("the memory store is closed; what was in it is gone")
            place = self._place
            return Turn(place, place.rows, self._alarm, self._settings, self._watcher, self._clock())
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def close(self) -> None:
        """Give no turn any more. Repeating it is harmless."""
        self._closed = True
