"""What a case of the suite is, how it is checked, and what it is given to work with."""

import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from ringpost.contract.errors import RingpostError
from ringpost.core import ids, notes
from ringpost.core.message import (
    Answer,
    Cause,
    Delivery,
    Envelope,
    Kind,
    Message,
    Record,
    Reservation,
    Settlement,
    State,
)
from ringpost.settings import Settings
from ringpost.store.port import Capability, Changed, Claimed, Note, Order, Put, Store, Tended

Advance = Callable[[float], None]
MakeStore = Callable[[Settings], tuple[Store, Advance]]
Found = TypeVar("Found")
Run = Callable[["Subject"], Awaitable[None]]

QUEUE, OTHER = "shop.buy", "mail.welcome"
HOLDER, SECOND = 7001, 7002
LEASE_S = 30.0
LOST_S = 60.0  # after so long without renewal every store has noticed that a worker is lost
LINE, KEY, DIGEST = b"line............", b"dedup...........", b"digest.........."
REPLY = Answer(200, b'{"ok":true}')

_counter = itertools.count()


class Violation(AssertionError):
    """Say which promise of the port a store has broken."""


class Case(Struct, frozen=True):
    """One promise. `needs`: capabilities without which it doesn't apply."""

    name: str
    run: Run
    settings: Settings
    needs: frozenset[Capability]


