"""Calls under a key: one effect, the same bytes again, and nothing left of what failed."""

import asyncio
from dataclasses import dataclass

import pytest
from desks import Ask, Desk, Held, Reply, Taken, code, desks, echo, until, without_store

from ringpost.contract.contract import Contract
from ringpost.contract.operation import Operation
from ringpost.core.call import Call, Identity
from ringpost.core.message import State
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.service import Service
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter


async def test_a_key_gives_the_same_bytes_and_one_effect() -> None:
    handled: list[int] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        handled.append(request.number)
        assert ctx.fence is not None
        await ctx.send(Desk.note, request)
        return Reply(len(handled))

    async with desks(behave) as desk:
        first = await desk.call(1, idempotency_key="k")
        again = await desk.call(1, idempotency_key="k")
        assert (first.status, first.body, first.content_type) == (again.status, again.body, again.content_type)
        assert handled == [1]
        assert len(await desk.notes()) == 1
        await desk.call(1, idempotency_key="other")
        assert handled == [1, 1]


async def test_a_declared_problem_is_stored_under_its_key() -> None:
    handled: list[int] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        handled.append(1)
        await ctx.send(Desk.note, request)
        raise Taken(by="me")

    async with desks(behave) as desk:
        first = await desk.call(idempotency_key="k")
        again = await desk.call(idempotency_key="k")
        assert code(first) == (409, "taken")
        assert first.body == again.body
        assert handled == [1]
        assert await desk.notes() == []


async def test_a_failure_leaves_nothing_under_its_key() -> None:
    handled: list[int] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        handled.append(1)
        if len(handled) == 1:
            raise ValueError("once")
        return Reply(2)

    async with desks(behave) as desk:
        assert (await desk.call(idempotency_key="k")).status == 500
        assert (await desk.call(idempotency_key="k")).body == b'{"number":2}'


async def test_a_key_in_flight_is_told_to_come_again() -> None:
    held = Held()
    async with desks(held) as desk:
        first = asyncio.create_task(desk.call(idempotency_key="k"))
        await held.began.wait()
        repeat = await desk.call(idempotency_key="k")
        assert code(repeat) == (409, "in_flight")
        assert repeat.retry_after_s
        held.go_on.set()
        assert (await first).status == 200


async def test_a_key_stands_for_one_request_however_it_is_written() -> None:
    async with desks(echo) as desk:
        await desk.call(1, idempotency_key="k")
        call = desk.made(idempotency_key="k")
        call.body = b'{ "number" : 1.0 }'
        assert (await desk.host.call(call)).status in (200, 400)
        assert code(await desk.call(2, idempotency_key="k")) == (422, "key_reused")


async def test_keys_are_each_identity_s_own() -> None:
    async with desks(echo) as desk:
        await desk.call(1, idempotency_key="k", identity=Identity("ada"))
        answer = await desk.call(2, idempotency_key="k", identity=Identity("bob"))
        assert answer.body == b'{"number":2}'


@pytest.mark.parametrize("how", ["deadline", "caller"])
async def test_a_keyed_call_that_is_cancelled_leaves_nothing(how: str) -> None:
    held = Held()
    async with desks(held) as desk:
        calling = asyncio.create_task(desk.call(idempotency_key="k", timeout_s=0.05 if how == "deadline" else 5))
        await held.began.wait()
        if how == "caller":
            calling.cancel()
        await asyncio.wait([calling])
        await until(desk.free)


async def test_a_caller_that_goes_away_while_reserving_leaves_nothing() -> None:
    async with desks(echo) as desk:
        desk.store.gate = asyncio.Event()
        calling = asyncio.create_task(desk.call(idempotency_key="k"))
        await desk.store.asked.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        desk.store.gate.set()
        await until(desk.free)


async def test_a_reservation_is_no_message() -> None:
    held = Held()
    async with desks(held) as desk:
        calling = asyncio.create_task(desk.call(idempotency_key="k"))
        await held.began.wait()
        (record,) = await desk.store.find(Filter(kind=None, queue="desk_calls.ask"))
        assert record.state is State.RUNNING
        assert await desk.store.find(Filter(queue="desk_calls.ask")) == []
        held.go_on.set()
        await calling


async def test_a_key_needs_a_store() -> None:
    service = Service(Desk)

    @service.implements(Desk.ask)
    async def ask(request: Ask) -> Reply:
        return Reply(1)

    @service.implements(Desk.note)
    async def note(request: Ask, ctx: Context) -> None:
        await ctx.send(Desk.note, request)

    deadline_s = asyncio.get_running_loop().time() + 5
    async with without_store(service) as host:
        keyed = await host.call(Call("desk_calls.ask", b'{"number":1}', deadline_s, idempotency_key="k"))
        assert code(keyed) == (503, "unavailable")
        assert (await host.call(Call("desk_calls.ask", b'{"number":1}', deadline_s))).status == 200
        assert (await host.call(Call("desk_calls.note", b'{"number":1}', deadline_s))).status == 500


@dataclass
class Numbered:
    number: int


async def test_an_operation_may_make_the_key_itself() -> None:
    class Keyed(Contract, name="keyed_calls"):
        ask = Operation(Numbered, int, idempotency_key=lambda request: f"n{request.number}")

    service, handled = Service(Keyed), []

    @service.implements(Keyed.ask)
    async def ask(request: Numbered) -> int:
        handled.append(request.number)
        return len(handled)

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(False)
    deadline_s = asyncio.get_running_loop().time() + 5
    answers = [await host.call(Call("keyed_calls.ask", b'{"number":4}', deadline_s)) for _ in range(2)]
    await host.stop(0)
    assert [answer.body for answer in answers] == [b"1", b"1"]
