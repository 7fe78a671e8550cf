"""Moving what is in one store to another: its queues are paused, then batch by batch is kept there and taken out here.

The order is what makes it safe to be killed at any moment: a row is in both stores for an instant, where only the new
one may have it claimed, and never in none. Who goes on after a kill is the same move, which the old store remembers
until the end, so that the new one knows what it was brought before.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import cast

from msgspec import Struct, structs

from ringpost.contract.errors import StateError, UsageError
from ringpost.core import ids, notes
from ringpost.core.life import ENDS, QUEUED
from ringpost.core.message import Kind, State
from ringpost.store.hostclock import wall_ms
from ringpost.store.moving_log import LogMover, worked
from ringpost.store.port import Cancel, Exported, Movable, Note, Passage, Store

BATCH_ROWS = 200
BATCH_BYTES = 4 << 20  # of one commit, unless a single row has more
LEFT_MAX = 20  # so many of those that stay are named
POLL_S = 0.5
_LIVE = (*QUEUED, State.FORWARDED, State.DEAD)
_ENDED = tuple(ENDS - {State.DEAD})
_KEPT = (
    notes.SUBSCRIPTION,
    notes.OPERATION,
    notes.QUEUE,
    notes.PAUSE,
    notes.MAINTENANCE,
    notes.OVERRIDE,
    notes.RECEIVER,
)


class Terms(Struct, frozen=True, kw_only=True):
    """How to move. `live`: though processes work the old store. `ended`: also what has ended, with keys and answers.
    `wait_s`: for what runs there. `lease_s`: after so long without a sign a mover counts as gone."""

    who: str
    live: bool = False
    ended: bool = True
    wait_s: float = 60.0
    lease_s: float = 10.0


class Left(Struct, frozen=True):
    """A row that stays in the old store, and why."""

    id: str
    queue: str
    why: str


class Moved(Struct):
    """What was moved so far, by the state it was in before its line was touched. `known`: were there already. `left`:
    stay, the first of them named in `examples`. `running`: are handled in the old store. `told`: entries of the logs of
    events. `logs`: events of whose log something stays."""

    rows: dict[str, int] = {}
    known: int = 0
    left: int = 0
    examples: list[Left] = []
    running: int = 0
    told: int = 0
    logs: list[str] = []

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    @property
    def complete(self) -> bool:
        """Say whether nothing is in the old store that should be in the new one."""
        return not self.left and not self.running


Show = Callable[[Moved], None]


async def move(source: Store, target: Store, terms: Terms, show: Show = lambda moved: None) -> Moved:
    """Move all that is in a store to another one, both open. Repeating it is safe, also after it was killed.

    Whatever is put into the old store meanwhile comes too, as long as it comes before the end. Raises StateError where
    somebody works the old store, or moves it already; UsageError for stores that can't.
    """
    if source.facts.store_id == target.facts.store_id:
        raise UsageError(f"{source.facts.url} and {target.facts.url} are one store.")
    for store in (source, target):
        if not isinstance(store, Movable):
            raise UsageError(f"{store.facts.url} can't give or take messages as they are.")
    await _refuse_crossing(target)
    await _refuse_behind(source)
    if not terms.live:
        await _refuse_worked(source, terms)
    async with _alone(source, terms) as alone:
        mover = Mover(source, target, await _begun(source, target, terms), terms, alone, show)
        return await mover.run()


class Mover:
    """One run of a move. `alone` says again that it is at work, and raises StateError where another has taken over."""

    def __init__(
        self, source: Store, target: Store, passage: Passage, terms: Terms, alone: "_Alone", show: Show
    ) -> None:
        self._source = source
        self._target = target
        self._there, self._here = cast(Movable, source), cast(Movable, target)
        self._passage = passage
        self._terms = terms
        self._alone = alone
        self._show = show
        self._reason = f"ringpost move to {target.facts.url}"
        self._paused: set[str] = set()
        self._moved = Moved()
        self._stay: dict[bytes, Left] = {}
        self._touched: set[bytes] = set()  # lines whose head is moved: who is ready there now was waiting before

    async def run(self) -> Moved:
        """Move until nothing more goes."""
        await self._bring_notes()
        await self._pause()
        await self._until_nothing_runs()
        await self._go(_LIVE)
        if self._terms.ended:
            await self._go(_ENDED)
        logs = LogMover(self._source, self._target, self._passage, BATCH_ROWS)
        async for told in logs.run():
            self._moved.told = told
            self._show(self._moved)
            await self._alone.still()
        self._moved.running = await _running(self._source)
        self._moved.logs = await logs.left()
        self._moved.left, self._moved.examples = len(self._stay), list(self._stay.values())[:LEFT_MAX]
        if self._moved.complete:
            await self._end()
        return self._moved

    async def _go(self, states: tuple[State, ...]) -> None:
        """Carry page by page, until a round finds nothing that goes: something may have been put meanwhile."""
        while True:
            await self._pause()
            skipped: set[bytes] = set()
            before, after = self._moved.total, 0
            while page := await self._there.export(states, after, BATCH_ROWS):
                after = page[-1].record.ref
                for batch in _batches(self._fit(page, skipped)):
                    await self._alone.still()
                    await self.carry(batch)
                    self._show(self._moved)
            if self._moved.total == before:
                return

    def _fit(self, page: Sequence[Exported], skipped: set[bytes]) -> list[Exported]:
        """Leave out what is damaged, and of queues that came to be since the pause their lines, for the next round."""
        rows: list[Exported] = []
        for row in page:
            record = row.record
            claimable = record.kind is Kind.MESSAGE and record.state in QUEUED
            if not row.sound:
                self._leave(row, "is damaged")
            elif row.line in skipped or (claimable and record.queue not in self._paused):
                skipped.update([] if row.line is None else [row.line])
            else:
                rows.append(row)
        return rows

    async def carry(self, rows: Sequence[Exported]) -> None:
        """Keep rows in the new store, and then, with its receipt, take them out of the old one."""
        puts = await self._here.take_in(rows, self._passage)
        safe: list[Exported] = []
        for row, put in zip(rows, puts, strict=True):
            if put.refused == "key_reused":
                self._leave(row, f"its idempotency key is that of {ids.text(put.id)} there")
            elif put.refused:
                self._leave(row, "its id is there with other content")
            else:
                safe.append(row)
                self._moved.known += put.duplicate
        gone = await self._there.take_out(safe, self._passage)
        for row, done in zip(safe, gone, strict=True):
            if done:
                self._stay.pop(row.record.id, None)
                word = self._state_before(row).name.lower()
                self._moved.rows[word] = self._moved.rows.get(word, 0) + 1
            else:
                await self._crossed(row)

    def _state_before(self, row: Exported) -> State:
        """Give the state of a row that is moved now, as it was before the one ahead of it went."""
        if row.line is None or not row.heads:
            return row.record.state
        state = State.WAITING if row.line in self._touched and row.record.state is State.READY else row.record.state
        self._touched.add(row.line)
        return state

    async def _crossed(self, row: Exported) -> None:
        """See to what was touched in the old store when it was in the new one already. That it was cancelled is passed
        on, what expires does so there as well; a handler that has it can only be told of."""
        (now,) = await self._source.read([row.record.id])
        if now is not None and now.state is State.CANCELLED:
            await self._target.change([Cancel(row.record.id, self._terms.who)])
        elif now is not None and now.state is not State.EXPIRED:
            self._leave(row, f"it is {now.state.name.lower()} here and in the new store too: it may take effect twice")

    def _leave(self, row: Exported, why: str) -> None:
        self._stay[row.record.id] = Left(ids.text(row.record.id), row.record.queue, why)

    # --- around it

    async def _bring_notes(self) -> None:
        """Let the new store know what the old one was told: subscriptions, pauses and the like, where it doesn't."""
        for prefix in _KEPT:
            for note in await self._source.notes(prefix):
                if prefix == notes.PAUSE and self._is_ours(note):
                    continue
                value = _without_log(note.value) if prefix == notes.SUBSCRIPTION else note.value
                await self._target.note_put(Note(note.name, value, lease_s=note.lease_s), expect=0)

    async def _pause(self) -> None:
        """Pause all queues that aren't: whoever is at work takes nothing more from them."""
        paused = {note.name.removeprefix(notes.PAUSE) for note in await self._source.notes(notes.PAUSE)}
        queues = {depth.queue for depth in await self._source.depths()}
        for queue in sorted(queues - paused):
            pause = notes.Pause(self._terms.who, wall_ms(), self._reason)
            await self._source.note_put(Note(notes.pause(queue), notes.encode(pause)), expect=0)
        if self._terms.live and queues - paused:
            await asyncio.sleep(POLL_S)  # a claim that had begun before shows by then
        self._paused |= queues | paused

    async def _until_nothing_runs(self) -> None:
        """Wait for what runs, and for the leases of who is gone."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._terms.wait_s
        while True:
            while (await self._source.tend()).more:
                await self._alone.still()
            self._moved.running = await _running(self._source)
            if not self._moved.running or loop.time() >= until_s:
                return
            self._show(self._moved)
            await self._alone.still()
            await asyncio.sleep(min(POLL_S, max(0.0, until_s - loop.time())))

    async def _end(self) -> None:
        """Let the old store be as any other again."""
        for note in await self._source.notes(notes.PAUSE):
            if self._is_ours(note):
                await self._source.note_drop(note.name)
        await self._source.note_drop(notes.MOVING)
        await self._target.note_drop(notes.arrived(self._passage.source))

    def _is_ours(self, note: Note) -> bool:
        return notes.decode_pause(note.value).reason == self._reason


class _Alone:
    """The leased note of who moves a store: one at a time."""

    def __init__(self, store: Store, terms: Terms) -> None:
        self._store = store
        self._terms = terms
        self._me = secrets.token_hex(8).encode()
        self._renewed_s = 0.0

    async def begin(self) -> None:
        """Be the one, at latest when the lease of one that was killed is over."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._terms.lease_s + POLL_S
        while not await self._say():
            if loop.time() >= until_s:
                raise StateError(f"Another move of {self._store.facts.url} is at work.")
            await asyncio.sleep(POLL_S / 5)

    async def still(self) -> None:
        """Say again that it is at work, where that is due."""
        if asyncio.get_running_loop().time() - self._renewed_s >= self._terms.lease_s / 3 and not await self._say():
            raise StateError(f"Another move of {self._store.facts.url} has taken over: this one was away for too long.")

    async def end(self) -> None:
        if (kept := await self._kept()) is not None and kept.value == self._me:
            await self._store.note_drop(notes.MOVER)

    async def _say(self) -> bool:
        kept = await self._kept()
        if kept is not None and kept.value != self._me:
            return False
        self._renewed_s = asyncio.get_running_loop().time()
        note = Note(notes.MOVER, self._me, lease_s=self._terms.lease_s)
        return await self._store.note_put(note, expect=0 if kept is None else kept.version)

    async def _kept(self) -> Note | None:
        return next((note for note in await self._store.notes(notes.MOVER) if note.name == notes.MOVER), None)