class Chapter:
    """The cases of one theme, in the order in which they are written."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._cases: list[Case] = []

    def case(self, *needs: Capability, settings: Settings | None = None) -> Callable[[Run], Run]:
        """Add the decorated function; its name says what is promised."""

        def add(run: Run) -> Run:
            name = f"{self._name}: {run.__name__.replace('_', ' ')}"
            self._cases.append(Case(name, run, settings or Settings(lease_s=LEASE_S), frozenset(needs)))
            return run

        return add

    def add(self, name: str, run: Run, *needs: Capability) -> None:
        """Add a case that is made, not written."""
        self._cases.append(Case(f"{self._name}: {name}", run, Settings(lease_s=LEASE_S), frozenset(needs)))

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases)


async def check(case: Case, make_store: MakeStore) -> bool:
    """Run one case on a new store; False where the store lacks a capability that it needs. Raises Violation.

    `make_store` takes settings and gives a store that isn't open yet, empty and its own, and a function that moves the
    store's clocks (wall and monotonic) on by so many seconds.
    """
    store, advance = make_store(case.settings)
    facts = await store.open(create=True)
    try:
        if not case.needs <= facts.capabilities:
            return False
        await case.run(Subject(store, advance))
        return True
    finally:
        await store.close()


def holds(promise: str, truth: object) -> None:
    if not truth:
        raise Violation(f"broken: {promise}")


def same(promise: str, found: Found, wanted: Found) -> None:
    if found != wanted:
        raise Violation(f"broken: {promise}; found {found!r}, wanted {wanted!r}")


def new_id() -> bytes:
    """Give a new id, later than all before it."""
    return ids.uuid7(time.time_ns() // 1_000_000, next(_counter) << 32)


def message(body: bytes = b"{}", queue: str = QUEUE) -> Message:
    return Message(new_id(), queue, body)


def lined(body: bytes, line: bytes = LINE) -> Message:
    return Message(new_id(), QUEUE, body, line=line)


def reservation(dedup: bytes = KEY, *, holder: int = HOLDER) -> Message:
    """Give what a keyed call puts first: born running, found again by its key."""
    reserve = Reservation(holder, LEASE_S)
    return Message(new_id(), QUEUE, b"{}", kind=Kind.CALL, dedup=dedup, digest=DIGEST, reserve=reserve)


class Subject:
    """A store under test, with the steps that cases are made of. A step that should have worked and didn't raises."""

    def __init__(self, store: Store, advance: Advance) -> None:
        self.store = store
        self.advance = advance

    async def put(self, *messages: Message) -> list[Put]:
        """Put what must not be refused."""
        answers = await self.store.put(messages)
        same("one answer per message", len(answers), len(messages))
        for answer in answers:
            same("a good message is not refused", answer.refused, "")
        return answers

    async def put_bodies(self, *bodies: bytes) -> list[bytes]:
        """Put plain messages, and give their ids."""
        return [answer.id for answer in await self.put(*(message(body) for body in bodies))]

    async def reserve(self, wanted: Message) -> Delivery:
        delivery = (await self.put(wanted))[0].delivery
        if delivery is None:
            raise Violation("broken: what was reserved is born running here")
        return delivery

    async def turn(
        self,
        count: int = 100,
        queue: str = QUEUE,
        *,
        holder: int = HOLDER,
        settlements: Sequence[Settlement] = (),
        suspects: int = 100,
    ) -> Claimed:
        """Tend, then claim."""
        await self.tend()
        return await self.store.claim({queue: count}, holder, LEASE_S, settlements, suspects=suspects)

    async def claim(self, count: int = 100, queue: str = QUEUE, *, holder: int = HOLDER) -> list[Delivery]:
        return (await self.turn(count, queue, holder=holder)).deliveries

    async def claim_one(self, queue: str = QUEUE, *, holder: int = HOLDER) -> Delivery:
        deliveries = await self.claim(1, queue, holder=holder)
        same("one message is there to be claimed", len(deliveries), 1)
        return deliveries[0]

    async def bodies(self, queue: str = QUEUE) -> list[bytes]:
        """Claim everything, and give the bodies in the order of the claim."""
        return [delivery.body for delivery in await self.claim(queue=queue)]

    async def settle(self, settlement: Settlement) -> bool:
        return (await self.store.settle([settlement]))[0]

    async def finish(self, delivery: Delivery, to: State = State.SUCCEEDED, cause: Cause = Cause.NONE) -> None:
        holds("the holder of a lease can settle", await self.settle(Settlement(delivery, to, cause=cause)))

    async def retry(self, delivery: Delivery, delay_s: float = 0.0) -> None:
        settlement = Settlement(delivery, State.SCHEDULED, delay_s=delay_s, cause=Cause.HANDLER_ERROR)
        holds("the holder of a lease can ask for a retry", await self.settle(settlement))

    async def order(self, order: Order) -> Changed:
        return (await self.store.change([order]))[0]

    async def record(self, id: bytes) -> Record | None:
        return (await self.store.read([id], bodies=True))[0]

    async def there(self, id: bytes) -> Record:
        record = await self.record(id)
        if record is None:
            raise Violation("broken: what was put can be read")
        return record

    async def state(self, id: bytes) -> State | None:
        record = await self.record(id)
        return None if record is None else record.state

    async def tend(self) -> Tended:
        """Tend until there is nothing more to do; gives the sums."""
        total = Tended()
        for _ in range(1000):
            done = await self.store.tend()
            for name in ("due", "expired", "lost", "woken", "purged"):
                setattr(total, name, getattr(total, name) + getattr(done, name))
            total.next_due_s = done.next_due_s
            if not done.more:
                return total
        raise Violation("broken: upkeep comes to an end")

    async def elapse(self, seconds: float) -> Tended:
        """Let time pass, tended every second: a store may wait to see that it was not itself that stalled."""
        total = Tended()
        while seconds > 0:
            self.advance(min(seconds, 1.0))
            seconds -= 1.0
            done = await self.tend()
            for name in ("due", "expired", "lost", "woken", "purged"):
                setattr(total, name, getattr(total, name) + getattr(done, name))
        return total

    async def lose(self, delivery: Delivery) -> None:
        """Let a lease end, and be noticed."""
        lost = (await self.elapse(LOST_S)).lost
        holds(f"a lease that isn't renewed for {LOST_S:g} s is lost", lost)

    async def subscribe(self, event: str, *queues: str) -> None:
        for queue in queues:
            await self.store.note_put(Note(notes.subscription(event, queue), notes.encode(notes.Subscription())))

    async def halt(self, queue: str = QUEUE) -> None:
        """Let a dead head of a queue keep its line waiting."""
        await self.store.note_put(Note(notes.queue(queue), notes.encode(notes.Queue(halt=True))))

    async def tell_failures(self, queue: str, failure_queue: str) -> None:
        """Say which queue hears of the deaths in a queue."""
        await self.store.note_put(Note(notes.queue(queue), notes.encode(notes.Queue(on_failure=failure_queue))))

    async def pause(self, queue: str, lease_s: float | None = None) -> str:
        name = notes.pause(queue)
        await self.store.note_put(Note(name, b"{}", lease_s=lease_s))
        return name


async def refuses(promise: str, attempt: Awaitable[object]) -> None:
    """Demand that something raises an error of Ringpost's."""
    try:
        await attempt
    except RingpostError:
        return
    raise Violation(f"broken: {promise}; nothing was raised")


def envelope(*, operation: str = QUEUE, reply_to: str = "", sender: str = "") -> bytes:
    """Give the headers of a message."""
    return msgspec.json.encode(Envelope(operation=operation, reply_to=reply_to, sender=sender))
