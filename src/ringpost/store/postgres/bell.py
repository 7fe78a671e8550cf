"""Wake-ups between processes: LISTEN and NOTIFY, coalesced and never in a commit that anybody waits for.

A NOTIFY in a transaction takes a lock on the whole database while it commits, so it is sent on its own, at most every
50 ms. It is a hint: what it says is which queues and ids may be looked at, and polling finds all that it misses, also
where no notification ever comes through, as behind a pooler.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ringpost.contract.errors import StoreError
from ringpost.store.postgres.db import Db, Lost, is_lost
from ringpost.store.postgres.link import Link
from ringpost.store.postgres.server import Server

GAP_S = 0.05
_IDS_MAX = 200  # in one notification, which holds 8,000 bytes
_CHECK_S = 5.0  # how often a listener's connection is looked at
_SEND = "SELECT pg_notify($1, $2), set_config('synchronous_commit', 'off', true)"

_log = logging.getLogger("ringpost.store")


class Ring(msgspec.Struct, omit_defaults=True):
    """What a notification says. `sender`: who need not hear it. `many`: more ids changed than it names."""

    sender: str
    queues: list[str] = []
    ids: list[str] = []  # the first eight bytes of each, in hex
    many: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Ring).decode


class Bell:
    """Rings in other processes, and hears theirs. `heard` is called with queues, heads of ids, and whether more
    changed."""

    def __init__(
        self, server: Server, link: Link, name: str, heard: Callable[[list[str], set[bytes], bool], None]
    ) -> None:
        self._server = server
        self._link = link
        self._name = name
        self._heard = heard
        self._queues: set[str] = set()
        self._ids: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rung_s = -GAP_S
        self._tasks: set[asyncio.Task[None]] = set()
        self.hears = False  # notifications come through

    def start(self) -> None:
        if self._server.listens:
            self._spawn(self._listen())

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def ring(self, queues: Iterable[str], ids: Iterable[bytes]) -> None:
        """Say that something changed, at once or as soon as the last ring is long enough ago."""
        self._queues.update(queues)
        if len(self._ids) <= _IDS_MAX:
            self._ids.update(ids)
        if self._timer is None and (self._queues or self._ids):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._rung_s + GAP_S, loop.time()), self._send)

    def _send(self) -> None:
        self._timer = None
        self._rung_s = asyncio.get_running_loop().time()
        many = len(self._ids) > _IDS_MAX
        ring = Ring(self._name, sorted(self._queues), [] if many else [id[:8].hex() for id in self._ids], many)
        self._queues, self._ids = set(), set()
        text = _encode(ring).decode()
        if len(text) > 7900:
            text = _encode(Ring(self._name, many=True)).decode()  # no names: who hears it looks for itself
        self._spawn(self._notify(text))

    async def _notify(self, text: str) -> None:
        async def send(db: Db) -> Any:
            return await db.fetch(_SEND, self._server.schema, text)

        try:
            await self._link.read(send, 0.0)
        except StoreError as exc:
            _log.debug("nobody was woken: %s", exc)

    # --- hearing

    async def _listen(self) -> None:
        """Listen for ever, on a connection that is opened anew when it breaks."""
        link = Link(self._server.connect_to_listen)
        try:
            while True:
                try:
                    async with link.lock:
                        db = await link.get(asyncio.get_running_loop().time())
                        await db.driver.add_listener(self._server.schema, self._notified)
                        self._spawn(self._notify(_encode(Ring("")).decode()))  # does it come through here?
                        while not db.closed:
                            await asyncio.sleep(_CHECK_S)
                            await db.fetch("SELECT 1")
                except Exception as exc:
                    if not (isinstance(exc, (Lost, StoreError)) or is_lost(exc)):
                        raise
                    _log.debug("notifications have stopped: %s", exc)
                self.hears = False
                self._heard([], set(), True)  # what was said meanwhile is not known
                await asyncio.sleep(GAP_S)
        finally:
            await link.close()

    def _notified(self, _driver: object, _pid: int, _channel: str, text: str) -> None:
        self.hears = True
        try:
            ring = _decode(text)
        except msgspec.DecodeError:  # of another version, or of somebody else: only a hint that something changed
            ring = Ring("", many=True)
        if ring.sender != self._name:
            self._heard(ring.queues, {bytes.fromhex(id) for id in ring.ids}, ring.many)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
