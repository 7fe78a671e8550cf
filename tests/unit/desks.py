"""A host with one handler whose behaviour the test gives, on a store that knows whether anybody came."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from ringpost.contract.contract import Contract
from ringpost.contract.errors import StoreError
from ringpost.contract.operation import Operation
from ringpost.contract.problem import Problem
from ringpost.core.call import Call
from ringpost.core.message import Answer, Message
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.service import HandlerOptions, Service
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter, Put


class Ask(msgspec.Struct):
    number: int


class Reply(msgspec.Struct):
    number: int


class Taken(Problem, status=409):
    by: str


class Undeclared(Problem, status=418):
    pass


class Desk(Contract, name="desk_calls"):
    ask = Operation(Ask, Reply, raises=[Taken])
    note = Operation(Ask)


Behave = Callable[[Ask, Context], Awaitable[Any]]


class CountingStore(MemoryStore):
    """Knows whether anybody came, and can be made to fail or to take its time."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.puts = 0
        self.failing = False
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        self.puts += 1
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise StoreError("the disk is gone")
        return await super().put(messages)


class Desks:
    """A host with one handler whose behaviour the test gives."""

    def __init__(self, host: Host, store: CountingStore) -> None:
        self.host = host
        self.store = store

    async def call(self, number: object = 1, timeout_s: float = 5.0, **given: Any) -> Answer:
        return await self.host.call(self.made(number, timeout_s, **given))

    def made(self, number: object = 1, timeout_s: float = 5.0, **given: Any) -> Call:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        return Call("desk_calls.ask", msgspec.json.encode({"number": number}), deadline_s, **given)

    async def free(self) -> bool:
        """Say whether no key is taken."""
        return not await self.store.find(Filter(kind=None, queue="desk_calls.ask"))

    async def notes(self) -> list[bytes]:
        found = await self.store.find(Filter(queue="desk_calls.note"))
        return [record.body for record in found]


@contextlib.asynccontextmanager
async def desks(behave: Behave, service: Service | None = None, **options: Any) -> AsyncIterator[Desks]:
    service = service or Service(Desk)
    chosen: HandlerOptions = options  # type: ignore[assignment]

    @service.implements(Desk.ask, **chosen)
    async def ask(request: Ask, ctx: Context) -> Reply:
        result: Reply = await behave(request, ctx)
        return result

    @service.implements(Desk.note)
    async def note(request: Ask) -> None: ...

    store = CountingStore()
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(False)
    store.puts = 0
    try:
        yield Desks(host, store)
    finally:
        if store.gate is not None:
            store.gate.set()
        await host.stop(1.0)
        await store.close()


async def until(true: Callable[[], Awaitable[object]]) -> None:
    for _ in range(1000):
        if await true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def echo(request: Ask, ctx: Context) -> Reply:
    return Reply(request.number)


async def never(request: Ask, ctx: Context) -> Reply:
    raise AssertionError("the handler ran")


class Held:
    """A handler that says when it has begun, goes on when it may, and says why it was cancelled and when it is done."""

    def __init__(self) -> None:
        self.began, self.go_on, self.done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.cancelled: list[str | None] = []

    async def __call__(self, request: Ask, ctx: Context) -> Reply:
        self.began.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(ctx.cancelled)
            raise
        self.done.set()
        return Reply(1)


@contextlib.asynccontextmanager
async def without_store(service: Service) -> AsyncIterator[Host]:
    host = Host([service], None, Settings())
    await host.start(False)
    try:
        yield host
    finally:
        await host.stop(0)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, msgspec.json.decode(answer.body)["code"]
