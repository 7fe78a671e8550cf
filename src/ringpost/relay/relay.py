"""The relay: brings what stands in an outbox table to the store, each message once, and in order.

It goes through the table in pages: offers one to the store, and deletes with the next turn what the store has given a
receipt for. Whatever it dies between, a row is deleted only once its message is in the store, and the store knows again
what it is offered twice, by its id. Each page is the first that there is: nobody reads on from a position, so that what
began early and commits late isn't passed over. Only rows that wait for room are passed, for the length of a round.

One process on a store relays from a table, by a note with a lease; should two do so for a while, the one repeats what
the other did.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable

from ringpost.contract.errors import RingpostError
from ringpost.core import notes
from ringpost.relay.offer import Offer
from ringpost.relay.port import Table, TableAway, Waiting
from ringpost.relay.row import Row
from ringpost.relay.telling import Telling
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Note, Store

POLL_S = 0.25
LEASE_S_MAX = 10.0  # who dies is followed that soon
PAGES_MAX = 100  # of a round
_PAUSE_S_FIRST, _PAUSE_S_MAX = 0.25, 10.0
_LOG = logging.getLogger("ringpost.relay")


class Relay:
    """Relay from one table to one store: `run()` is one task of a process. The store is open, and stays so."""

    def __init__(
        self, table: Table, store: Store, *, lease_s: float = LEASE_S_MAX, now_ms: Callable[[], int] = wall_ms
    ) -> None:
        self._table = table
        self._store = store
        self._lease_s = min(lease_s, LEASE_S_MAX)
        self._now_ms = now_ms
        self._note = notes.relay(table.shown)
        self._me = secrets.token_hex(8)
        self._leads_until_s = float("-inf")
        self._done: list[Row] = []  # in the store, and to be deleted
        self._waiting = Waiting(0, None, 0)
        self._telling = Telling(table.shown)
        self.relayed = 0

    async def run(self) -> None:
        """Relay until cancelled. What is in the way, here or in the store, is told and tried again."""
        pause_s = _PAUSE_S_FIRST
        try:
            while True:
                try:
                    idle = not await self._lead() or not await self.round()
                except Exception as error:  # noqa: BLE001 (a border: whatever is in the way, it is tried again)
                    self._telling.trouble(error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _PAUSE_S_MAX)
                    continue
                pause_s = _PAUSE_S_FIRST
                self._telling.goes_on()
                if idle:
                    await asyncio.sleep(POLL_S)
        finally:
            await asyncio.shield(self._leave())

    async def round(self) -> bool:
        """Relay what is there; False where nothing could be moved. Raises TableAway, StoreError."""
        offer = Offer(self._store, self._now_ms)
        after, moved = 0, False
        for _ in range(PAGES_MAX):
            done, self._done = self._done, []
            try:
                rows = await self._table.turn(done, after, offer.full, self._now_ms())
            except TableAway:
                self._done = done
                raise
            if not rows:
                break
            self._done, aside = await offer.put(rows)
            self.relayed += len(self._done)
            moved = moved or bool(self._done)
            if aside:
                await self._table.set_aside(aside)
                self._telling.aside(aside)
            if len(self._done) + len(aside) < len(rows):
                after = rows[-1].seq
        return moved

    # --- one process relays

    async def _lead(self) -> bool:
        """Be the one who relays, for as long as the note is renewed."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._leads_until_s:
            return True
        kept = next((note for note in await self._store.notes(self._note) if note.name == self._note), None)
        if kept is not None and notes.decode_relay(kept.value).process != self._me:
            return False
        try:
            self._waiting = await self._table.waiting()
            self._telling.progress(self.relayed, self._waiting, self._now_ms())
        except TableAway as error:
            self._telling.trouble(error)
        note = Note(self._note, self._said(), lease_s=self._lease_s)
        leads = await self._store.note_put(note, expect=0 if kept is None else kept.version)
        if leads:
            self._leads_until_s = now_s + self._lease_s / 3
        return leads

    def _said(self) -> bytes:
        """Say how it stands, for who stands in front of the store."""
        return notes.encode(
            notes.Relay(
                process=self._me,
                host=socket.gethostname(),
                pid=os.getpid(),
                at_ms=self._now_ms(),
                waiting=self._waiting.count,
                oldest_ms=self._waiting.oldest_ms,
                aside=self._waiting.aside,
                trouble=self._telling.in_the_way,
            )
        )

    async def _leave(self) -> None:
        """Go, so that another one need not wait for the lease to end."""
        try:
            await self._table.close()
            kept = next((note for note in await self._store.notes(self._note) if note.name == self._note), None)
            if kept is not None and notes.decode_relay(kept.value).process == self._me:
                await self._store.note_drop(self._note)
        except (TableAway, RingpostError):
            _LOG.debug("the note of who relays ends with its lease", exc_info=True)