@asynccontextmanager
async def _alone(store: Store, terms: Terms) -> AsyncGenerator[_Alone, None]:
    alone = _Alone(store, terms)
    await alone.begin()
    try:
        yield alone
    finally:
        await alone.end()


async def _begun(source: Store, target: Store, terms: Terms) -> Passage:
    """Begin a move, or go on with one that was broken off. Raises StateError for one that leads elsewhere."""
    store_id, url = target.facts.store_id, target.facts.url
    wanted = notes.Moving(secrets.token_hex(8), store_id, url, terms.who, wall_ms())
    if not await source.note_put(Note(notes.MOVING, notes.encode(wanted)), expect=0):
        begun = await _moving(source)
        if begun is not None and begun.target != store_id:
            raise StateError(
                f"{source.facts.url} is being moved to {begun.url}, by {begun.who}: let that come to its end first."
            )
        wanted = begun or wanted
    return Passage(source.facts.store_id, store_id, terms.who, wanted.move)


async def _moving(store: Store) -> notes.Moving | None:
    found = [note for note in await store.notes(notes.MOVING) if note.name == notes.MOVING]
    return notes.decode_moving(found[0].value) if found else None


async def _refuse_crossing(target: Store) -> None:
    """Refuse a new store from which a move leads away that hasn't ended."""
    begun = await _moving(target)
    if begun is not None:
        raise StateError(f"{target.facts.url} is being moved to {begun.url} itself: let that come to its end first.")


