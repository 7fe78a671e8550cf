"""Breakers and a store's notes: what operators ask for is read there, and what isn't closed here is shown there.

Both at most once a second and only while something is called over HTTP; a change is written at once. The note of a
process is leased, so that it ends soon after the process.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from functools import cache

from ringpost.client.guards import Guards, readings
from ringpost.contract.errors import RingpostError
from ringpost.core import notes
from ringpost.core.breaker import Forced
from ringpost.store.port import Note, Store

LOOK_S = 1.0
LEASE_S = 60.0


class BreakerNotes:
    """Of one event loop, on one store. `due_s` is when it is to look again."""

    def __init__(self, store: Store, guards: Guards) -> None:
        self.due_s = float("-inf")
        self._store = store
        self._name = notes.breakers(_process(os.getpid()))
        self._guards = guards
        self._loop = asyncio.get_running_loop()
        self._written_s = float("-inf")
        self._written = False
        self._changed = False
        self._looking: asyncio.Task[None] | None = None
        self._listener: Callable[[], None] = self._heard
        guards.listen(self._listener)

    def look(self) -> None:
        """Read and write beside what goes on."""
        self.due_s = self._loop.time() + LOOK_S
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def close(self) -> None:
        """Look no more, and leave nothing behind."""
        self._guards.unlisten(self._listener)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        if self._written:
            with contextlib.suppress(RingpostError):  # its lease ends by itself
                await self._store.note_drop(self._name)

    def _heard(self) -> None:
        """A breaker has changed, perhaps in another thread."""
        self._changed = True
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self.look)

    async def _look(self) -> None:
        with contextlib.suppress(RingpostError):  # a store that can't be read must not stop calls
            found = await self._store.notes(notes.OVERRIDE)
            forced: dict[str, Forced] = {}
            for note in found:
                said = notes.decode_override(note.value).forced
                if said:
                    forced[note.name.removeprefix(notes.OVERRIDE)] = said
            self._guards.force(self._store.facts.url, forced, self._loop.time())
            await self._write()

    async def _write(self) -> None:
        now_s = self._loop.time()
        if not self._changed and not (self._written and now_s - self._written_s > LEASE_S / 3):
            return
        self._changed = False
        now_ms = time.time_ns() // 1_000_000
        shown = tuple(
            notes.ShownBreaker(
                watch.operation,
                watch.target,
                reading.state,
                reading.forced,
                now_ms - round((now_s - reading.since_s) * 1000) if reading.state != "closed" else 0,
                reading.error,
            )
            for watch, reading in readings(self._guards, now_s)
            if reading.state != "closed" or reading.forced
        )
        if shown:
            value = notes.encode(notes.Breakers(socket.gethostname(), os.getpid(), shown))
            await self._store.note_put(Note(self._name, value, lease_s=LEASE_S))
            self._written, self._written_s = True, now_s
        elif self._written:
            await self._store.note_drop(self._name)
            self._written = False


@cache
def _process(pid: int) -> str:
    """Name this process: workers that were forked have names of their own, to write notes of their own."""
    return f"{socket.gethostname()}-{pid}-{secrets.token_hex(4)}"
