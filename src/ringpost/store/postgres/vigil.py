"""A watch over statements that get no answer: another connection is asked whether the server still works on them.

A cable that was cut, or a router that forgot a connection, tells nobody. The kernel gives up after minutes, and a limit
on how long a statement may take can't tell a lost answer from a slow one. The server can: while it works on a statement
the wait is worth it; where its session is idle or gone, the connection is closed, and who waits is told at once. Those
that nobody uses at this moment go with it, as they may lead into the same nothing: else each would be found out by
whoever uses it next, one after the other.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from ringpost.contract.errors import StoreError
from ringpost.store.postgres.db import Db, Lost, is_said
from ringpost.store.postgres.session import at_work

SILENT_S = 2.0  # no answer for so long is worth a question
UNREACHABLE_S = 5.0  # for so long a statement waits where the server can't be asked either
_ANSWER_S = 2.0  # the connection that is asked on may be lost as well
_LOOK_S = 0.5
_CLOSE_S = 1.0


class Vigil:
    """Watches connections of one event loop, with one more of its own while there is a doubt about any."""

    def __init__(self, connect: Callable[[], Awaitable[Db]]) -> None:
        self._connect = connect
        self._watched: list[Db] = []
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    def watch(self, db: Db) -> None:
        """Watch a connection until it is closed. Behind a pooler it has no session of its own, and isn't watched."""
        if db.session is not None and not self._closed:
            self._watched.append(db)
            if self._timer is None:
                self._look_later()

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._watched = [db for db in self._watched if not db.closed]
        asking = self._asking is not None and not self._asking.done()
        if not asking and self._silent(SILENT_S):
            self._asking = asyncio.get_running_loop().create_task(self._doubt(), name="ringpost-vigil")
        self._timer = None
        if self._watched:
            self._look_later()

    def _silent(self, for_s: float) -> list[tuple[Db, str, float]]:
        """Give the connections that have had no answer for so long, and since when."""
        before_s = time.monotonic() - for_s
        return [
            (db, db.session, db.asked_s)
            for db in self._watched
            if db.session is not None and db.asked_s is not None and db.asked_s < before_s and not db.closed
        ]

    async def _doubt(self) -> None:
        try:
            other = await self._connect()
        except StoreError as exc:
            if not is_said(exc.__cause__):  # else the server is there, and only takes nobody more
                self._give_up([db for db, _, _ in self._silent(UNREACHABLE_S)])
            return
        try:
            await self._ask(other)
        except (Lost, TimeoutError):
            pass  # so is this one; the next look asks on another
        finally:
            await other.close(_CLOSE_S)

    async def _ask(self, other: Db) -> None:
        """Ask until every statement has its answer. As an answer may be under way while the server is asked, only who
        isn't at work at two questions about one statement is given up."""
        doubted: set[tuple[Db, float]] = set()
        while silent := self._silent(SILENT_S):
            async with asyncio.timeout(_ANSWER_S):
                working = await at_work(other, [session for _, session, _ in silent])
            idle = {(db, asked_s) for db, session, asked_s in silent if session not in working}
            self._give_up([db for db, asked_s in idle & doubted if db.asked_s == asked_s])
            doubted = idle
            await asyncio.sleep(_LOOK_S)

    def _give_up(self, lost: Sequence[Db]) -> None:
        """Close what is lost, and what is at rest beside it."""
        resting = [db for db in self._watched if db.asked_s is None and not db.in_transaction] if lost else []
        for db in (*lost, *resting):
            db.terminate()
