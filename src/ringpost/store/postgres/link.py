"""A connection that comes back: opened when it is needed, anew after the server was away, with growing pauses.

What was asked on one that is lost may still be under way on the server. So its session is ended first, and only then is
anything asked on the new one: it sees all that the old one has done, and nothing follows.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ringpost.contract.errors import StoreError
from ringpost.store.postgres import session
from ringpost.store.postgres.db import Again, Db, Lost, in_the_way
from ringpost.store.postgres.vigil import Vigil

PATIENCE_S = 5.0  # for how long a caller waits for a server that is away
_PAUSE_S_FIRST, _PAUSE_S_MAX = 0.05, 1.0
_CLOSE_S = 2.0
_TRIES = 8  # of a statement that others keep getting in the way of

Found = TypeVar("Found")
Connect = Callable[[], Awaitable[Db]]


class Link:
    """One connection of one event loop. Its user holds `lock` while statements belong together. `vigil` closes it where
    its answers are lost."""

    def __init__(self, connect: Connect, vigil: Vigil | None = None) -> None:
        self._connect = connect
        self._vigil = vigil
        self._db: Db | None = None
        self._pause_s = 0.0
        self._next_s = 0.0  # when the next try may be made
        self._closed = False
        self.lock = asyncio.Lock()

    async def get(self, until_s: float) -> Db:
        """Give the connection, a new one if need be; tries until that instant of the monotonic clock at the latest.

        Raises StoreError saying why there is none.
        """
        while self._db is None or self._db.closed:
            if self._closed:
                raise StoreError("the store is closed")
            await asyncio.sleep(max(min(self._next_s, until_s) - time.monotonic(), 0.0))
            try:
                self._db = await self._connected()
            except StoreError:
                self._pause_s = min(max(self._pause_s * 2, _PAUSE_S_FIRST), _PAUSE_S_MAX)
                self._next_s = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)
                if self._next_s >= until_s:
                    raise
            else:
                self._pause_s = 0.0
        return self._db

    @property
    def lost(self) -> bool:
        """Whether there was a connection that is no more."""
        return self._db is not None and self._db.closed

    async def _connected(self) -> Db:
        """Connect, and end what is left of the connection before."""
        db = await self._connect()
        if self._vigil is not None:
            self._vigil.watch(db)
        before = None if self._db is None else self._db.session
        if before is not None:
            try:
                await session.end(db, before)
            except Lost as exc:
                raise StoreError(f"the store did not answer: {exc}") from exc
            except BaseException:
                db.terminate()
                raise
        return db

    async def read(self, look: Callable[[Db], Awaitable[Found]], patience_s: float = PATIENCE_S) -> Found:
        """Read, again where the connection was lost meanwhile. Also for whatever may be repeated without harm."""
        until_s = time.monotonic() + patience_s
        async with self.lock:
            tries = 0
            while True:
                db = await self.get(until_s)
                try:
                    return await look(db)
                except Lost as exc:
                    if time.monotonic() >= until_s:
                        raise StoreError(f"the store did not answer: {exc}") from exc
                except Again as exc:
                    tries += 1
                    if tries == _TRIES:
                        raise in_the_way() from exc

    async def close(self) -> None:
        self._closed = True
        db, self._db = self._db, None
        if db is not None and not db.closed:
            await db.close(_CLOSE_S)
