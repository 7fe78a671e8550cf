"""The worker with real handlers: calls beside a backlog, and handlers that somebody wants ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from ringpost.client.client import Client
from ringpost.contract.contract import Contract
from ringpost.contract.operation import Operation
from ringpost.core.call import Call
from ringpost.core.message import State
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.service import Service
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter


class Job(msgspec.Struct):
    number: int


class Bench(Contract, name="bench_worker"):
    work = Operation(Job, int)
    slow = Operation(Job)


Behave = Callable[[Job, Context], Awaitable[None]]


@contextlib.asynccontextmanager
async def bench(behave: Behave, concurrency: int = 2) -> AsyncIterator[tuple[Host, Client, MemoryStore]]:
    service = Service(Bench)

    @service.implements(Bench.work, concurrency=concurrency)
    async def work(job: Job, ctx: Context) -> int:
        await behave(job, ctx)
        return job.number

    @service.implements(Bench.slow, concurrency=concurrency)
    async def slow(job: Job, ctx: Context) -> None:
        await behave(job, ctx)

    store = MemoryStore(Settings())
    host = Host([service], store, Settings())
    await host.start(True)
    try:
        async with Client._attached(store, host, Settings()) as client:
            yield host, client, store
    finally:
        await host.stop(0.1)


async def test_calls_are_answered_while_messages_of_the_same_operation_take_all_slots() -> None:
    async def behave(job: Job, ctx: Context) -> None:
        await asyncio.sleep(0.002)

    async with bench(behave) as (host, client, store):
        await client.send_all(Bench.work, [Job(number) for number in range(300)])
        statuses: list[int] = []
        for number in range(20):
            call = Call("bench_worker.work", msgspec.json.encode(Job(number)), asyncio.get_running_loop().time() + 5)
            statuses.append((await host.call(call)).status)
        (depth,) = await store.depths()
        assert depth.ready > 0, "the backlog was over before the calls were"
        assert statuses == [200] * 20


async def test_a_handler_sees_who_wants_it_ended_and_its_message_is_cancelled() -> None:
    began: asyncio.Event = asyncio.Event()
    reasons: list[str | None] = []

    async def behave(job: Job, ctx: Context) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.cancelled)

    async with bench(behave) as (_, client, _):
        ticket = await client.send(Bench.slow, Job(1))
        await began.wait()
        assert await ticket.cancel() == "requested"
        async with asyncio.timeout(5):
            async for status in ticket.updates():
                last = status
        assert last.state == "cancelled"
        assert reasons == ["user"]


async def test_a_handler_that_swallows_its_cancellation_is_settled_as_it_ended() -> None:
    began = asyncio.Event()

    async def behave(job: Job, ctx: Context) -> None:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async with bench(behave, concurrency=1) as (_, client, store):
        ticket = await client.send(Bench.slow, Job(1))
        await began.wait()
        assert await ticket.cancel() == "requested"
        await ticket.result(5)
        began.clear()
        await client.send(Bench.slow, Job(2))
        async with asyncio.timeout(5):
            await began.wait()  # its slot and its runner serve the next one
        first, second = await store.find(Filter())
        assert first.state is State.SUCCEEDED
        assert second.state is State.RUNNING
