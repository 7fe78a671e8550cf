"""What the notes say that every put and claim must know: who subscribes, which queues are paused, who hears of deaths.

Kept in memory between turns; a version in the file says whether another process has changed a note since.
"""

from collections import defaultdict
from typing import Any

from ringpost.core import notes
from ringpost.store.sqlite.db import Db
from ringpost.store.sqlite.schema import read_meta

_SUBSCRIPTION, _QUEUE, _PAUSE = "subscription/", "queue/", "pause/"
_WATCHED = (_SUBSCRIPTION, _QUEUE, _PAUSE)
_READ = (
    "SELECT name, value, lease_ms FROM ringpost_note WHERE (name >= 'pause/' AND name < 'pause0')"
    " OR (name >= 'queue/' AND name < 'queue0') OR (name >= 'subscription/' AND name < 'subscription0') ORDER BY name"
)


def concerns(name: str) -> bool:
    """Say whether a note is one of those that are kept here, so that a change of it has to be announced."""
    return name.startswith(_WATCHED)


class Register:
    """The notes of one file that bear on puts and claims."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._version: Any = None
        self._subscribers: dict[str, list[str]] = {}
        self._suspended: dict[str, list[str]] = {}
        self._behind: dict[str, list[str]] = {}
        self._failure_queues: dict[str, str] = {}
        self._halting: set[str] = set()
        self._paused: dict[str, int | None] = {}

    def look(self) -> None:
        """Read the notes again if they have changed. Called once a turn, within the transaction."""
        version = read_meta(self._db, "notes")
        if version != self._version:
            self._load()
            self._version = version

    def forget(self) -> None:
        self._version = None

    def subscribers(self, event: str) -> list[str]:
        return self._subscribers.get(event, [])

    def suspended(self, event: str) -> list[str]:
        """Give the queues whose subscription is suspended: they get no delivery, their gap is counted."""
        return self._suspended.get(event, [])

    def behind(self, event: str) -> list[str]:
        """Give the queues whose subscription catches up: they get it out of the log."""
        return self._behind.get(event, [])

    def halts(self, queue: str) -> bool:
        """Say whether a dead head keeps its line waiting."""
        return queue in self._halting

    def failure_queue(self, queue: str) -> str:
        return self._failure_queues.get(queue, "")

    def paused(self, queue: str, uptime_ms: int) -> bool:
        if queue not in self._paused:
            return False
        lease_ms = self._paused[queue]
        return lease_ms is None or lease_ms > uptime_ms

    def _load(self) -> None:
        subscribers: defaultdict[str, list[str]] = defaultdict(list)
        suspended: defaultdict[str, list[str]] = defaultdict(list)
        behind: defaultdict[str, list[str]] = defaultdict(list)
        self._failure_queues.clear()
        self._halting.clear()
        self._paused.clear()
        for name, value, lease_ms in self._db.execute(_READ).fetchall():
            kind, _, rest = name.partition("/")
            if kind == "subscription":
                event, _, queue = rest.partition("/")
                one = notes.decode_subscription(value)
                if one.live:
                    subscribers[event].append(queue)
                elif one.misses:
                    suspended[event].append(queue)
                elif not one.suspended:
                    behind[event].append(queue)
            elif kind == "queue":
                described = notes.decode_queue(value)
                self._failure_queues[rest] = described.on_failure
                if described.halt:
                    self._halting.add(rest)
            else:
                self._paused[rest] = lease_ms
        self._subscribers, self._suspended, self._behind = dict(subscribers), dict(suspended), dict(behind)
