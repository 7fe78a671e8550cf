"""Offering rows to the store: which are in it, which have to wait, which are in trouble.

Rows of one ordering key are offered in the order of their `seq`. If one finds no room in its queue, all that come after
it in its line wait with it, and all for its queue.
"""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from ringpost.contract.errors import StoreError
from ringpost.core import ids
from ringpost.core.message import Message
from ringpost.relay.row import FOR_SURE_S, Row, message_of
from ringpost.store.port import Put, Refused, Store

Troubled = tuple[Row, str]

_WHY: dict[Refused, str] = {
    "key_reused": "its idempotency key was used before with another request: a key stands for one request",
    "mismatch": "the store has a message of this id with another content",
}


class _Ready(Struct):
    """A row, and the message that it is."""

    row: Row
    message: Message


class Offer:
    """Offer the rows of one round, page by page."""

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.full: set[str] = set()  # targets for which there was no room
        self._held: set[bytes] = set()  # lines of which one waits
        self._done: list[Row] = []
        self._aside: list[Troubled] = []

    async def put(self, rows: Sequence[Row]) -> tuple[list[Row], list[Troubled]]:
        """Offer a page; gives those that are in the store, and those in trouble. The others wait. Raises StoreError:
        then any of them may be in it."""
        self._done, self._aside = [], []
        ready = await self._without_old(list(self._read(rows)))
        for part in _parts(ready):
            waiting = [one for one in part if not self._waits(one)]
            if waiting:
                await self._offer(waiting)
        return self._done, self._aside

    def _read(self, rows: Sequence[Row]) -> Iterator[_Ready]:
        now_ms = self._now_ms()
        for row in rows:
            try:
                yield _Ready(row, message_of(row, now_ms))
            except ValueError as error:
                self._aside.append((row, f"it can't be read: {error}"))

    async def _without_old(self, ready: list[_Ready]) -> list[_Ready]:
        """Take out what was offered so long ago that the store may have forgotten it: it must not take effect twice."""
        before_ms = self._now_ms() - FOR_SURE_S * 1000
        old = [one for one in ready if one.row.offered_ms is not None and one.row.offered_ms < before_ms]
        if not old:
            return ready
        records = await self._store.read([one.message.id for one in old])
        for one, record in zip(old, records, strict=True):
            if record is None:
                days = f"{(self._now_ms() - (one.row.offered_ms or 0)) / 86_400_000:.0f}"
                self._aside.append((one.row, f"the store may have taken it {days} days ago, and forgotten it since"))
            else:
                self._done.append(one.row)
        gone = {one.row.seq for one in old}
        return [one for one in ready if one.row.seq not in gone]

    def _waits(self, one: _Ready) -> bool:
        """Say whether a row has to wait for one before it; then so do those behind it."""
        waits = one.row.target in self.full or (one.message.line is not None and one.message.line in self._held)
        if waits and one.message.line is not None:
            self._held.add(one.message.line)
        return waits

    async def _offer(self, part: Sequence[_Ready]) -> None:
        try:
            puts = await self._store.put([one.message for one in part])
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 (a border: one row that no store takes must not stop the others)
            if len(part) == 1:
                self._aside.append((part[0].row, f"{type(error).__name__}: {ids.text(part[0].message.id)}: {error}"))
                return
            for one in part:
                if not self._waits(one):
                    await self._offer([one])
            return
        for one, put in zip(part, puts, strict=True):
            self._take(one, put)

    def _take(self, one: _Ready, put: Put) -> None:
        if not put.refused:
            self._done.append(one.row)
        elif put.refused in _WHY:
            self._aside.append((one.row, _WHY[put.refused]))
        else:  # no room: in the queue, or on the disk
            self.full.add(one.row.target)
            if one.message.line is not None:
                self._held.add(one.message.line)


def _parts(ready: Sequence[_Ready]) -> Iterator[list[_Ready]]:
    """Cut where a line goes on in another queue: whether there is room for one is known before the next is offered."""
    part: list[_Ready] = []
    queues: dict[bytes, str] = {}
    for one in ready:
        line = one.message.line
        if line is not None and queues.setdefault(line, one.row.target) != one.row.target:
            yield part
            part, queues = [], {line: one.row.target}
        part.append(one)
    if part:
        yield part
