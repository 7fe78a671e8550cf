"""A store's life in short: everything that can be done with it, what it acknowledged, and whether that still holds.

Works with any store: `Life` takes one that is open, `examine` one that was opened after a crash.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from ringpost.contract.errors import StoreError
from ringpost.core.message import Answer, Cause, Delivery, Failure, Message, Priority, Record, Settlement, State
from ringpost.store.port import Cancel, Note, Replay, Store

QUEUES = ("mail.welcome", "shop.order", "stats.on.shop.sold")
LEASE_S = 30.0
FAILURES_MAX = 3  # a life that was refused so often is over
LIVE = (State.SCHEDULED, State.WAITING, State.READY, State.RUNNING)


class Kept(Struct, frozen=True, tag=True):
    """A receipt was given for it."""

    id: bytes
    queue: str
    body: bytes


class Claimed(Struct, frozen=True, tag=True):
    """It was given out under this fence."""

    id: bytes
    fence: int


class Staging(Struct, frozen=True, tag=True):
    """A success of a message is asked for, with these messages in its commit."""

    id: bytes
    staged: tuple[bytes, ...]


class Ended(Struct, frozen=True, tag=True):
    """It was acknowledged that it is over, and how."""

    id: bytes
    state: State
    answer: bytes


class Reopened(Struct, frozen=True, tag=True):
    """It was acknowledged that it lives again."""

    id: bytes


class Noted(Struct, frozen=True, tag=True):
    """A note is to be there, or with no value to be gone; asked for, or acknowledged."""

    name: str
    value: bytes | None
    sure: bool


Word = Kept | Claimed | Staging | Ended | Reopened | Noted


class Ledger:
    """What was acknowledged up to a moment."""

    def __init__(self, words: Iterable[Any]) -> None:
        self.kept: dict[bytes, Kept] = {}
        self.fences: dict[bytes, int] = {}
        self.staging: dict[bytes, list[Staging]] = {}
        self.ended: dict[bytes, Ended] = {}
        self.doubled: list[bytes] = []  # told twice that it is over
        self.notes: dict[str, set[bytes | None]] = {}  # what may be there
        for word in words:
            self.take(word)

    def take(self, word: Any) -> None:
        match word:
            case Kept():
                self.kept[word.id] = word
            case Claimed():
                self.fences[word.id] = max(word.fence, self.fences.get(word.id, 0))
            case Staging():
                self.staging.setdefault(word.id, []).append(word)
            case Ended():
                if word.id in self.ended:
                    self.doubled.append(word.id)
                self.ended[word.id] = word
            case Reopened():
                self.ended.pop(word.id, None)
            case Noted(name, value, True):
                self.notes[name] = {value}
            case Noted(name, value, False):
                self.notes.setdefault(name, {None}).add(value)
            case _:
                pass


class Life:
    """Use a store in every way, and tell each acknowledgement to `say` the moment it is there."""

    def __init__(self, store: Store, seed: int, say: Callable[[Word], None], *, holder: int = 1) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.say = say
        self.failures: list[StoreError] = []
        self.refused = 0  # settlements, because the fence was lost
        self.callers: Sequence[int] = (1, 1, 5, 20)  # how many send at once, one of these
        self._holder = holder
        self._number = holder * 1_000_000
        self._running: list[Delivery] = []
        self._dead: list[Delivery] = []
        self._sent: list[bytes] = []

    async def live(self, messages: int) -> None:
        """Go on until so many messages were put. What the store refuses is noted in `failures`, and life goes on."""
        target = self._number + messages
        while self._number < target:
            for step in (self._note, self._put_some, self._claim, self._settle, self._change, self._tend):
                try:
                    await step()
                except StoreError as failure:
                    self.failures.append(failure)
                    if len(self.failures) > FAILURES_MAX:
                        return

    def message(self, *, body_max: int = 2000) -> Message:
        self._number += 1
        number, chance = self._number, self.random
        body = b'"%d %s"' % (number, chance.randbytes(chance.randint(1, body_max) // 2).hex().encode())
        return Message(
            number.to_bytes(16, "big"),
            chance.choice(QUEUES),
            body,
            headers=b'{"sender":"life"}',
            priority=chance.choice(list(Priority)),
            line=chance.choice((b"\1" * 16, b"\2" * 16)) if chance.random() < 0.1 else None,
            keep_s=100_000,
        )

    async def _put_some(self) -> None:
        callers = self.random.choice(self.callers)
        lots = [[self.message() for _ in range(self.random.choice((1, 1, 4)))] for _ in range(callers)]
        done = await asyncio.gather(*map(self._put, lots), return_exceptions=True)
        for failure in done:
            if isinstance(failure, BaseException):
                raise failure

    async def _put(self, messages: Sequence[Message]) -> None:
        puts = await self.store.put(messages)
        for message, put in zip(messages, puts, strict=True):
            if not put.refused:
                self.say(Kept(message.id, message.queue, message.body))
                self._sent.append(message.id)

    async def _claim(self) -> None:
        claimed = await self.store.claim(dict.fromkeys(QUEUES, self.random.randint(1, 20)), self._holder, LEASE_S)
        for delivery in claimed.deliveries:
            self.say(Claimed(delivery.id, delivery.fence))
        self._running += claimed.deliveries

    async def _settle(self) -> None:
        self.random.shuffle(self._running)
        count = self.random.randint(0, len(self._running))
        ending, self._running = self._running[:count], self._running[count:]
        settlements = [self._settlement(delivery) for delivery in ending]
        _say_staging(settlements, self.say)
        settled = await self.store.settle(settlements)
        for one, won in zip(settlements, settled, strict=True):
            self.refused += not won
            if won:
                self._say_settled(one)

    def _settlement(self, delivery: Delivery) -> Settlement:
        chance = self.random.random()
        if chance < 0.7:
            staged = [self.message(body_max=200) for _ in range(self.random.choice((0, 0, 1, 2)))]
            return Settlement(delivery, State.SUCCEEDED, Answer(200, b'"done %d"' % delivery.ref), staged=staged)
        if chance < 0.8:
            failure = Failure("ValueError", "no hope", "Traceback", delivery.attempt)
            return Settlement(delivery, State.DEAD, cause=Cause.HANDLER_ERROR, failure=failure)
        if chance < 0.9:
            return Settlement(delivery, State.SCHEDULED, delay_s=0.0)
        return Settlement(delivery, State.READY, charge=False)

    def _say_settled(self, one: Settlement) -> None:
        if one.to.terminal:
            self.say(Ended(one.delivery.id, one.to, b"" if one.answer is None else one.answer.body))
        if one.to is State.DEAD:
            self._dead.append(one.delivery)
        for message in one.staged:
            self.say(Kept(message.id, message.queue, message.body))

    async def _change(self) -> None:
        if self._sent:
            id = self._sent.pop(self.random.randrange(len(self._sent)))
            (changed,) = await self.store.change([Cancel(id, "life")])
            if changed.result == "done":
                self.say(Ended(id, State.CANCELLED, b""))
        if self._dead and self.random.random() < 0.5:
            dead = self._dead.pop()
            self.say(Reopened(dead.id))  # from here on it may live or be dead
            await self.store.change([Replay(dead.id, dead.generation, "life")])

    async def _note(self) -> None:
        name = f"life/{self._holder}/{self.random.randint(1, 3)}"
        value = b'{"n":%d}' % self._number
        if self.random.random() < 0.2:
            self.say(Noted(name, None, False))
            await self.store.note_drop(name)
            self.say(Noted(name, None, True))
        else:
            self.say(Noted(name, value, False))
            await self.store.note_put(Note(name, value))
            self.say(Noted(name, value, True))

    async def _tend(self) -> None:
        await self.store.tend(100)


async def examine(store: Store, ledger: Ledger) -> list[str]:
    """Say what of the acknowledged doesn't hold in a store opened after a crash."""
    ids = list(ledger.kept)
    records = dict(zip(ids, await store.read(ids, bodies=True), strict=True)) if ids else {}
    wrong = [
        complaint for id, kept in ledger.kept.items() if (complaint := _about(kept, records[id], ledger.ended.get(id)))
    ]
    wrong += [f"message {_number(id)} was settled twice" for id in ledger.doubled]
    wrong += await _about_staging(store, ledger)
    notes = {note.name: note.value for note in await store.notes("life/")}
    wrong += [f"the note {name} is lost" for name, may in ledger.notes.items() if notes.get(name) not in may]
    return wrong


