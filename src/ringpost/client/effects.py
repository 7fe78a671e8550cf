"""The effects of messages, as their store knows them: looked at, and waited for."""

import asyncio
import time
from collections.abc import Mapping

from ringpost.core import after, ids, notes
from ringpost.core.after import Awaited, Standing
from ringpost.core.message import Answer
from ringpost.store.port import Store

POLL_S = 1.0  # a wake-up is a hint that may be lost


class Effects:
    """Answer for one store."""

    def __init__(self, store: Store | None) -> None:
        """`store` None: nothing is here."""
        self._store = store

    @property
    def store_id(self) -> str:
        """The id of the store, empty where there is none."""
        return "" if self._store is None else self._store.facts.store_id

    async def refusal(self, asked: after.After, deadline_s: float, operation: str) -> Answer | None:
        """Wait at most 5 s, and within the deadline, until the effects are there. Gives None then, else why not.

        Raises StoreError.
        """
        store = self._store
        if store is None or store.facts.store_id != asked.store_id:
            return after.not_here(operation)
        standings = await _Wait(store, asked).standings(deadline_s)
        return None if after.verdict_of(standings) == "there" else after.refusal(standings, operation)


class _Wait:
    """One call's wait: what has succeeded isn't looked at again."""

    def __init__(self, store: Store, asked: after.After) -> None:
        self._store = store
        self._asked = asked.awaited
        self._done: set[bytes] = set()

    async def standings(self, deadline_s: float) -> Mapping[Awaited, Standing]:
        """Wait until all have succeeded, or one has ended otherwise, or the time is over."""
        clock = asyncio.get_running_loop().time
        until_s = after.until_s(clock(), deadline_s)
        while True:
            rows = await self._rows()
            left_s = until_s - clock()
            async with _Listening(self._store, self._open_ids(rows), left_s) as listening:
                standings = await self._look(rows)
                if after.verdict_of(standings) != "not_yet" or left_s <= 0:
                    return standings
                await listening.heard()

    async def _rows(self) -> dict[Awaited, list[bytes]]:
        """Give the ids of the rows behind each: of a message its own, of an event one for each subscription."""
        rows: dict[Awaited, list[bytes]] = {}
        for awaited in self._asked:
            rows[awaited] = [awaited.id]
            if awaited.event:
                prefix = notes.subscription(awaited.event, "")
                queues = [note.name.removeprefix(prefix) for note in await self._store.notes(prefix)]
                rows[awaited] = [ids.delivery(awaited.id, queue) for queue in queues]
        return rows

    def _open_ids(self, rows: Mapping[Awaited, list[bytes]]) -> frozenset[bytes]:
        return frozenset(id for many in rows.values() for id in many if id not in self._done)

    async def _look(self, rows: Mapping[Awaited, list[bytes]]) -> dict[Awaited, Standing]:
        wanted = [id for many in rows.values() for id in many]
        found = dict(zip(wanted, await self._store.read(wanted), strict=True))
        self._done.update(id for id, record in found.items() if record is not None and record.state.terminal)
        now_ms = time.time_ns() // 1_000_000
        return {
            awaited: after.standing_of(awaited, [found[id] for id in many], now_ms) for awaited, many in rows.items()
        }


class _Listening:
    """Listen to a store before looking into it, so that what ends in between isn't missed."""

    def __init__(self, store: Store, open_ids: frozenset[bytes], left_s: float) -> None:
        timeout_s = max(0.0, min(left_s, POLL_S))
        self._task = asyncio.ensure_future(store.wait(frozenset(), open_ids, timeout_s))

    async def __aenter__(self) -> "_Listening":
        await asyncio.sleep(0)  # it listens once it has started
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        elif not self._task.cancelled():
            self._task.exception()

    async def heard(self) -> None:
        """Wait for a hint, or until it is time to look again."""
        await asyncio.wait((self._task,))
