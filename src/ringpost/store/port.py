"""The store port: what every store must do. Batches in, one answer per entry, in the order of the entries.

Each entry is atomic by itself and may share a commit with others; an answer is given only at the durability that the
entry asks for: puts, settlements and changes durable, claims, renewals, progress and releases not. Time is the store's.
What the conformance suite (`ringpost.testing.conformance`) asserts is part of this port.

A store with the capability `move` gives its rows to another one, and takes another's: `Movable`.

A store with the capability `sql` also runs the SQL of handlers, on tables of theirs beside its own: `begin` opens a
transaction that ends together with the handling, and settlements bring deferred statements along (`Settlement.sql`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from msgspec import Struct

from ringpost.core.life import QUEUED
from ringpost.core.message import (
    Answer,
    Cause,
    Delivery,
    Failure,
    Kind,
    Message,
    Progress,
    Record,
    Settlement,
    State,
    Statement,
)
from ringpost.core.receipt import Level
from ringpost.store.log import Logged

Capability = Literal["sql", "lines", "priority", "find", "delay", "move"]


class Facts(Struct, frozen=True):
    """What a store is, as probed at open."""

    store_id: str
    level: Level
    capabilities: frozenset[Capability]
    url: str


Refused = Literal["", "key_reused", "mismatch", "full", "disk"]


class Put(Struct, gc=False):
    """The answer to one message. Nothing was stored where `refused` is set.

    `duplicate`: the id or the dedup key was known; then `id` and `state` are those of the row that was there.
    `refused`: `key_reused` (another body under the key), `mismatch` (same id, other content), `full` (depth or bytes),
    `disk` (no room). `delivery`: of a message that was born running here, also when it overtook a lapsed reservation.
    """

    id: bytes
    duplicate: bool = False
    receivers: int = 1
    state: State | None = None
    refused: Refused = ""
    delivery: Delivery | None = None


class Claimed(Struct, gc=False):
    """What one turn gave. `settled`: one bool per settlement, False where the fence was lost (nothing of it applied).
    `next_due_s`: seconds until something scheduled becomes due, if anything is. `unsettled`: by their place, those that
    were not settled either though their fence holds, because of their deferred SQL: what it raised, or None where there
    was no time for it and it shall come again. Nothing of such a settlement was applied, and of others everything."""

    deliveries: list[Delivery]
    settled: list[bool]
    next_due_s: float | None = None
    unsettled: Mapping[int, Exception | None] = {}


class Renewed(Struct, gc=False):
    """What a holder learns at renewal, by `Delivery.ref`."""

    cancel: list[int]  # somebody asked to cancel these
    held: int  # how many rows were renewed


class Cancel(Struct, frozen=True):
    """Cancel a message: at once where it waits, by a flag where it runs."""

    id: bytes
    who: str = ""


class Replay(Struct, frozen=True):
    """Open the next generation of a dead message, audited. `why`: by which plan, in words."""

    id: bytes
    generation: int
    who: str = ""
    why: str = ""


class Drop(Struct, frozen=True):
    """Remove a dead message, audited."""

    id: bytes
    who: str = ""


class Report(Struct, frozen=True):
    """Keep the progress of a running delivery, guarded by its fence; not durable."""

    delivery: Delivery
    progress: Progress


class Conclude(Struct, frozen=True):
    """End a forwarded message as it ended in the store that has it.

    Only where the row is forwarded and still of this generation; the commit that ends it also puts the letters of
    `core/farewell.py`, as for every end that the store itself makes. `to` is any end; the answer takes the place of
    what was kept at the hand-over.
    """

    id: bytes
    generation: int
    to: State
    cause: Cause = Cause.NONE
    answer: Answer | None = None
    failure: Failure | None = None


Order = Cancel | Replay | Drop | Report | Conclude


class Changed(Struct, gc=False):
    """The answer to an order. `done`: it took effect. `requested`: a running handler, or the forwarder of a forwarded
    row, was told (for a Report: go on, but cancelling was asked for). `too_late`: the row was in `state`. `unknown`: no
    such row. `conflict`: other generation, or for a Report the fence was lost; a Conclude finds the row not forwarded
    while it lives."""

    result: Literal["done", "requested", "too_late", "unknown", "conflict"]
    state: State | None = None


AUDITED_MAX = 100


class Audited(Struct, frozen=True):
    """What was done with a message by somebody who is no handler: `replay`, `drop`; of a dead one `move`, noted in both
    stores; by the store's upkeep, `purge`; while its log was read, `checksum`: the bytes of an event have changed, and
    it was passed over.

    `detail`: of a replay the generation that it opened, and why: `generation 2: by id`.
    """

    at_ms: int
    who: str
    what: str
    detail: str


def untouched(before: Record, state: State, fence: int, generation: int) -> bool:
    """Say whether a row that nobody holds is still as it was exported: a claim raises the fence, a replay the
    generation, and whatever ends it shows. That a waiting one is due now, or the first, changes nothing of it."""
    same_place = state is before.state or (state in QUEUED and before.state in QUEUED)
    return state is not State.RUNNING and same_place and fence == before.fence and generation == before.generation


def replay_detail(order: Replay) -> str:
    """Say which generation a replay opened, and why."""
    return f"generation {order.generation + 1}{f': {order.why}' if order.why else ''}"


class Filter(Struct, frozen=True):
    """Which rows `find` gives, by ascending `ref`."""

    queue: str | None = None
    states: tuple[State, ...] = ()
    kind: Kind | None = Kind.MESSAGE
    after: int = 0
    limit: int = 100
    bodies: bool = True


class Exported(Struct, gc=False):
    """A row with all that hangs on it, on its way into another store.

    `heads`: it is the first of its line, also while it is tried again, or dead where its queue halts. `sound`: what is
    stored still has the checksum that it was put with.
    """

    record: Record
    line: bytes | None
    dedup: bytes | None
    digest: bytes | None
    caller: str | None
    heads: bool
    sound: bool


class Passage(Struct, frozen=True):
    """From which store to which rows are moved (the ids of both), by whom, and in which move: one that is broken off
    and goes on is the same, so that what came is known."""

    source: str
    target: str
    who: str
    move: str


class Tended(Struct, gc=False):
    """What one bounded step of upkeep did."""

    due: int = 0
    expired: int = 0
    lost: int = 0  # leases that had ended
    woken: int = 0  # heads of lines
    purged: int = 0
    more: bool = False  # there is more to do at once
    next_due_s: float | None = None


class Depth(Struct):
    """A queue as operators see it. Counters only rise; a rate is two readings apart."""

    queue: str
    ready: int
    running: int
    scheduled: int
    waiting: int
    dead: int
    oldest_ms: int | None  # created, of the oldest that is ready
    puts: int
    ends: int


CATCH_UP_BYTES_MAX = 8 << 20
"""So many bytes of the log, and at least one entry, are given in one step."""


class CaughtUp(Struct, gc=False):
    """What one step of catching up did. `given`: deliveries that were made of the log. `behind`: it isn't done. `more`:
    there is more to give at once; else its queue is full, or somebody is publishing at this moment. `damaged`: entries
    of the log that were passed over, as their bytes have changed."""

    given: int = 0
    behind: bool = False
    more: bool = False
    damaged: int = 0


class Note(Struct):
    """A small register: subscriptions, instances, operations, pauses. `lease_s` None: it stays until removed."""

    name: str
    value: bytes
    version: int = 0
    lease_s: float | None = None


class Woken(Struct, gc=False):
    """A hint that something may have changed; polling is the truth."""

    queues: frozenset[str] = frozenset()
    ids: frozenset[bytes] = frozenset()


class SqlTransaction(Protocol):
    """A handler's SQL and the end of its handling in one transaction, or none of it. What `Store.begin` gives.

    The pipeline makes one for a handling that asks for it, in its event loop, and ends it exactly once: by `commit`, or
    by `rollback` if the handler failed, raised or was cancelled; by `rehearse` where it only shows what would be. Until
    the first statement that writes, or `lock`, it costs nothing: statements that only read run by themselves, each
    seeing what was committed before it. From then on it has `begun`, and sees its own writes. Statements come one at a
    time, in order; an error of the database (raised as the driver raises it) leaves the transaction usable where the
    database does, else the end reports it.

    How long it may be held is the store's limit (`tx_hold_max`): where others would wait for it, as on SQLite, it is
    rolled back by itself once the time is over, and everything after raises TransactionHeldTooLong, whose text has
    what `where` said at that instant; the store's other methods may wait for it as well. A store whose writers don't
    wait for each other may hold it until `max_run`.

    Refused with UsageError: what begins or ends a transaction (COMMIT, ROLLBACK, SAVEPOINT), settings of the
    connection, and everything on the store's own tables. A store that can't refuse all of it says so in its page.
    """

    @property
    def begun(self) -> bool:
        """Whether it has begun, whatever became of it since; until then there is nothing to undo."""
        ...

    @property
    def connection(self) -> Any:
        """The driver's own connection, inside the transaction; UsageError where the store can't lend it."""
        ...

    async def execute(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Run a statement and give its rows."""
        ...

    async def lock(self) -> None:
        """Begin now, so that what is read from here on can't change before it is written."""
        ...

    async def commit(
        self, settlement: Settlement | None, staged: Sequence[Message] = (), sql: Sequence[Statement] = ()
    ) -> bool:
        """Run what was deferred, settle under the fence, put what was staged, and commit all of it, durably.

        With a settlement `staged` and `sql` are its own (a message's, or the reservation's of a keyed call); None: a
        call without key, which has no fence. False: the fence was lost, and everything was rolled back. Raises what
        the database or a deferred statement raised, TransactionHeldTooLong, StoreError; then too nothing was
        committed, but for a StoreError of a connection that broke meanwhile: there the fence tells, at the next
        settlement. Also for one that has not begun: then it may share a commit with others. A caller who stops
        waiting doesn't stop it.
        """
        ...

    async def rehearse(self, sql: Sequence[Statement] = ()) -> None:
        """Run what was deferred, look at all that a commit looks at, as deferred constraints, and undo everything.

        Instead of `commit`. Raises what that would have raised because of the statements.
        """
        ...

    async def rollback(self) -> None:
        """Undo everything. Harmless where it is over already, and in the middle of a statement of a cancelled task."""
        ...