async def _refuse_behind(source: Store) -> None:
    """Refuse while a subscription is yet to be given what a log has: where it is in that log can't be said in
    another."""
    for note in await source.notes(notes.SUBSCRIPTION):
        if notes.decode_subscription(note.value).behind:
            event, _, queue = note.name.removeprefix(notes.SUBSCRIPTION).partition("/")
            raise StateError(
                f"{queue} is still being given what {event} told before: let its service run until `ringpost "
                "subscriptions list` shows it live."
            )


async def _refuse_worked(source: Store, terms: Terms) -> None:
    """Refuse a store that processes work."""
    alive = await worked(source)
    if alive:
        named = ", ".join(f"{one.host} {one.pid}" for one in alive[:5])
        count = sum(one.processes for one in alive)
        raise StateError(
            f"{count} processes work {source.facts.url} ({named}): stop them (one that was killed counts until "
            "its lease is over), or say --live: then its queues are paused under them."
        )


async def _running(store: Store) -> int:
    return sum(depth.running for depth in await store.depths())


def _without_log(value: bytes) -> bytes:
    """Give a subscription for a store that doesn't have the old one's log yet: where its gap begins there says
    nothing here."""
    before = notes.decode_subscription(value)
    return notes.encode(structs.replace(before, gap_at=0, read_at=0, read_to=0))


def _batches(rows: Iterable[Exported]) -> Iterable[list[Exported]]:
    """Cut rows into batches of so many bytes at most."""
    batch: list[Exported] = []
    size = 0
    for row in rows:
        row_bytes = len(row.record.headers) + len(row.record.body)
        if batch and size + row_bytes > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_bytes
    if batch:
        yield batch
