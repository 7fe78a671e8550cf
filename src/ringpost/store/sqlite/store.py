"""The SQLite store: one file that several processes of a host share, durable to the sync.

Here is the loop's side: entries of one loop turn are collected and handed to the store thread at once
(`writer.py`), which works them in one transaction and answers in one call. Measured on the way: see
`rows.py` for batches, and `schema.py` for the width of columns.
"""

import asyncio
import concurrent.futures
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core import lease
from ringpost.core.message import Cause, Delivery, Message, Record, Settlement, State
from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
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
    Report,
    SqlTransaction,
    Tended,
    Woken,
)
from ringpost.store.sqlite import catch_up, change, damage, end, log, move, move_log, notes, read, sole_use, tend
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.purge import Upkeep
from ringpost.store.sqlite.reader import Reader
from ringpost.store.sqlite.rows import BODY_MAX, HEADERS_MAX
from ringpost.store.sqlite.sole_use import SoleUse
from ringpost.store.sqlite.transaction import Ending, SqliteTransaction
from ringpost.store.sqlite.turn import Turn
from ringpost.store.sqlite.waiting import Waiting
from ringpost.store.sqlite.wakeup import Bell, tone
from ringpost.store.sqlite.writer import ROWS_MAX, Ask, Want, Writer, ask_of

CAPABILITIES: frozenset[Capability] = frozenset({"lines", "priority", "find", "delay", "sql", "move"})

_log = logging.getLogger("ringpost.store")


