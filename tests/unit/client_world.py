"""A client on a store in memory, services of this process as it knows them, and hands to settle messages with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from ringpost.client.client import Client
from ringpost.contract.contract import Contract
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import Problem, to_members
from ringpost.core import ids
from ringpost.core.after import not_here
from ringpost.core.call import Accepted, Call
from ringpost.core.message import Answer, Delivery, Message, Reservation, Settlement, State
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore


@dataclass
class Sum:
    a: int
    b: int


class TooLarge(Problem, status=409):
    limit: int


class Adding(Contract):
    add = Operation(Sum, int, raises=[TooLarge])
    slow = Operation(Sum, int, timeout=0.05)
    forget = Operation(Sum)
    keyed = Operation(Sum, int, idempotency_key=lambda asked: f"{asked.a}+{asked.b}")
    added = Event(int)


class Elsewhere(Contract):
    lost = Operation(Sum, int)


class Here:
    """Services of this process, as a client knows them."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.calls: list[Call] = []
        self.store = store
        self.refuses: Answer | None = None
        self.refuses_after = False
        self.refused = asyncio.Event()

    def serves(self, operation: str) -> bool:
        return operation.startswith("adding.")

    async def call(self, call: Call) -> Answer:
        if self.refuses_after and call.after is not None:
            self.refused.set()
            return not_here(call.operation)
        self.calls.append(call)
        await asyncio.sleep(0)
        asked = msgspec.json.decode(call.body, type=Sum)
        if asked.a > 100:
            return problem(TooLarge(limit=100))
        if call.operation == "adding.forget":
            return Answer(204)
        return Answer(200, b"%d" % (asked.a + asked.b))

    async def accept(self, call: Call) -> Accepted | Answer:
        if self.refuses is not None:
            return self.refuses
        assert self.store is not None
        message = Message(ids.uuid7(1, 7), call.operation, call.body, reserve=Reservation(1, 30.0))
        (put,) = await self.store.put([message])
        return Accepted(put.id, put.duplicate, put.receivers, "buffered")


def problem(error: Problem) -> Answer:
    members = to_members(error, "adding")
    return Answer(error.status, msgspec.json.encode(members), "application/problem+json")


class World:
    """A client on an open store, and hands to settle messages with."""

    def __init__(self, settings: Settings) -> None:
        self.store = MemoryStore(settings)
        self.here = Here(self.store)
        self.client = Client._attached(self.store, self.here, settings)

    async def claim(self, queue: str) -> Delivery:
        claimed = await self.store.claim({queue: 1}, 1, 30.0)
        return claimed.deliveries[0]

    async def settle(self, delivery: Delivery, to: State, answer: Answer | None = None) -> None:
        assert await self.store.settle([Settlement(delivery, to, answer)]) == [True]


@asynccontextmanager
async def a_world(settings: Settings | None = None) -> AsyncIterator[World]:
    world = World(settings or Settings())
    await world.store.open()
    try:
        yield world
    finally:
        await world.client.close()
        await world.store.close()
