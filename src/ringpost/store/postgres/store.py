"""The PostgreSQL store: one database that services on several machines share.

Here is the port's side: entries are handed to the writer (`writer.py`), which works what has come together in
one transaction. A process has a connection to write, one to read and to wake others, one to listen, and one that renews
leases from a thread of its own. Only the primary is ever read, and nothing is kept in a session.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core.message import Cause, Delivery, Message, Record, Settlement, State
from ringpost.settings import Settings
from ringpost.store.log import Logged
from ringpost.store.port import (
    Audited,
    Capability,
    CaughtUp,
    Changed,
    Claimed,
    Depth,
    Exported,
    Facts,
    Filter,
    Note,
    Order,
    Passage,
    Put,
    Renewed,
    SqlTransaction,
    Tended,
    Woken,
)
from ringpost.store.postgres import alarm, catch_up, change, end, log, move, move_log, read, schema, tend
from ringpost.store.postgres.bell import Bell
from ringpost.store.postgres.catch_up import Step
from ringpost.store.postgres.claim import Want
from ringpost.store.postgres.db import Db
from ringpost.store.postgres.handling import queues_of
from ringpost.store.postgres.lent import Joined, JoinedEnd, is_on_store
from ringpost.store.postgres.link import Link
from ringpost.store.postgres.put import signed
from ringpost.store.postgres.renewal import Renewal
from ringpost.store.postgres.server import Server
from ringpost.store.postgres.tend import Upkeep
from ringpost.store.postgres.transaction import Pool, PostgresTransaction
from ringpost.store.postgres.turn import Turn
from ringpost.store.postgres.vigil import Vigil
from ringpost.store.postgres.waiting import Waiting
from ringpost.store.postgres.writer import ROWS_MAX, Ask, Writer

CAPABILITIES: frozenset[Capability] = frozenset({"sql", "lines", "priority", "find", "delay", "move"})
BODY_MAX = 64 << 20
HEADERS_MAX = 1 << 15

Found = TypeVar("Found")
_log = logging.getLogger("ringpost.store")
_Reply = asyncio.Future[Any]


class PostgresStore:
    """Keep messages in a PostgreSQL database. Open it, use it and close it on one event loop; `renew` may be called
    from any thread. It does not survive a fork.

    While the server is away, what is asked waits for up to 5 s, then raises StoreError; once it is back, everything
    goes on by itself. Repeating what raised is safe: puts are known by their ids, settlements by their fence.
    """

    def __init__(self, url: str, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._server = Server(url, self._settings)
        self._upkeep = Upkeep()
        self._alarm_s = 0.0  # when to look next
        self._opened: _Opened | None = None
        self._closed = False
        self.facts = Facts("", "durable", CAPABILITIES, self._server.shown)

    # --- open and close

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts:
        """Connect, with `create` make the tables. Raises StoreError where the server isn't there, gives less than the
        durability asked for, holds no store, or one of newer code. Repeating it is harmless."""
        if self._opened is not None:
            return self.facts
        if self._closed:
            raise StoreError("a closed store is not opened again; make a new one")
        db = await self._server.connect()
        try:
            store_id = await schema.migrate(db, self._server.schema, create=create)
        finally:
            await db.close(1.0)
        assert self._server.probed is not None
        self.facts = Facts(store_id, self._server.probed.level, CAPABILITIES, self._server.shown)
        self._opened = _Opened(self._server, self._settings, self._look, self._give_back)
        return self.facts

    async def close(self) -> None:
        """Finish what was handed over, and disconnect. Repeating it is harmless."""
        opened, self._opened = self._opened, None
        self._closed = True
        if opened is not None:
            await opened.close()

    # --- the port

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        """Keep messages durably. Repeating it with the same ids changes nothing."""
        for message in messages:
            _check(message)
        return await self._in_parts(messages, lambda part, reply: Ask(reply, messages=part))

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        """Settle, then claim. A claim whose caller has gone away is given back."""
        _check_staged(settlements)
        wanted = Want(want, holder, lease_s, suspects)
        claimed: Claimed = await self._ask(lambda reply: Ask(reply, settlements=settlements, want=wanted))
        return claimed

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Settle, one bool each: False where the fence was lost."""
        _check_staged(settlements)
        return await self._in_parts(settlements, lambda part, reply: Ask(reply, settlements=part))

    def begin(self, where: Callable[[], str], *, alone: bool = False) -> SqlTransaction:
        """Open a transaction for one handling, on a connection of its own."""
        opened = self._usable()
        return PostgresTransaction(opened.pool, self._server.schema, where, opened.committed, alone=alone)

    async def join(self, messages: Sequence[Message]) -> Joined:
        """Make messages ready for a transaction of somebody else on this database. New queues are made here, so that
        nobody has to wait for that transaction to send to them."""
        for message in messages:
            _check(message)
        queues = await self._usable().pool.know({message.queue for message in messages if not message.event})
        return Joined(self.facts.store_id, self._server.schema, queues, messages)

    async def join_end(self, settlement: Settlement | None, staged: Sequence[Message]) -> JoinedEnd:
        """Make the end of a handling ready for a transaction of somebody else on this database."""
        for message in staged if settlement is None else settlement.staged:
            _check(message)
        opened = self._usable()
        queues = await opened.pool.know(queues_of(settlement, staged))
        return JoinedEnd(self._server.schema, queues, settlement, staged, opened.committed)

    async def joins(self, session: object) -> bool:
        """Ask a session's server whether this store is in its database."""
        return await is_on_store(session, self.facts.store_id, self._server.schema)

    def renew(self, holder: int, lease_s: float) -> Renewed:
        """Lengthen a holder's leases; blocks, so call it from a thread of its own."""
        opened = self._usable()
        key = signed(holder)
        return opened.renewal.renew(key, opened.writer.fences.get(key, 0), lease_s)

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        """Carry out orders, each by itself."""
        if not orders:
            return []

        async def obey(turn: Turn) -> list[Changed]:
            return [await change.obey(turn, order) for order in orders]

        return await self._act(obey)

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        """Read rows by id. What has expired meanwhile is marked so first."""
        if not ids:
            return []
        overdue = await self._read(lambda db: read.overdue(db, ids))
        if overdue:
            await self._act(lambda turn: end.end(turn, overdue, State.EXPIRED, Cause.EXPIRED, end.OVERDUE))
        return await self._read(lambda db: read.read(db, ids, bodies))

    async def find(self, filter: Filter, /) -> list[Record]:
        """Give a page of rows, by ascending `ref`."""
        return await self._read(lambda db: read.find(db, filter))

    async def audit(self, id: bytes) -> list[Audited]:
        """Give what was done with a message, the oldest first."""
        return await self._read(lambda db: read.audit(db, id))

    async def depths(self) -> list[Depth]:
        """Give the queues that ever had a message, by name."""
        return await self._read(read.depths)

    async def tend(self, limit: int = 1000) -> Tended:
        """Do one bounded step of upkeep. Others' leases are swept only after a third of the lease during which this
        process saw the server's time go on without a gap; call it at least that often."""
        settings = self._settings
        if self._alarm_s <= time.monotonic():
            self._alarm_s = time.monotonic() + alarm.EVERY_S
            for found in await self.alarms():
                _log.warning("%s: %s", self._server.shown, found)
        return await self._act(
            lambda turn: tend.tend(turn, self._upkeep, limit, lease_s=settings.lease_s, keep_bytes=settings.keep_bytes)
        )

    async def alarms(self) -> list[str]:
        """Say what in the database slows the store down, and what to do; nothing where all is well."""
        return await self._read(alarm.alarms)

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        """Give a subscription that is behind one step of what the log has for it. Where the log's end is read, who
        comes to publish may wait for a tenth of a second."""
        opened = self._usable()
        step = Step(event, queue, limit, self._settings.depth_max)
        return await catch_up.catch_up(opened.pool, opened.committed, step)

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        """Write a note durably."""
        return await self._act(lambda turn: read.note_put(turn, note, expect))

    async def note_drop(self, name: str) -> bool:
        """Remove a note; True if it was there."""
        return await self._act(lambda turn: read.note_drop(turn, name))

    async def notes(self, prefix: str = "") -> list[Note]:
        """Give the notes whose names begin so."""
        return await self._read(lambda db: read.notes(db, prefix))

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait for work in the queues or the end of the ids; returns at once where there is some already."""
        return await self._usable().waiting.wait(queues, ids, timeout_s)

    # --- moving

    async def export(self, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
        """Give a page of rows with all that hangs on them, by ascending `ref`."""
        return await self._read(lambda db: move.export(db, states, after, limit))

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        """Keep rows of another store as they were there, durably."""
        return await self._act(lambda turn: move.take_in(turn, rows, passage)) if rows else []

    async def take_out(self, rows: Sequence[Exported], passage: Passage) -> list[bool]:
        """Remove rows that nobody has touched since they were exported, without telling anybody of an end."""
        return await self._act(lambda turn: move.take_out(turn, rows, passage)) if rows else []

    async def export_log(self, event: str, after: int, limit: int) -> list[Logged]:
        """Give a page of an event's log."""
        return await move_log.export(self._usable().pool, event, after, limit)

    async def take_in_log(self, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
        """Keep entries as they were in another store's log, durably."""
        return await self._act(lambda turn: move_log.take_in(turn, event, entries, passage))

    async def take_out_log(self, event: str, entries: Sequence[Logged]) -> None:
        """Remove entries, durably."""
        await self._act(lambda turn: move_log.take_out(turn, entries))

    async def has_log(self, event: str) -> bool:
        """Say whether the log of an event has anything."""
        return await self._read(lambda db: log.has_any(db, event))

    # --- handing over

    def _usable(self) -> "_Opened":
        if self._opened is None:
            raise StoreError(f"the store {self._server.shown} is not open")
        return self._opened

    async def _ask(self, ask_of: "Callable[[_Reply], Ask]") -> Any:
        """Hand an entry over, and wait for its answer."""
        opened = self._usable()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        opened.writer.hand(ask_of(reply))
        return await reply

    async def _act(self, act: Callable[[Turn], Awaitable[Found]]) -> Found:
        found: Found = await self._ask(lambda reply: Ask(reply, act=act))
        return found

    async def _read(self, look: Callable[[Db], Awaitable[Found]]) -> Found:
        return await self._usable().side.read(look)

    async def _in_parts(self, entries: Sequence[Any], ask_of: "Callable[[Sequence[Any], _Reply], Ask]") -> list[Any]:
        """Hand over entries in transactions of bounded size."""
        parts = [entries[at : at + ROWS_MAX] for at in range(0, len(entries), ROWS_MAX)]
        if len(parts) == 1:
            answers: list[Any] = await self._ask(partial(ask_of, parts[0]))
            return answers
        asked = await asyncio.gather(*(self._ask(partial(ask_of, part)) for part in parts))
        return [answer for answers in asked for answer in answers]

    def _give_back(self, deliveries: list[Delivery]) -> None:
        """Release what was claimed for a caller that has gone away meanwhile."""
        if deliveries and self._opened is not None:
            releases = [Settlement(delivery, State.READY, charge=False) for delivery in deliveries]
            reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            reply.add_done_callback(lambda done: done.exception())  # if it fails, their leases end
            self._opened.writer.hand(Ask(reply, settlements=releases))

    async def _look(self, queues: frozenset[str], ids: frozenset[bytes]) -> Woken:
        async def look(db: Db) -> Woken:
            return Woken(await read.ready_of(db, queues), await read.ended_of(db, ids))

        return await self._read(look)


class _Opened:
    """What an open store has at work."""

    def __init__(
        self,
        server: Server,
        settings: Settings,
        look: Callable[[frozenset[str], frozenset[bytes]], Awaitable[Woken]],
        give_back: Callable[[list[Delivery]], None],
    ) -> None:
        self.vigil = Vigil(server.connect)
        self.writer = Writer(server, settings, self.committed, give_back, self.vigil)
        self.side = Link(server.connect, self.vigil)
        self.pool = Pool(lambda: Link(server.connect, self.vigil), self.side)
        self.renewal = Renewal(server.connect, server.shown)
        self.waiting = Waiting(look)
        self.bell = Bell(server, self.side, secrets.token_hex(8), self.waiting.heard)
        self.bell.start()

    async def close(self) -> None:
        await self.writer.finish()
        self.waiting.close()
        # At once: where the server answers no more, each waits for as long as it may.
        links = [self.writer.link.close(), self.side.close(), self.pool.close()]
        renewal = asyncio.get_running_loop().run_in_executor(None, self.renewal.stop)
        await asyncio.gather(*links, self.bell.close(), renewal)
        await self.vigil.close()

    def committed(self, turn: Turn) -> None:
        """Wake whoever waits for what a commit brought: here directly, elsewhere by the bell."""
        elsewhere = turn.rang - self.waiting.idle
        self.waiting.rang(turn.rang, turn.touched)
        self.bell.ring(elsewhere, turn.touched)


def _check_staged(settlements: Sequence[Settlement]) -> None:
    for one in settlements:
        for message in one.staged:
            _check(message)


def _check(message: Message) -> None:
    """Refuse what no row can hold, before anything is handed over."""
    if len(message.body) > BODY_MAX or len(message.headers) > HEADERS_MAX:
        raise UsageError(
            f"a message holds at most {BODY_MAX} bytes of body and {HEADERS_MAX} of headers, not {len(message.body)}"
            f" and {len(message.headers)}; keep the data elsewhere and send where it is"
        )
    line, dedup = message.line, message.dedup
    if len(message.id) != 16 or (line is not None and len(line) != 16) or (dedup is not None and len(dedup) != 16):
        raise UsageError("ids, lines and dedup keys are 16 bytes")
