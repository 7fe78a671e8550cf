"""The writer: one connection, one transaction a turn for all that has come together while the last one was under way.

In a transaction: settle, what was staged, puts, claims, then everything else. Where the connection is lost, nobody
knows whether the turn was committed. It is taken again on a new one: what was put is known by its id, what was settled
by its fence, and what was claimed for an answer that never came is given back; also where that was so long ago that
its caller was told of an error: then by the next turn.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from ringpost.contract.errors import StoreError
from ringpost.core.message import Cause, Delivery, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.logged import log_damaged
from ringpost.store.port import Claimed, Put
from ringpost.store.postgres import claim, deferred, end, put, read, settle
from ringpost.store.postgres.claim import Want
from ringpost.store.postgres.db import Again, Db, Lost, Row, in_the_way, is_said
from ringpost.store.postgres.link import PATIENCE_S, Link
from ringpost.store.postgres.put import Room, signed
from ringpost.store.postgres.server import Server
from ringpost.store.postgres.turn import Queues, Turn
from ringpost.store.postgres.vigil import Vigil

ROWS_MAX = 1000  # of one transaction
_TRIES = 8
_DEPTH_S = 1.0  # how old the count of a queue that is far from full may be

_ORPHANS = (
    "UPDATE ringpost.message SET state = 4, holder = 0 WHERE state = 5 AND kind = 2 AND holder = $1 AND fence > $2"
    " RETURNING queue"
)

_log = logging.getLogger("ringpost.store")


class Ask(Struct, eq=False):
    """One entry for the writer, and its answer. `act` does what is no settlement, put or claim."""

    reply: "asyncio.Future[Any]"
    settlements: Sequence[Settlement] = ()
    messages: Sequence[Message] = ()
    want: Want | None = None
    act: Callable[[Turn], Awaitable[Any]] | None = None
    value: Any = None
    error: BaseException | None = None

    @property
    def rows(self) -> int:
        wanted = sum(self.want.queues.values()) if self.want is not None else 0
        staged = sum([len(one.staged) for one in self.settlements])
        return len(self.settlements) + staged + len(self.messages) + wanted

    @property
    def queues(self) -> set[str]:
        """The queues that have to be known by their numbers."""
        names = {message.queue for message in self.messages if not message.event}
        names.update([one.delivery.queue for one in self.settlements])
        names.update([message.queue for one in self.settlements for message in one.staged if not message.event])
        return names if self.want is None else names | self.want.queues.keys()


class Writer:
    """Takes turns at the database for the event loop that it was made on."""

    def __init__(
        self,
        server: Server,
        settings: Settings,
        committed: Callable[[Turn], None],
        orphaned: Callable[[list[Delivery]], None],
        vigil: Vigil,
    ) -> None:
        self._server = server
        self._settings = settings
        self._committed = committed
        self._orphaned = orphaned
        self.link = Link(server.connect, vigil)
        self.queues = Queues()
        self.fences: dict[int, int] = {}  # holder → the last fence that an answer brought
        self._unheard: set[int] = set()  # holders that may have claimed something without an answer
        self._inbox: list[Ask] = []
        self._task: asyncio.Task[None] | None = None
        self._depths: dict[int, tuple[int, int, float]] = {}  # queue → rows, bytes, when they were counted

    def hand(self, ask: Ask) -> None:
        """Hand an entry over. It may be merged with others, and is answered through its future."""
        self._inbox.append(ask)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="ringpost-writer")

    async def finish(self) -> None:
        """Finish what was handed over. Nothing may be handed over from now on."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._inbox:
                await self._take_turn(self._next())
        finally:
            self._task = None

    def _next(self) -> list[Ask]:
        """Give as many entries as a transaction should hold; an entry is never cut."""
        rows = 0
        for at, ask in enumerate(self._inbox):
            rows += ask.rows
            if at and rows > ROWS_MAX:
                part, self._inbox = self._inbox[:at], self._inbox[at:]
                return part
        part, self._inbox = self._inbox, []
        return part

    async def _take_turn(self, asks: list[Ask]) -> None:
        try:
            await self._work(asks, time.monotonic() + PATIENCE_S)
        except Exception as exc:  # noqa: BLE001 (one bad entry must not fail the others)
            if len(asks) > 1 and not isinstance(exc, StoreError):
                for ask in asks:
                    await self._take_turn([ask])
                return
            for ask in asks:
                ask.value, ask.error = None, _told(exc, self._server.shown)
        for ask in asks:
            self._answer(ask)

    def _answer(self, ask: Ask) -> None:
        if ask.reply.done():  # its caller has gone away
            if ask.want is not None and ask.value is not None:
                self._orphaned(ask.value.deliveries)
        elif ask.error is not None:
            ask.reply.set_exception(ask.error)
        else:
            ask.reply.set_result(ask.value)

    async def _work(self, asks: list[Ask], until_s: float) -> None:
        """Take a turn, again where it can't have been committed, or where that can be found out."""
        again, tries = False, 0
        async with self.link.lock:
            while True:
                db = await self.link.get(until_s)
                try:
                    turn = await self._transact(db, asks, again=again)
                except Lost as exc:
                    again = True
                    self._unheard.update([signed(ask.want.holder) for ask in asks if ask.want is not None])
                    if time.monotonic() >= until_s:
                        raise StoreError(
                            f"the store {self._server.shown} did not answer; whether it took this is not known. Repeat"
                            " it under the same id or idempotency key"
                        ) from exc
                except Again:
                    tries += 1
                    if tries == _TRIES:
                        raise
                else:
                    break
        self._committed(turn)

    async def _transact(self, db: Db, asks: list[Ask], *, again: bool) -> Turn:
        await self.queues.make(db, set[str]().union(*(ask.queues for ask in asks)))
        turn = Turn(db, self.queues, again=again)
        if not again and not self._unheard and _alone(asks):  # the statement is the transaction, but for a pooler
            await self._undoing(db, self._do(turn, asks))
        else:
            await db.begin()
            await self._undoing(db, self._do_together(turn, asks))
        self._learn(asks)
        return turn

    async def _undoing(self, db: Db, work: Awaitable[None]) -> None:
        """Do something, and roll back whatever of it is open if it fails."""
        try:
            await work
        except BaseException:
            self.queues.forget()  # some may have been made within
            await db.roll_back()
            raise

    async def _do_together(self, turn: Turn, asks: list[Ask]) -> None:
        await self._give_back(turn)
        await self._do(turn, asks)
        await turn.db.commit()
        self._unheard.clear()

    async def _do(self, turn: Turn, asks: list[Ask]) -> None:
        if len(asks) == 1 and asks[0].want is not None and asks[0].settlements and _alone(asks):
            asks[0].value = await self._settle_and_claim(turn, asks[0].settlements, asks[0].want)
            return
        settlements = [one for ask in asks for one in ask.settlements]
        settled, unsettled = await deferred.settle_all(turn, settlements, self._server.schema)
        messages = [message for ask in asks for message in ask.messages]
        puts = await put.put_all(turn, messages, await self._room(turn, messages)) if messages else []
        at = put_at = 0
        for ask in asks:
            failed: dict[int, Exception] = {}
            if ask.messages:
                ask.value = puts[put_at : put_at + len(ask.messages)]
                put_at += len(ask.messages)
            if ask.settlements:
                ask.value = settled[at : at + len(ask.settlements)]
                failed = {
                    place - at: exc for place, exc in unsettled.items() if at <= place < at + len(ask.settlements)
                }
                at += len(ask.settlements)
            if ask.want is not None:
                ask.value = await self._claim(turn, ask.want, ask.value or [])
                ask.value.unsettled = failed
            if ask.act is not None:
                ask.value = await ask.act(turn)
        await turn.put_letters(put.put_all)
        if turn.missed:
            await read.count_gaps(turn)

    async def _settle_and_claim(self, turn: Turn, settlements: Sequence[Settlement], want: Want) -> Claimed:
        """Take the turn of a busy worker: one statement."""
        rows = await settle.settle_and_claim(turn, settlements, want.values(turn.queues.by_name, signed(want.holder)))
        won: set[int] = set(rows[-1][-1] or ())
        found = await self._deliveries(turn, rows[:-1])
        full = bool(found) and len(found) >= sum(want.queues.values())
        settled = [one.delivery.ref in won for one in settlements]
        return Claimed(found, settled, None if full else await claim.next_due_s(turn))

    async def _claim(self, turn: Turn, want: Want, settled: list[bool]) -> Claimed:
        await self.queues.make(turn.db, want.queues)
        found = await self._deliveries(turn, await claim.claim(turn, want, signed(want.holder)))
        full = bool(found) and len(found) >= sum(want.queues.values())
        return Claimed(found, settled, None if full else await claim.next_due_s(turn))

    async def _deliveries(self, turn: Turn, rows: Sequence[Row]) -> list[Delivery]:
        """Make deliveries of claimed rows; one whose bytes don't fit its checksum ends here."""
        found, damaged = claim.deliveries(turn, rows)
        if damaged:
            alone = not turn.db.in_transaction
            if alone:
                await turn.db.begin()
            await end.end(turn, damaged, State.DEAD, Cause.CHECKSUM, "m.state = 5")
            await turn.put_letters(put.put_all)
            if alone:
                await turn.db.commit()
            for no in sorted({row[1] for row in rows if row[0] in damaged}):
                hit = [row[13] for row in rows if row[1] == no and row[0] in damaged]
                log_damaged(_log, turn.queues.by_no[no].name, hit)
        return found

    async def _room(self, turn: Turn, messages: Sequence[Message]) -> Room:
        """Give what is known of how full the queues are: counted anew once a second, or each time where it matters."""
        settings, now_s = self._settings, time.monotonic()
        numbers = {self.queues.by_name[message.queue].no for message in messages if not message.event}
        if any(message.event for message in messages):
            numbers.update(self.queues.by_no)
        size = sum([len(message.body) + len(message.headers) for message in messages])
        known: dict[int, tuple[int, int]] = {}
        for no in numbers:
            rows, held, counted_s = self._depths.get(no, (0, 0, 0.0))
            near = (rows + len(messages)) * 2 > settings.depth_max or (held + size) * 2 > settings.depth_bytes_max
            if not near and now_s - counted_s < _DEPTH_S:
                known[no] = (rows, held)
                self._depths[no] = (rows + len(messages), held + size, counted_s)
        stale = [no for no in numbers if no not in known]
        for no, rows, held in await turn.db.fetch(read.DEPTHS, stale) if stale else ():
            known[no] = (rows, held)
            self._depths[no] = (rows + len(messages), held + size, now_s)
        return Room(settings.depth_max, settings.depth_bytes_max, known)

    async def _give_back(self, turn: Turn) -> None:
        """Release what was claimed without an answer, by an earlier try of this turn or by one that was given up."""
        for holder in self._unheard:
            found = await turn.db.fetch(_ORPHANS, holder, self.fences.get(holder, 0))
            await turn.ring([row[0] for row in found])

    def _learn(self, asks: list[Ask]) -> None:
        """Keep the last fence of each holder: only what it knows to hold is renewed."""
        for ask in asks:
            if ask.want is not None and ask.value.deliveries:
                self._knows(ask.want.holder, ask.value.deliveries[0].fence)
            for message in ask.messages:
                if message.reserve is not None:
                    puts: list[Put] = ask.value
                    for put in puts:
                        if put.delivery is not None:
                            self._knows(message.reserve.holder, put.delivery.fence)

    def _knows(self, holder: int, fence: int) -> None:
        key = signed(holder)
        if key not in self.fences and len(self.fences) >= 1000:
            self.fences.pop(next(iter(self.fences)))
        self.fences[key] = max(self.fences.get(key, 0), fence)


def _alone(asks: list[Ask]) -> bool:
    """Say whether a turn is one statement: plain puts, or the plain settlements and the claim of one worker."""
    if any(ask.act is not None for ask in asks):
        return False
    if all(ask.want is None and not ask.settlements for ask in asks):
        return all(_plain(message) for ask in asks for message in ask.messages)
    if len(asks) > 1 or asks[0].want is None:
        return False
    settlements = asks[0].settlements
    refs = {one.delivery.ref for one in settlements}
    return len(refs) == len(settlements) and all(settle.plain(one) for one in settlements)


def _plain(message: Message) -> bool:
    return message.line is None and message.dedup is None and message.reserve is None and not message.event


def _told(exc: BaseException, shown: str) -> BaseException:
    """Give an error that says what to do where the server's own doesn't."""
    if isinstance(exc, Again):
        error = in_the_way()
    elif is_said(exc):
        error = StoreError(f"the store {shown} refused: {exc}")
    else:
        return exc
    error.__cause__ = exc
    return error