async def _about_staging(store: Store, ledger: Ledger) -> list[str]:
    """See that what a success staged is there with it, and is not there without it."""
    ids = list({*ledger.staging, *(id for tries in ledger.staging.values() for one in tries for id in one.staged)})
    records = dict(zip(ids, await store.read(ids), strict=True)) if ids else {}
    wrong: list[str] = []
    for id, tries in ledger.staging.items():
        there = [[records[staged] is not None for staged in one.staged] for one in tries]
        record = records[id]
        succeeded = record is not None and record.state is State.SUCCEEDED
        if any(len(set(each)) > 1 for each in there):
            wrong.append(f"of what message {_number(id)} staged only a part is there")
        elif succeeded and not any(all(each) for each in there):
            wrong.append(f"message {_number(id)} succeeded, and what it staged is not there")
        elif not succeeded and any(any(each) for each in there):
            wrong.append(f"message {_number(id)} has not succeeded, and what it staged is there")
    return wrong


def _say_staging(settlements: Sequence[Settlement], say: Callable[[Word], None]) -> None:
    for one in settlements:
        if one.to is State.SUCCEEDED:
            say(Staging(one.delivery.id, tuple(message.id for message in one.staged)))


def _number(id: bytes) -> int:
    return int.from_bytes(id, "big")


