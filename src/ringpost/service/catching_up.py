"""Catching up with the log of an event: a subscription that began at its beginning, or is refilled, is given it.

Each process does so for its own subscribers, a step after the other beside all else, and rests between two: what is new
to others doesn't wait for what is old to one. How far it has come is in the store, so another process, or this one
after a restart, goes on from there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Final

from ringpost.contract.errors import RingpostError
from ringpost.core import notes
from ringpost.store.logged import log_error
from ringpost.store.port import CaughtUp, Store

_LOG: Final = logging.getLogger("ringpost.subscriptions")
STEP_ROWS = 1000
_LOOK_S: Final = 5.0  # how soon what a command has set behind is gone on with
_REST_S: Final = 0.02
_WAIT_S: Final = 1.0  # while its queue is full, or somebody is publishing; then twice as long
_WAIT_S_MAX: Final = 30.0


class CatchingUp:
    """The subscriptions of one process that are behind: `run()` is one task of it."""

    def __init__(self, store: Store, names: Iterable[str]) -> None:
        """`names`: of the notes of this process's subscriptions."""
        self._store = store
        self._names = frozenset(names)
        self._going: dict[str, asyncio.Task[None]] = {}

    async def begin(self) -> None:
        """Take one step for each that is behind: with a short log that is all, and it is live from the start."""
        for name in await self._behind():
            await self._step(name)

    async def run(self) -> None:
        """Bring all to the end of their logs, those that fall behind later too, until cancelled."""
        if not self._names:
            return
        try:
            while True:
                with contextlib.suppress(RingpostError):
                    await self._look()
                await asyncio.sleep(_LOOK_S)
        finally:
            for task in self._going.values():
                task.cancel()
            if self._going:
                await asyncio.wait(self._going.values())

    async def _look(self) -> None:
        self._going = {name: task for name, task in self._going.items() if not task.done()}
        for name in await self._behind():
            if name not in self._going:
                self._going[name] = asyncio.get_running_loop().create_task(self._go_on(name), name=f"ringpost-{name}")

    async def _behind(self) -> list[str]:
        if not self._names:
            return []
        found = [note for note in await self._store.notes(notes.SUBSCRIPTION) if note.name in self._names]
        return [note.name for note in found if notes.decode_subscription(note.value).behind]

    async def _go_on(self, name: str) -> None:
        """Take step after step until it is live, whatever stands in the way meanwhile."""
        wait_s = _WAIT_S
        while True:
            try:
                done = await self._step(name)
            except RingpostError as error:
                log_error(_LOG, logging.WARNING, error, "%s could not catch up; it is tried again", name)
                done = CaughtUp(behind=True)
            if not done.behind:
                return
            if done.more:
                wait_s = _WAIT_S
                await asyncio.sleep(_REST_S)
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _WAIT_S_MAX)

    async def _step(self, name: str) -> CaughtUp:
        event, queue = notes.subscribed(name)
        done = await self._store.catch_up(event, queue, STEP_ROWS)
        if done.damaged:
            _LOG.error("%d in the log of %s are damaged: %s does not get them", done.damaged, event, queue)
        if not done.behind:
            _LOG.info("%s has caught up with the log of %s", queue, event)
        return done
