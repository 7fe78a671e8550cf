"""The Context of a handler: staging, receipts, `now`, calls in the same process, progress, and what ends with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ringpost import blocking
from ringpost.client.client import Client
from ringpost.client.ticket import Receipt
from ringpost.contract.contract import Contract
from ringpost.contract.errors import Cancelled, InvalidRequest, StateError, Unavailable, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.core import ids
from ringpost.core.call import Call
from ringpost.core.message import Answer, Envelope, Message, Record, Settlement
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.service import Service
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Cancel, Filter


class Item(msgspec.Struct):
    number: int


class Desk(Contract, name="desk_context"):
    do = Operation(Item, int)
    other = Operation(Item, int)
    note = Operation(Item)
    keyed = Operation(Item, idempotency_key=lambda item: f"item-{item.number}")
    noted = Event(Item)


class Elsewhere(Contract, name="elsewhere_context"):
    do = Operation(Item)


Behave = Callable[[Item, Context], Awaitable[Any]]


class Desks:
    def __init__(self, host: Host, store: MemoryStore) -> None:
        self.host = host
        self.store = store

    async def call(self, timeout_s: float = 5.0, **given: Any) -> Answer:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        return await self.host.call(Call("desk_context.do", b'{"number":1}', deadline_s, **given))

    async def message(self, envelope: Envelope | None = None) -> Settlement:
        """Put a message, claim it, handle it, and settle it."""
        headers = b"{}" if envelope is None else msgspec.json.encode(envelope)
        id = ids.uuid7(1_700_000_000_000, 99)
        await self.store.put((Message(id, "desk_context.do", b'{"number":1}', headers),))
        return await self.claimed()

    async def claimed(self) -> Settlement:
        (delivery,) = (await self.store.claim({"desk_context.do": 1}, 1, 30.0)).deliveries
        pipeline = self.host._running().pipeline
        settlement = await pipeline.handle_message(self.host.handlers["desk_context.do"], delivery)
        assert await self.store.settle((settlement,)) == [True]
        return settlement

    async def sent(self, queue: str = "desk_context.note") -> list[Record]:
        return await self.store.find(Filter(queue=queue))


@contextlib.asynccontextmanager
async def desks(behave: Behave, *, work: bool = False) -> AsyncIterator[Desks]:
    service = Service(Desk)

    @service.implements(Desk.do)
    async def do(item: Item, ctx: Context) -> int:
        result: int = await behave(item, ctx)
        return result

    @service.implements(Desk.other)
    async def other(item: Item, ctx: Context) -> int:
        if item.number < 0:
            return await ctx.call(Desk.other, item)
        return item.number * 10

    @service.implements(Desk.note)
    async def note(item: Item) -> None: ...

    @service.implements(Desk.keyed)
    async def keyed(item: Item) -> None: ...

    @service.on(Desk.noted)
    async def heard(item: Item) -> None: ...

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(work)
    try:
        yield Desks(host, store)
    finally:
        await host.stop(1.0)
        await store.close()


async def refusal(behave: Behave) -> str:
    """Run a handler in a call; gives what it was refused with."""
    raised: list[UsageError] = []

    async def watched(item: Item, ctx: Context) -> int:
        try:
            await behave(item, ctx)
        except UsageError as error:
            raised.append(error)
        return 0

    async with desks(watched) as desk:
        assert (await desk.call()).status == 200
    return str(raised[0]) if raised else ""


# --- staging


async def test_a_forgotten_await_loses_nothing() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        ctx.send(Desk.note, item)
        ctx.send_all(Desk.note, [Item(2), Item(3)])
        ctx.publish(Desk.noted, Item(4))
        return 0

    async with desks(behave) as desk:
        await desk.call()
        assert [one.body for one in await desk.sent()] == [b'{"number":%d}' % n for n in (1, 2, 3)]
        assert len(await desk.sent("desk_context.on.desk_context.noted")) == 1


async def test_a_send_gives_a_staged_receipt_of_the_message() -> None:
    receipts: list[Receipt] = []

    async def behave(item: Item, ctx: Context) -> int:
        receipts.append(await ctx.send(Desk.note, item))
        receipts.extend(await ctx.send_all(Desk.note, [item, item]))
        receipts.append(await asyncio.create_task(ctx.send(Desk.note, item, priority="high")))
        receipts.extend(await asyncio.gather(ctx.send(Desk.note, item)))
        return 0

    async with desks(behave) as desk:
        await desk.call()
        assert {one.id for one in receipts} == {ids.text(one.id) for one in await desk.sent()}
    assert len(receipts) == 5
    assert all((one.level, one.duplicate, one.receivers) == ("staged", False, 1) for one in receipts)
    for name in ("result", "status", "updates", "cancel"):
        with pytest.raises(UsageError, match="leaves when this handler succeeds"):
            getattr(receipts[0], name)


async def test_staged_ids_are_the_same_at_every_attempt_and_tell_the_time() -> None:
    staged: list[list[bytes]] = []

    async def behave(item: Item, ctx: Context) -> int:
        await ctx.send(Desk.note, item)
        await ctx.publish(Desk.noted, item)
        await ctx.send_all(Desk.note, [item])
        staged.append([one.id for one in ctx._staging.messages])  # type: ignore[union-attr]
        raise ValueError

    async with desks(behave) as desk:
        first = await desk.message()
        pipeline, handler = desk.host._running().pipeline, desk.host.handlers["desk_context.do"]
        await pipeline.handle_message(handler, first.delivery)
        assert staged[0] == staged[1]
        assert len(set(staged[0])) == 3
        assert {ids.created_ms(one) for one in staged[0]} == {first.delivery.created_ms}


async def test_the_envelope_says_where_a_message_comes_from() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        await ctx.send(Desk.note, item)  # the usual way
        await ctx.send(Desk.note, item, headers={"x": "y"})  # with options
        return 0

    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with desks(behave) as desk:
        await desk.message(Envelope(trace=trace, tracestate="a=b", correlation_id="order-7", hops=3))
        usual, with_options = [msgspec.json.decode(one.headers, type=Envelope) for one in await desk.sent()]
    assert usual.operation == "desk_context.note"
    assert usual.causation_id == ids.text(ids.uuid7(1_700_000_000_000, 99))
    assert (usual.correlation_id, usual.sender, usual.hops) == ("order-7", "desk_context", 4)
    assert usual.trace[:36] == trace[:36]
    assert usual.trace != trace
    assert usual.tracestate == "a=b"
    assert with_options.headers == {"x": "y"}
    with_options.headers = {}
    assert with_options == usual


async def test_options_of_a_staged_send_are_heeded() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        await ctx.send(Desk.note, item, delay=60, priority="high", ttl=90)
        return 0

    async with desks(behave) as desk:
        await desk.call()
        (record,) = await desk.sent()
        assert record.priority.name == "HIGH"
        assert record.due_ms - record.created_ms == 60_000
        assert record.expires_ms == record.created_ms + 90_000


async def test_what_does_not_fit_is_refused_at_the_verb() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        with pytest.raises(UsageError, match="not a dict"):
            ctx.send(Desk.note, {"number": 1})  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as caught:
            ctx.send(Desk.note, Item("x"))  # type: ignore[arg-type]
        assert caught.value.pointer == "/number"
        with pytest.raises(UsageError, match="takes no timeout"):
            ctx.send(Desk.note, item, timeout=3)  # type: ignore[call-arg]
        with pytest.raises(UsageError, match="Use publish"):
            ctx.send(Desk.noted, item)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="an operation first"):
            ctx.send([], item)  # type: ignore[arg-type]
        return 0

    async with desks(behave) as desk:
        assert (await desk.call()).status == 200
        assert await desk.sent() == []


async def test_one_handling_stages_at_most_a_thousand_messages_and_16_mib() -> None:
    class Long(Contract, name="long_context"):
        say = Operation(str)

    async def behave(item: Item, ctx: Context) -> int:
        for _ in range(64):
            ctx.send(Long.say, "x" * 261_500)
        with pytest.raises(UsageError, match="16 MiB"):
            ctx.send(Long.say, "x" * 261_500)
        ctx.send_all(Desk.note, [item] * 936)
        with pytest.raises(UsageError, match="at most 1,000"):
            ctx.send(Desk.note, item)
        with pytest.raises(UsageError, match="at most 1,000"):
            ctx.send_all(Desk.note, [item])
        return 0

    async with desks(behave) as desk:
        assert (await desk.call()).status == 200


# --- now


async def test_now_commits_at_once_and_once() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        receipt = await ctx.now.send(Desk.note, item, idempotency_key="started")
        again = await ctx.now.send(Desk.note, item, idempotency_key="started")
        assert (receipt.duplicate, again.duplicate) == (False, True)
        assert receipt.id == again.id
        assert receipt.level == "buffered"
        await ctx.now.send(Desk.keyed, item)
        await ctx.now.publish(Desk.noted, item, idempotency_key="e")
        await ctx.now.send_all(Desk.keyed, [Item(8), Item(9)])
        raise ValueError

    async with desks(behave) as desk:
        await desk.message()
        assert len(await desk.sent()) == 1
        assert len(await desk.sent("desk_context.keyed")) == 3
        assert len(await desk.sent("desk_context.on.desk_context.noted")) == 1


async def test_now_needs_a_key() -> None:
    async def behave(item: Item, ctx: Context) -> None:
        await ctx.now.send(Desk.note, item)

    assert "needs an idempotency_key" in await refusal(behave)


# --- calls


async def test_a_call_reaches_a_handler_of_the_same_process() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        return await ctx.call(Desk.other, Item(4)) + sum(await ctx.call_all(Desk.other, [Item(1), Item(2)]))

    async with desks(behave) as desk:
        assert (await desk.call()).body == b"70"
        settlement = await desk.message()
        assert settlement.answer is not None
        assert settlement.answer.body == b"70"


async def test_an_operation_met_twice_in_a_chain_is_refused() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        return await ctx.call(Desk.other, Item(-1))

    async with desks(behave) as desk:
        assert (await desk.call()).status == 508


async def test_a_call_within_a_call_has_no_longer_than_it() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        assert ctx.remaining <= 0.5
        ahead = ctx.deadline - datetime.now(UTC)
        assert timedelta(0) < ahead <= timedelta(seconds=0.5)
        parent = ctx._parent()
        assert parent.deadline_s <= asyncio.get_running_loop().time() + 0.5
        return 1

    async with desks(behave) as desk:
        assert (await desk.call(timeout_s=0.5)).status == 200


async def test_call_or_send_stages_where_nobody_took_the_request() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        with pytest.raises(Unavailable):
            await ctx.call(Elsewhere.do, item)
        receipt = await ctx.call_or_send(Elsewhere.do, item, wait=1)
        assert isinstance(receipt, Receipt)
        assert receipt.level == "staged"
        return await ctx.call_or_send(Desk.other, item)  # type: ignore[return-value]

    async with desks(behave) as desk:
        assert (await desk.call()).body == b"10"
        assert len(await desk.sent("elsewhere_context.do")) == 1


async def test_a_plain_client_is_refused_in_a_handler() -> None:
    async def behave(item: Item, ctx: Context) -> None:
        async with Client(store=None) as client:
            await client.send(Desk.note, item)

    assert "can't be used inside a handler" in await refusal(behave)


# --- what a handler can ask


async def test_a_call_and_a_message_say_what_they_are() -> None:
    seen: list[tuple[Any, ...]] = []

    async def behave(item: Item, ctx: Context) -> int:
        assert ctx.message_id == ctx.message_id
        ids.parse(ctx.message_id)
        seen.append((ctx.attempt, ctx.fence is None, ctx.dry_run, ctx.cancelled, dict(ctx.headers)))
        return 0

    async with desks(behave) as desk:
        await desk.call(headers={"a": "b"})
        await desk.message(Envelope(headers={"c": "d"}))
    assert seen == [(1, True, False, None, {"a": "b"}), (1, False, False, None, {"c": "d"})]


async def test_the_log_carries_the_identity_of_the_message(caplog: pytest.LogCaptureFixture) -> None:
    async def behave(item: Item, ctx: Context) -> int:
        ctx.log.warning("look")
        return 0

    async with desks(behave) as desk:
        settlement = await desk.message()
    (record,) = [record for record in caplog.records if record.message == "look"]
    assert record.__dict__["message_id"] == ids.text(settlement.delivery.id)
    assert record.__dict__["operation"] == "desk_context.do"
    assert record.__dict__["attempt"] == 1


async def test_progress_is_kept_and_bounded() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        with pytest.raises(UsageError, match="0 to 1"):
            await ctx.progress(7)
        await ctx.progress(0.25, "begun")
        await ctx.progress(0.5, "too soon after the last")
        return 0

    kept: list[Any] = []

    async def watched(item: Item, ctx: Context) -> int:
        await behave(item, ctx)
        (record,) = await desk.sent("desk_context.do")
        kept.append(record.progress)
        return 0

    async with desks(watched) as desk:
        await desk.message()
    assert (kept[0].share, kept[0].note) == (0.25, "begun")


async def test_progress_raises_once_cancelling_was_asked_for() -> None:
    async def behave(item: Item, ctx: Context) -> int:
        await desk.store.change([Cancel(ids.parse(ctx.message_id))])
        with pytest.raises(Cancelled):
            await ctx.progress(0.1)
        assert ctx.cancelled == "user"
        await ctx.checkpoint()
        return 0

    async with desks(behave) as desk:
        assert (await desk.message()).to.name == "CANCELLED"


async def test_a_context_is_of_no_use_after_its_handler() -> None:
    kept: list[Context] = []

    async def behave(item: Item, ctx: Context) -> int:
        await ctx.send(Desk.note, item)
        kept.append(ctx)
        return 0

    async with desks(behave) as desk:
        await desk.call()
        ctx = kept[0]
        for verb in (
            lambda: ctx.send(Desk.note, Item(1)),
            lambda: ctx.publish(Desk.noted, Item(1)),
            lambda: ctx.now,
        ):
            with pytest.raises(StateError, match="is over"):
                verb()
        with pytest.raises(StateError, match="is over"):
            await ctx.call(Desk.other, Item(1))
        assert len(await desk.sent()) == 1


async def test_a_def_handler_has_the_same_verbs_without_await() -> None:
    class Threads(Contract, name="threads_context"):
        do = Operation(Item, int)

    desk = Service(Desk)
    service = Service(Threads)

    @service.implements(Threads.do)
    def do(item: Item, ctx: blocking.Context) -> int:
        receipt = ctx.send(Desk.note, item)
        assert receipt.level == "staged"
        ctx.progress(0.5)
        assert ctx.remaining > 0
        return ctx.call(Desk.other, item)

    for operation in (Desk.do, Desk.other):

        @desk.implements(operation)
        async def tenfold(item: Item) -> int:
            return item.number * 10

    for quiet in (Desk.note, Desk.keyed):

        @desk.implements(quiet)
        async def nothing(item: Item) -> None: ...

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([service, desk], store, Settings())
    await host.start(False)
    deadline_s = asyncio.get_running_loop().time() + 5
    answer = await host.call(Call("threads_context.do", b'{"number":2}', deadline_s))
    sent = await store.find(Filter(queue="desk_context.note"))
    await host.stop(1)
    assert (answer.status, answer.body, len(sent)) == (200, b"20", 1)
