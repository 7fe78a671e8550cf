"""A relay in a process of its own, which ends at a chosen point as if by kill -9.

usage: relay_process.py OUTBOX STORE [POINT [TWIN]]

Without a point it goes on until nothing is left.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Any

from ringpost.client.posting import new_id
from ringpost.core.message import Message
from ringpost.relay import offer, postgres_table, sqlite_table
from ringpost.relay.port import Table, table_for
from ringpost.relay.relay import Relay
from ringpost.relay.row import Row, message_of
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Put, Store

POINTS = ("before the mark", "before the put", "after the put", "before the delete", "after the delete")
TWINS = ("deletes first", "new ids")
PAGE = 3


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """The table and the store of a relay, as seen by one that ends at a point of the second page."""

    def __init__(self, table: Table, store: Store, point: str, twin: str) -> None:
        self._table = table
        self._store = store
        self._point = point
        self._deletes_first = twin == "deletes first"
        self.shown = table.shown
        self.facts = store.facts
        self._pages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table if hasattr(self._table, name) else self._store, name)

    def at(self, point: str, page: int) -> None:
        if point == self._point and self._pages == page:
            die()

    async def turn(self, done: Sequence[Row], after: int, without: Collection[str], now_ms: int) -> list[Row]:
        self.at("before the mark", 1)
        if done:
            self.at("before the delete", 2)
        rows = await self._table.turn(done, after, without, now_ms)
        if self._deletes_first and rows:
            await self._table.turn(rows, after, without, now_ms)
        if done:
            self.at("after the delete", 2)
        self._pages += 1
        return rows

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        self.at("before the put", 2)
        puts = await self._store.put(messages)
        self.at("after the put", 2)
        return puts


def renamed(row: Row, now_ms: int) -> Message:
    """Give a message a new id each time."""
    made = message_of(row, now_ms)
    made.id, made.dedup = new_id(), None
    return made


async def main(outbox: str, url: str, point: str = "", twin: str = "") -> None:
    sqlite_table.ROWS_MAX = postgres_table.ROWS_MAX = PAGE
    if twin == "new ids":
        offer.message_of = renamed
    store = store_for(url, Settings(store=url, durability="buffered"))
    await store.open()
    both: Any = Dying(table_for(outbox, url), store, point, twin)
    relay = Relay(both, both)
    while await relay.round():
        pass
    await both._table.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