class Store(Protocol):
    """What every store does. Methods may be called concurrently from one event loop; `renew` is blocking
    and is called from a thread of its own, so that a lease survives a blocked loop."""

    facts: Facts

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts: ...
    async def close(self) -> None: ...

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        """Put messages, one answer each.

        An event becomes a delivery for each subscription that is live. With `log_s` it is kept in the event's log in
        the same commit, and is known there for so long: a repeat changes nothing, whoever has subscribed since.
        """
        ...

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        """Settle, then take at most as many of each queue as wanted, with one new fence. `suspects`: how many messages
        with two or more losses may be among them."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Settle under the fence, one bool each: False where it was lost. Those with deferred SQL come by `claim` only.

        To FORWARDED: the row keeps the answer as any other, leaves its line (the next is woken), has no lease and never
        expires or lapses: a Conclude ends it, a Cancel flags it and wakes who waits for its id, and `find` with that
        state gives what is away, with answers.
        """
        ...

    def begin(self, where: Callable[[], str], *, alone: bool = False) -> SqlTransaction:
        """Open a transaction for one handling; it begins when it must. `where` says where its handler stands, and may
        be called from any thread. `alone`: it begins when no other of these is under way, in no process: programs
        that start together make the same tables. Raises UsageError without the capability `sql`."""
        ...

    def renew(self, holder: int, lease_s: float) -> Renewed: ...
    async def change(self, orders: Sequence[Order]) -> list[Changed]: ...
    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]: ...
    async def find(self, filter: Filter, /) -> list[Record]: ...
    async def audit(self, id: bytes) -> list[Audited]:
        """Give what was done with a message, the oldest first, of the latest 100; also once it is gone."""
        ...

    async def depths(self) -> list[Depth]: ...
    async def tend(self, limit: int = 1000) -> Tended: ...

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        """Give a subscription that is behind what the event's log has and it did not get: one bounded step, in the
        order of the log, of low priority, in one commit with how far it has come. Of those in its queue no more wait
        than `core/subscription.py` says.

        The step that finds the end of the log makes the subscription live in the same commit, so that nothing comes
        between: no event is passed over, however late its commit, and none is given twice. A subscription that isn't
        there, is suspended or not behind is left as it is. Several processes at once share the work.
        """
        ...

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        """Write a note; with `expect` only if its version is that (0: it must not exist or its lease has ended)."""
        ...

    async def note_drop(self, name: str) -> bool: ...
    async def notes(self, prefix: str = "") -> list[Note]: ...

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait for something to claim in the queues, or a change of the ids. Returns at once where something is ready
        or has ended already, and with nothing after the timeout. Of several that wait for a queue one is enough."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A store with the capability `move`. Rows go by three steps, each of which may be repeated: `export` reads them,
    the other store's `take_in` keeps them durably, `take_out` removes them here if nobody has touched them since.

    Whoever moves pauses the queues first: between the two last steps a row is in both stores, and must not be claimed
    in this one.
    """

    async def export(self, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
        """Give a page of rows in these states, by ascending `ref`, reservations too: none that a holder runs, and none
        of a line whose head is running. Nothing changes."""
        ...

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        """Keep rows as they were in another store, in one commit: state, times, attempts, errors, answers, keys, and
        the order of each line, behind who stands in it here. No limit holds, and nobody is told of an end.

        `duplicate`: the id is here, or came by the last `take_in` of this move, which may be long ago: then it may have
        been handled and purged since. `refused`: `mismatch` (same id, other content, or one that isn't sound),
        `key_reused` (the idempotency key is here under another id, which is given).
        """
        ...

    async def take_out(self, rows: Sequence[Exported], passage: Passage) -> list[bool]:
        """Remove rows without an end: nobody is told, the next of each line takes its turn. False for one that has been
        claimed, settled, cancelled or replayed since it was exported: nothing of it changes. True also for one that is
        gone already."""
        ...

    async def export_log(self, event: str, after: int, limit: int) -> list[Logged]:
        """Give a page of an event's log, behind a place in it and in its order; of what is to come later, none will
        stand before the last of it. Nothing changes."""
        ...

    async def take_in_log(self, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
        """Keep entries as they were in another store's log, behind those that came from there before, in one commit;
        gives the place of each, also of one that is here already. At least one is given.

        Nothing is kept and no place given where the last of the event here didn't come from there: what was told before
        it would come after it.
        """
        ...

    async def take_out_log(self, event: str, entries: Sequence[Logged]) -> None:
        """Remove entries. Repeating it is harmless."""
        ...

    async def has_log(self, event: str) -> bool:
        """Say whether the log of an event has anything."""
        ...


class Fetch(Protocol):
    """Run a statement in a transaction that is somebody else's, and give its rows."""

    async def __call__(self, sql: str, /, *values: object) -> Sequence[Sequence[Any]]: ...


class Joined(Protocol):
    """Messages on their way into a transaction that is somebody else's."""

    async def is_here(self, fetch: Fetch) -> bool:
        """Say whether a transaction is on the store's database. Nothing is written."""
        ...

    async def put(self, fetch: Fetch) -> list[Put]:
        """Put them in the transaction, one answer each: they are there once it commits, or never."""
        ...


class JoinedEnd(Protocol):
    """The end of a handling on its way into a transaction that is somebody else's."""

    async def settle(self, session: object) -> bool:
        """Settle under the fence and put what was staged, in the session's transaction, which the caller then commits.

        False: the fence was lost, and the session is to be rolled back; so it is if this raises: what the driver
        raises, StoreError.
        """
        ...

    def committed(self) -> None:
        """Wake who waits for it. To be called once the session has committed."""
        ...


@runtime_checkable
class Joining(Protocol):
    """A store that shares a database with others, and can be put into by their commits."""

    async def join(self, messages: Sequence[Message]) -> Joined:
        """Make messages ready to be put in somebody else's transaction. Nothing is stored yet."""
        ...

    async def join_end(self, settlement: Settlement | None, staged: Sequence[Message]) -> JoinedEnd:
        """Make the end of a handling ready for somebody else's transaction, as `SqlTransaction.commit` takes it.
        Nothing is stored yet."""
        ...

    async def joins(self, session: object) -> bool:
        """Say whether an awaited session is on this store's database, as its server says. Writes nothing.

        Raises UsageError for a session that can't be joined, and what the driver raises.
        """
        ...


@runtime_checkable
class Alarming(Protocol):
    """A store that says what others, or the disk, do to it."""

    async def alarms(self) -> list[str]:
        """Say what slows the store down from outside, or what damage was met, each with a colon and what to do;
        nothing where all is well."""
        ...