class SqliteStore:
    """Keep messages in a SQLite file (level `durable`). Open it, use it and close it on one event loop; `renew` may be
    called from any thread. It does not survive a fork.

    `failed` is set once the disk can't be trusted any more (a sync or a write failed); from then on everything raises
    StoreError and the process should end with an error. `on_failed` is called once when that happens, on the loop.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Settings | None = None,
        *,
        clock: HostClock | None = None,
        on_failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._path = Path(os.path.abspath(path))
        self._settings = settings or Settings()
        self.on_failed = on_failed
        self._clock = clock or HostClock()
        self._writer = Writer(
            self._path,
            self._settings,
            self._clock,
            answered=self._answered,
            committing=self._committing,
            committed=self._committed,
            watched=self._watched,
            failed=self._has_failed,
        )
        self._loop: asyncio.AbstractEventLoop | None = None  # while open
        self._answering: asyncio.AbstractEventLoop | None = None  # where answers go, even while it closes
        self._outbox: list[Ask] = []
        self._pid = 0
        self._bell: Bell | None = None
        self._waiting: Waiting | None = None
        self._heard: dict[int, tuple[int, float]] = {}  # holder → when it was last heard of (uptime), its lease
        self._upkeep = Upkeep()
        self.reader = Reader(self._path)
        self._sole = SoleUse(self._path)
        self.hold_s = self._settings.tx_hold_max_s
        self._data_version = 0
        self.facts = Facts("", "durable", CAPABILITIES, f"sqlite:///{self._path}")

    @property
    def failed(self) -> BaseException | None:
        """What made the store unusable, None while it is well."""
        return self._writer.failure

    # --- open and close

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts:
        """Open the file, with `create` make it. Raises StoreError where its promises can't be kept: no file, a network
        file system, a newer schema, another SQLite library of this process on it, a lost tail (`accept_loss` goes on
        without it). Repeating it is harmless."""
        if self._loop is not None:
            return self.facts
        if self._writer.store_id:
            raise StoreError("a closed store is not opened again; make a new one")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: self._start(create, accept_loss))
        self._loop = self._answering = loop
        self._pid = os.getpid()
        self._bell = Bell(self._path)
        self._waiting = Waiting(self._bell, self._look)
        self.facts = Facts(self._writer.store_id, "durable", CAPABILITIES, f"sqlite:///{self._path}")
        return self.facts

    def _start(self, create: bool, accept_loss: bool) -> None:
        with self._sole.opening():
            self._writer.start(create=create, accept_loss=accept_loss)

    async def close(self) -> None:
        """Finish what was handed over, checkpoint, and close. Repeating it is harmless."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        self._flush()
        if self._waiting is not None:
            self._waiting.close()
        await loop.run_in_executor(None, self._writer.stop)
        await loop.run_in_executor(None, self.reader.close)
        self._sole.end()
        if self._bell is not None:
            self._bell.close()

    # --- the port

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        """Keep messages durably. Repeating it with the same ids changes nothing."""
        for message in messages:
            _check(message)
        return await self._in_parts(messages, lambda part: Ask(messages=part))

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
        self._heard[holder] = (self._clock.uptime_ms(), lease_s)
        ask = Ask(settlements=settlements, want=Want(want, holder, lease_s, suspects), durable=_needs_sync(settlements))
        claimed: Claimed = await self._ask(ask)
        return claimed

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Settle, one bool each: False where the fence was lost."""
        _check_staged(settlements)
        return await self._in_parts(settlements, lambda part: Ask(settlements=part, durable=_needs_sync(part)))

    def begin(self, where: Callable[[], str], *, alone: bool = False) -> SqlTransaction:
        """Open a transaction for one handling. It has the turn of all who write from its first write on, so each is
        alone, for at most `tx_hold_max`."""
        return SqliteTransaction(self, where)

    def renew(self, holder: int, lease_s: float) -> Renewed:
        """Lengthen a holder's leases; blocks, so call it from a thread of its own."""
        self._heard[holder] = (self._clock.uptime_ms(), lease_s)
        self.check_usable()
        reply: concurrent.futures.Future[Renewed] = concurrent.futures.Future()
        ask = Ask(act=lambda turn: tend.renew(turn, holder, lease_s), early=True, durable=False, reply=reply)
        self._writer.send([ask])
        try:
            return reply.result(timeout=lease_s)
        except TimeoutError as exc:
            raise StoreError(f"the store {self._path} did not renew within the lease of {lease_s} s") from exc

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        """Carry out orders, each by itself."""
        if not orders:
            return []
        durable = not all(isinstance(order, Report) for order in orders)
        changed: list[Changed] = await self._ask(
            Ask(act=lambda turn: [change.obey(turn, order) for order in orders], durable=durable)
        )
        return changed

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        """Read rows by id. What has expired meanwhile is marked so first."""
        overdue: list[int] = []

        def look(turn: Turn) -> list[Record | None]:
            overdue.extend(read.overdue(turn, ids))
            return read.read(turn, ids, bodies)

        records: list[Record | None] = await self._ask(Ask(act=look, reads=True))
        if overdue:
            await self._ask(Ask(act=lambda turn: _expire(turn, ids)))
            records = await self._ask(Ask(act=lambda turn: read.read(turn, ids, bodies), reads=True))
        return records

    async def find(self, filter: Filter, /) -> list[Record]:
        """Give a page of rows, by ascending `ref`."""
        records: list[Record] = await self._ask(Ask(act=lambda turn: read.find(turn, filter), reads=True))
        return records

    async def audit(self, id: bytes) -> list[Audited]:
        """Give what was done with a message, the oldest first."""
        audited: list[Audited] = await self._ask(Ask(act=lambda turn: read.audit(turn, id), reads=True))
        return audited

    async def alarms(self) -> list[str]:
        """Say what damage was met of late, and who may do some, and what to do; nothing where there was none."""
        alarms: list[str] = await self._ask(
            Ask(act=lambda turn: damage.alarms(turn) + sole_use.alarms(turn), reads=True)
        )
        return alarms

    async def depths(self) -> list[Depth]:
        """Give the queues that ever had a message, by name."""
        depths: list[Depth] = await self._ask(Ask(act=read.depths, reads=True))
        return depths

    async def tend(self, limit: int = 1000) -> Tended:
        """Do one bounded step of upkeep. Others' leases are swept only after a third of the lease during which this
        process could write without a stall; call it at least that often."""
        tended: Tended = await self._ask(Ask(act=lambda turn: self._tend(turn, limit)))
        return tended

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        """Give a subscription that is behind one step of what the log has for it."""
        depth_max = self._settings.depth_max
        done: CaughtUp = await self._ask(Ask(act=lambda turn: catch_up.catch_up(turn, event, queue, limit, depth_max)))
        return done

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        """Write a note durably."""
        done: bool = await self._ask(Ask(act=lambda turn: notes.put(turn, note, expect)))
        return done

    async def note_drop(self, name: str) -> bool:
        """Remove a note; True if it was there."""
        done: bool = await self._ask(Ask(act=lambda turn: notes.drop(turn, name)))
        return done

    async def notes(self, prefix: str = "") -> list[Note]:
        """Give the notes whose names begin so."""
        found: list[Note] = await self._ask(Ask(act=lambda turn: notes.notes(turn, prefix), reads=True))
        return found

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait for work in the queues or the end of the ids; returns at once where there is some already."""
        self.check_usable()
        assert self._waiting is not None
        return await self._waiting.wait(queues, ids, timeout_s)

    # --- moving

    async def export(self, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
        """Give a page of rows with all that hangs on them, by ascending `ref`."""
        ask = Ask(act=lambda turn: move.export(turn, states, after, limit), reads=True)
        exported: list[Exported] = await self._ask(ask)
        return exported

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        """Keep rows of another store as they were there, durably."""
        puts: list[Put] = await self._ask(Ask(act=lambda turn: move.take_in(turn, rows, passage)))
        return puts

    async def take_out(self, rows: Sequence[Exported], passage: Passage) -> list[bool]:
        """Remove rows that nobody has touched since they were exported, without telling anybody of an end."""
        done: list[bool] = await self._ask(Ask(act=lambda turn: move.take_out(turn, rows, passage)))
        return done

    async def export_log(self, event: str, after: int, limit: int) -> list[Logged]:
        """Give a page of an event's log."""
        ask = Ask(act=lambda turn: move_log.export(turn, event, after, limit), reads=True)
        exported: list[Logged] = await self._ask(ask)
        return exported

    async def take_in_log(self, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
        """Keep entries as they were in another store's log, durably."""
        places: list[int] = await self._ask(Ask(act=lambda turn: move_log.take_in(turn, event, entries, passage)))
        return places

    async def take_out_log(self, event: str, entries: Sequence[Logged]) -> None:
        """Remove entries, durably."""
        await self._ask(Ask(act=lambda turn: move_log.take_out(turn, entries)))

    async def has_log(self, event: str) -> bool:
        """Say whether the log of an event has anything."""
        found: bool = await self._ask(Ask(act=lambda turn: log.has_any(turn, event), reads=True))
        return found

    # --- for transactions

    def hold(self, transaction: SqliteTransaction) -> None:
        """Let a transaction have the turn when it is its time."""
        self._flush()  # what was asked for before it goes before it
        self._writer.hold(transaction)

    async def commit_shared(self, ending: Ending) -> bool:
        """Commit what needs no turn of its own together with others. Raises what a deferred statement raised."""
        ask = ask_of(ending)
        if not (ask.settlements or ask.staged or ask.sql):
            return True
        _check_staged(ask.settlements)
        for message in ask.staged:
            _check(message)
        while True:
            done: list[bool] = await self._ask(ask)
            if not ask.undone:
                return done[0]
            for failure in ask.undone.values():  # None: there was no time for it in that commit
                if failure is not None:
                    raise failure

    # --- handing over

    def check_usable(self) -> None:
        """Raise StoreError where nothing can be asked of it."""
        if self._loop is None:
            raise StoreError(f"the store {self._path} is not open")
        if os.getpid() != self._pid:
            raise StoreError("a store does not survive a fork: open it in the process that uses it")
        if self._writer.failure is not None:
            raise StoreError(
                f"the store {self._path} has failed: {self._writer.failure}; restart the process once the disk is well"
            ) from self._writer.failure

    async def _ask(self, ask: Ask) -> Any:
        """Hand an entry over with all others of this turn of the loop, and wait for its answer."""
        self.check_usable()
        assert self._loop is not None
        ask.reply = self._loop.create_future()
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(ask)
        return await ask.reply

    async def _in_parts(self, entries: Sequence[Any], ask_of: Callable[[Sequence[Any]], Ask]) -> list[Any]:
        """Hand over entries in transactions of bounded size."""
        if not entries:
            return []
        if len(entries) <= ROWS_MAX:
            answers: list[Any] = await self._ask(ask_of(entries))
            return answers
        parts = [entries[at : at + ROWS_MAX] for at in range(0, len(entries), ROWS_MAX)]
        return [
            answer for part in await asyncio.gather(*(self._ask(ask_of(part)) for part in parts)) for answer in part
        ]

    def _flush(self) -> None:
        if self._outbox:
            asks, self._outbox = self._outbox, []
            self._writer.send(asks)

    # --- on the store thread

    def _answered(self, asks: list[Ask]) -> None:
        for ask in asks:
            if isinstance(ask.reply, concurrent.futures.Future):
                _resolve(ask)
        loop = self._answering
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._deliver, asks)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

    def _committing(self, turn: Turn) -> None:
        """Wake who would claim in other processes while the disk still syncs: they wait for their turn until this
        commit is done. Who only looks, and takes no turn, is woken once there is something to see."""
        waiting, bell = self._waiting, self._bell
        if waiting is None or bell is None or not turn.rang:
            return
        rang = {tone(name): no for no in turn.rang if (name := turn.queues.numbered(no).name) not in waiting.idle}
        for heard in bell.ring(rang, []):
            turn.rang.discard(rang[heard])

    def _committed(self, turn: Turn) -> None:
        """Wake whoever waits for what this commit brought: here directly, elsewhere by the bell."""
        waiting, bell, loop = self._waiting, self._bell, self._loop
        if waiting is None or bell is None or loop is None:
            return
        if not turn.watched and self._watched():
            # Somebody began to wait during this turn and may have looked before its commit: nobody noted what changed.
            self._unsaid(waiting, bell, loop)
        if not (turn.rang or turn.touched):
            return
        names = [turn.queues.numbered(no).name for no in turn.rang]
        here = [name for name in names if name in waiting.idle]
        elsewhere = [tone(name) for name in names if name not in waiting.idle]
        if here or (turn.touched and waiting.watching):
            try:
                loop.call_soon_threadsafe(waiting.rang, here, turn.touched)
            except RuntimeError:
                return
        bell.ring(elsewhere, turn.touched)

    def _unsaid(self, waiting: Waiting, bell: Bell, loop: asyncio.AbstractEventLoop) -> None:
        """Let whoever waits for ids look for itself."""
        if waiting.watching:
            try:
                loop.call_soon_threadsafe(waiting.look)
            except RuntimeError:
                return
        bell.ring_watching()

    def _watched(self) -> bool:
        waiting, bell = self._waiting, self._bell
        return (waiting is not None and waiting.watching) or (bell is not None and bell.anybody_watching())

    def _has_failed(self, exc: BaseException) -> None:
        on_failed, loop = self.on_failed, self._loop
        if on_failed is not None and loop is not None:
            loop.call_soon_threadsafe(on_failed, exc)

    def _tend(self, turn: Turn, limit: int) -> Tended:
        self._sole.look(turn)
        writer = self._writer
        patience_ms = lease.sweep_after_s(self._settings.lease_s) * 1000
        unbroken = turn.uptime_ms - writer.last_write_ms <= patience_ms
        return tend.tend(
            turn,
            self._upkeep,
            limit,
            self._renewing(turn.uptime_ms),
            sweep=unbroken and turn.uptime_ms - writer.writable_since_ms >= patience_ms,
            keep_bytes=self._settings.keep_bytes,
        )

    def _renewing(self, uptime_ms: int) -> dict[int, float]:
        """Give the holders of this process that still renew, with what is left of their leases: a renewal that was
        asked for counts, even while the disk keeps it waiting. Who has stopped renewing is lost like anybody else."""
        left_s = {
            holder: lease_s - (uptime_ms - heard_ms) / 1000 for holder, (heard_ms, lease_s) in list(self._heard.items())
        }
        for holder, seconds in left_s.items():
            if seconds <= 0:
                self._heard.pop(holder, None)
        return {holder: seconds for holder, seconds in left_s.items() if seconds > 0}

    async def _look(self, queues: frozenset[str], ids: frozenset[bytes], at_once: bool) -> Woken:
        """See whether there is something to do; unless it has to be known at once, only if the file has changed."""

        def look(turn: Turn) -> Woken:
            version = first(turn.db, "PRAGMA data_version")
            if not at_once and version == self._data_version:
                return Woken()
            self._data_version = version
            return Woken(read.ready_of(turn, queues), read.ended_of(turn, ids))

        woken: Woken = await self._ask(Ask(act=look, reads=True))
        return woken

    # --- back on the loop

    def _deliver(self, asks: list[Ask]) -> None:
        for ask in asks:
            if isinstance(ask.reply, concurrent.futures.Future):
                continue
            if not ask.reply.done():
                _resolve(ask)
            elif ask.want is not None and ask.error is None:
                self._give_back(ask.value.deliveries)

    def _give_back(self, deliveries: list[Delivery]) -> None:
        """Release what was claimed for a caller that has gone away meanwhile."""
        if deliveries and self._loop is not None:
            releases = [Settlement(delivery, State.READY, charge=False) for delivery in deliveries]
            reply: asyncio.Future[list[bool]] = self._loop.create_future()
            reply.add_done_callback(lambda done: done.exception())  # if it fails, their leases end
            self._writer.send([Ask(settlements=releases, durable=False, reply=reply)])


def _resolve(ask: Ask) -> None:
    if ask.error is not None:
        ask.reply.set_exception(ask.error)
    else:
        ask.reply.set_result(ask.value)


def _needs_sync(settlements: Sequence[Settlement]) -> bool:
    return any(one.to is not State.READY or one.staged for one in settlements)


def _expire(turn: Turn, ids: Sequence[bytes]) -> None:
    end.end(turn, read.overdue(turn, ids), State.EXPIRED, Cause.EXPIRED)


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