def _silent(word: Word) -> None:
    """Nobody wants to know."""


def _about(kept: Kept, record: Record | None, ended: Ended | None) -> str:
    number = _number(kept.id)
    if record is None:
        return f"message {number} is lost"
    if record.body != kept.body or record.queue != kept.queue:
        return f"message {number} has another body"
    if ended is None:
        return ""
    if record.state is not ended.state:
        return f"message {number} was {ended.state.name} and is {record.state.name}"
    if ended.answer and (record.answer is None or record.answer.body != ended.answer):
        return f"the answer to message {number} is lost"
    return ""


async def work_off(
    store: Store, ledger: Ledger, pass_time: Callable[[], None], say: Callable[[Word], None] = _silent
) -> list[str]:
    """Let a new worker do all that is left; say what was given out wrongly, or not at all."""
    wrong: list[str] = []
    bodies = {id: kept.body for id, kept in ledger.kept.items()}
    holder = 1_000 + os.getpid()  # nobody's before it
    for _ in range(40):
        pass_time()
        await store.tend()
        claimed = await store.claim(dict.fromkeys(QUEUES, 300), holder, LEASE_S, suspects=300)
        for one in claimed.deliveries:
            number = _number(one.id)
            if one.id in bodies and one.body != bodies[one.id]:
                wrong.append(f"message {number} was given out with another body")
            if one.id in ledger.ended:
                wrong.append(f"message {number} was over and was given out again")
            if one.fence <= ledger.fences.get(one.id, 0):
                wrong.append(f"message {number} came again under a fence that is no higher")
            say(Claimed(one.id, one.fence))
        settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]
        _say_staging(settlements, say)
        settled = await store.settle(settlements)
        for one in claimed.deliveries:
            say(Ended(one.id, State.SUCCEEDED, b""))
        if not all(settled):
            wrong.append("a settlement of what was just claimed was refused")
        if not any(depth.ready + depth.running + depth.scheduled + depth.waiting for depth in await store.depths()):
            return wrong
    return [*wrong, "something is stuck"]
