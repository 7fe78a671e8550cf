"""The client over a store in memory and a handler in this process: verbs, receipts, tickets, and clear mistakes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from ringpost.client.client import Client
from ringpost.client.deadline import deadline
from ringpost.client.router import Router
from ringpost.client.ticket import Receipt, Ticket
from ringpost.contract.contract import Contract
from ringpost.contract.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotHere,
    NotYet,
    OperationFailed,
    Overloaded,
    StateError,
    StoreError,
    TicketExpired,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import Problem, to_members
from ringpost.core import ids, notes
from ringpost.core.after import After, Awaited, not_here
from ringpost.core.call import Accepted, Call
from ringpost.core.handling import handling
from ringpost.core.message import Answer, Delivery, Message, Progress, Reservation, Settlement, State
from ringpost.core.receipt import Status
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note, Report


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

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.here = Here(self.store)
        self.client = Client._attached(self.store, self.here, Settings())

    async def claim(self, queue: str) -> Delivery:
        claimed = await self.store.claim({queue: 1}, 1, 30.0)
        return claimed.deliveries[0]

    async def settle(self, delivery: Delivery, to: State, answer: Answer | None = None) -> None:
        assert await self.store.settle([Settlement(delivery, to, answer)]) == [True]


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    world = World()
    await world.store.open()
    try:
        yield world
    finally:
        await world.client.close()
        await world.store.close()


async def test_a_call_goes_to_the_handler_of_this_process() -> None:
    async with a_world() as world:
        assert await world.client.call(Adding.add, Sum(1, 2), timeout=2) == 3
        assert await world.client.call(Adding.forget, Sum(1, 2)) is None
        (call, _) = world.here.calls
        assert (call.operation, call.body) == ("adding.add", b'{"a":1,"b":2}')
        assert 1.5 < call.deadline_s - asyncio.get_running_loop().time() < 2.1


async def test_options_of_a_call_reach_the_handler() -> None:
    async with a_world() as world:
        await world.client.call(Adding.keyed, Sum(1, 2), headers={"X-A": "b"}, priority="high")
        await world.client.call(Adding.keyed, Sum(1, 2), idempotency_key="mine")
        first, second = world.here.calls
        assert (first.headers, first.idempotency_key, first.priority.name) == ({"x-a": "b"}, "1+2", "HIGH")
        assert second.idempotency_key == "mine"


async def test_headers_of_the_client_go_with_everything() -> None:
    async with a_world() as world:
        world.client._headers = lambda: {"Authorization": "Bearer x", "x-a": "all"}
        await world.client.call(Adding.add, Sum(1, 2), headers={"x-a": "one"})
        assert world.here.calls[0].headers == {"authorization": "Bearer x", "x-a": "one"}
        await world.client.send(Adding.add, Sum(1, 2))
        envelope = msgspec.json.decode((await world.claim("adding.add")).headers)
        assert envelope["headers"] == {"x-a": "all"}  # what opens doors isn't kept in a store


async def test_a_declared_problem_comes_back_as_itself() -> None:
    async with a_world() as world:
        with pytest.raises(TooLarge) as caught:
            await world.client.call(Adding.add, Sum(101, 1))
        assert caught.value.limit == 100


async def test_a_request_that_doesnt_fit_names_the_field_and_isnt_sent() -> None:
    async with a_world() as world:
        wrong: Any = Sum("1", 2)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as caught:
            await world.client.call(Adding.add, wrong)
        assert caught.value.pointer == "/a"
        assert world.here.calls == []


async def test_nobody_names_all_three_ways() -> None:
    async with a_world() as world:
        with pytest.raises(Unavailable) as caught:
            await world.client.call(Elsewhere.lost, Sum(1, 2))
        said = str(caught.value)
        assert "no handler for it in this process" in said
        assert "no address for 'elsewhere' in `addresses`" in said
        assert "no live instance noted in the store (memory:)" in said
        assert caught.value.processed == "no"


async def test_a_nested_call_carries_depth_path_and_what_is_left_of_the_time() -> None:
    here = Here()
    router = Router(Settings(), here, None)
    now_s = asyncio.get_running_loop().time()
    parent = Call("shop.order", b"", now_s + 1, depth=1, path=("web.page",), trace="t", tracestate="s")
    await router.call(Adding.add, Sum(1, 2), {}, parent)
    (call,) = here.calls
    assert (call.depth, call.path, call.trace, call.tracestate) == (2, ("web.page", "shop.order"), "t", "s")
    assert call.deadline_s == pytest.approx(now_s + 0.98)
    await router.close()


async def test_a_block_that_is_over_lets_no_call_begin() -> None:
    async with a_world() as world:
        with deadline(0), pytest.raises(DeadlineExceeded) as caught:
            await world.client.call(Adding.add, Sum(1, 2))
        assert caught.value.processed == "no"
        assert world.here.calls == []


async def test_a_ticket_gives_what_the_call_would_have_given() -> None:
    async with a_world() as world:
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        assert (ticket.duplicate, ticket.level) == (False, "buffered")
        assert (await ticket.status()).state == "accepted"
        delivery = await world.claim("adding.add")
        assert (await ticket.status()).state == "running"
        waiting = asyncio.ensure_future(ticket.result(timeout=5))
        await asyncio.sleep(0)
        await world.settle(delivery, State.SUCCEEDED, Answer(200, b"3"))
        assert await waiting == 3
        assert (await ticket.status()).state == "succeeded"
        assert await world.client.ticket(Adding.add, ticket.id).result() == 3


async def test_a_ticket_raises_what_the_call_would_have_raised() -> None:
    async with a_world() as world:
        ticket = await world.client.send(Adding.add, Sum(101, 2))
        await world.settle(await world.claim("adding.add"), State.FAILED, problem(TooLarge(limit=100)))
        with pytest.raises(TooLarge):
            await ticket.result()


async def test_a_dead_message_says_how_it_ended() -> None:
    async with a_world() as world:
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        await world.settle(await world.claim("adding.add"), State.DEAD)
        with pytest.raises(OperationFailed) as caught:
            await ticket.result()
        assert (caught.value.message_id, caught.value.state) == (ticket.id, "failed")


async def test_a_reply_that_doesnt_fit_isnt_the_callers_mistake() -> None:
    async with a_world() as world:
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        await world.settle(await world.claim("adding.add"), State.SUCCEEDED, Answer(200, b'"three"'))
        with pytest.raises(OperationFailed, match="doesn't fit its contract") as caught:
            await ticket.result()
        assert caught.value.cause == "undecodable"


async def test_waiting_for_a_result_ends_in_time_and_the_message_goes_on() -> None:
    async with a_world() as world:
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        with pytest.raises(DeadlineExceeded, match="It goes on"):
            await ticket.result(timeout=0.01)
        assert (await ticket.status()).state == "accepted"


async def test_updates_show_every_step_once_and_end_with_the_last() -> None:
    async with a_world() as world:
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        shown: list[Status] = []
        seen = asyncio.Event()

        async def watch() -> None:
            async for status in ticket.updates():
                shown.append(status)
                seen.set()

        async def step() -> None:
            await asyncio.wait_for(seen.wait(), 5)
            seen.clear()

        watching = asyncio.ensure_future(watch())
        await step()
        delivery = await world.claim("adding.add")
        await world.store.change([Report(delivery, Progress(0.5, "half"))])
        await step()
        await world.settle(delivery, State.SUCCEEDED, Answer(200, b"3"))
        await asyncio.wait_for(watching, 5)
        states = [status.state for status in shown]
        assert (states[0], states[-1]) == ("accepted", "succeeded")
        assert sorted(states, key=["accepted", "running", "succeeded"].index) == states
        assert ("half", 0.5) in [(status.note, status.progress) for status in shown]


async def test_cancelling_says_what_came_of_it() -> None:
    async with a_world() as world:
        waiting = await world.client.send(Adding.add, Sum(1, 2))
        assert await waiting.cancel() == "cancelled"
        assert await waiting.cancel() == "too_late"
        with pytest.raises(OperationFailed) as caught:
            await waiting.result()
        assert caught.value.state == "cancelled"
        running = await world.client.send(Adding.add, Sum(1, 2))
        await world.claim("adding.add")
        assert await running.cancel() == "requested"


async def test_a_ticket_nobody_knows_is_told_from_one_of_long_ago() -> None:
    async with a_world() as world:
        young = world.client.ticket(Adding.add, ids.text(ids.uuid7(2**48 - 1, 1)))
        with pytest.raises(StateError, match="There is no message") as caught:
            await young.status()
        assert not isinstance(caught.value, TicketExpired)
        old = world.client.ticket(Adding.add, ids.text(ids.uuid7(1, 1)))
        for look in (old.status, old.result):
            with pytest.raises(TicketExpired):
                await look()  # type: ignore[operator]
        with pytest.raises(UsageError, match="is no message id"):
            world.client.ticket(Adding.add, "7")


async def test_a_key_used_twice_is_one_message_and_with_another_request_refused() -> None:
    async with a_world() as world:
        first = await world.client.send(Adding.add, Sum(1, 2), idempotency_key="k")
        again = await world.client.send(Adding.add, Sum(1, 2), idempotency_key="k")
        assert (again.id, again.duplicate) == (first.id, True)
        with pytest.raises(UsageError, match="another request"):
            await world.client.send(Adding.add, Sum(2, 2), idempotency_key="k")


async def test_send_all_gives_a_ticket_each() -> None:
    async with a_world() as world:
        tickets = await world.client.send_all(Adding.add, [Sum(n, 0) for n in range(2500)])
        assert len({ticket.id for ticket in tickets}) == 2500
        (depth,) = [one for one in await world.store.depths() if one.queue == "adding.add"]
        assert depth.ready == 2500


async def test_a_full_queue_is_said_and_how_many_went_before() -> None:
    async with a_world() as world:
        world.store._settings = Settings(depth_max=2)
        with pytest.raises(Overloaded, match="is full") as caught:
            await world.client.send_all(Adding.add, [Sum(n, 0) for n in range(4)])
        assert caught.value.__notes__ == ["2 of 4 messages were stored."]


async def test_publish_says_how_many_heard_it() -> None:
    async with a_world() as world:
        receipt = await world.client.publish(Adding.added, 3)
        assert (receipt.receivers, receipt.level) == (0, "buffered")
        assert not isinstance(receipt, Ticket)


async def test_call_or_send_gives_the_reply_or_the_ticket() -> None:
    async with a_world() as world:
        waiting = asyncio.ensure_future(world.client.call_or_send(Adding.add, Sum(1, 2), wait=0.02))
        ticket = await waiting
        assert isinstance(ticket, Ticket)
        with pytest.raises(DeadlineExceeded):
            await ticket.result(timeout=0.01)
        world.here.refuses = Answer(200, b"3")
        assert await world.client.call_or_send(Adding.add, Sum(1, 2), wait=1) == 3


async def test_call_or_send_leaves_a_message_where_nobody_serves() -> None:
    async with a_world() as world:
        ticket = await world.client.call_or_send(Elsewhere.lost, Sum(1, 2), wait=1)
        assert isinstance(ticket, Ticket)
        assert (await world.claim("elsewhere.lost")).body == b'{"a":1,"b":2}'


async def test_a_call_after_messages_says_so_to_the_receiver() -> None:
    async with a_world() as world:
        sent = await world.client.send(Adding.add, Sum(1, 2))
        (queue,) = await subscribed(world.store, "adding.added", "a.on.adding.added")
        told = await world.client.publish(Adding.added, 3)
        assert await world.client.call(Adding.add, Sum(3, 4), after=[sent, told, sent]) == 7
        (call,) = world.here.calls
        awaited = (Awaited(ids.parse(sent.id)), Awaited(ids.parse(told.id), "adding.added"))
        assert call.after == After(world.store.facts.store_id, awaited)
        assert (await world.claim(queue)).id == ids.delivery(ids.parse(told.id), queue)


async def subscribed(store: MemoryStore, event: str, *queues: str) -> tuple[str, ...]:
    for queue in queues:
        await store.note_put(Note(notes.subscription(event, queue), notes.encode(notes.Subscription())))
    return queues


async def test_a_ticket_made_of_an_id_is_waited_for_in_the_clients_own_store() -> None:
    async with a_world() as world:
        ticket = world.client.ticket(Adding.add, (await world.client.send(Adding.add, Sum(1, 2))).id)
        assert ticket.store == ""
        await world.client.call(Adding.add, Sum(3, 4), after=ticket)
        assert world.here.calls[0].after == After(world.store.facts.store_id, (Awaited(ids.parse(ticket.id)),))


async def test_an_event_without_subscribers_has_no_effects_to_wait_for() -> None:
    async with a_world() as world:
        told = await world.client.publish(Adding.added, 3)
        assert await world.client.call(Adding.add, Sum(3, 4), after=told) == 7
        assert await world.client.call(Adding.add, Sum(3, 4), after=[]) == 7
        assert [call.after for call in world.here.calls] == [None, None]


async def test_where_the_receiver_cant_look_the_caller_waits_itself() -> None:
    async with a_world() as world:
        here = world.here
        here.refuses_after = True
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        calling = asyncio.ensure_future(world.client.call(Adding.add, Sum(3, 4), after=ticket))
        await asyncio.wait_for(here.refused.wait(), 5)
        await world.settle(await world.claim("adding.add"), State.SUCCEEDED, Answer(200, b"3"))
        assert await calling == 7
        assert [call.after for call in here.calls] == [None]


async def test_what_isnt_there_in_time_and_what_wont_come_are_two_errors() -> None:
    async with a_world() as world:
        world.here.refuses_after = True
        ticket = await world.client.send(Adding.slow, Sum(1, 2))
        with pytest.raises(NotYet) as caught:
            await world.client.call(Adding.add, Sum(3, 4), after=ticket, timeout=0.05)
        assert (caught.value.processed, caught.value.states) == ("no", {ticket.id: "accepted"})
        await ticket.cancel()
        with pytest.raises(StateError, match=f"will not come.*{ticket.id} .cancelled.") as never:
            await world.client.call(Adding.add, Sum(3, 4), after=ticket)
        assert type(never.value) is StateError
        assert world.here.calls == []


async def test_receipts_of_several_stores_are_waited_for_by_the_caller() -> None:
    async with a_world() as world:
        own = await world.client.send(Adding.add, Sum(1, 2))
        await world.settle(await world.claim("adding.add"), State.SUCCEEDED, Answer(200, b"3"))
        source = Elsewhen(Answer(204))
        other: Ticket[int] = Ticket(Adding.add, source, own.id, store="elsewhere")
        assert await world.client.call(Adding.add, Sum(3, 4), after=[own, other]) == 7
        assert (source.asked, world.here.calls[0].after) == ([own.id], None)
        source.gives = None
        with pytest.raises(NotYet):
            await world.client.call(Adding.add, Sum(3, 4), after=[own, other])
        source.gives = Answer(500)
        with pytest.raises(StateError, match="ended without success"):
            await world.client.call(Adding.add, Sum(3, 4), after=[own, other])
        with pytest.raises(NotHere, match="several stores"):
            await world.client.call(Adding.add, Sum(3, 4), after=[own, Receipt(own.id, store="elsewhere")])
        assert len(world.here.calls) == 1


class Elsewhen:
    """Tickets of another store: each gives the same answer."""

    def __init__(self, gives: Answer | None) -> None:
        self.gives = gives
        self.asked: list[str] = []

    async def status(self, id: str) -> Status:
        raise NotImplementedError

    async def answer(self, id: str, deadline_s: float) -> Answer | None:
        self.asked.append(id)
        return self.gives

    def updates(self, id: str) -> AsyncIterator[Status]:
        raise NotImplementedError

    async def cancel(self, id: str) -> Any:
        raise NotImplementedError


async def test_what_cant_be_waited_for_is_refused_before_anything_goes_out() -> None:
    async with a_world() as world:
        wrong: Any
        ticket = await world.client.send(Adding.add, Sum(1, 2))
        for wrong, said in (
            (Receipt("x", level="staged"), "staged"),
            (ticket.id, "takes receipts"),
            ([ticket] * 65, "at most 64 receipts, not 65"),
        ):
            with pytest.raises(UsageError, match=said):
                await world.client.call(Adding.add, Sum(3, 4), after=wrong)
        assert world.here.calls == []


async def test_options_of_many_calls_are_those_of_each() -> None:
    async with a_world() as world:
        requests = [Sum(n, 1) for n in range(3)]
        await world.client.call_all(Adding.add, requests, priority="low", timeout=2)
        _ = [one async for one in world.client.call_each(Adding.add, requests, priority="low", timeout=2)]
        assert {call.priority.name for call in world.here.calls} == {"LOW"}
        assert all(call.deadline_s - asyncio.get_running_loop().time() <= 2 for call in world.here.calls)
        for many in (world.client.call_all, world.client.call_each):
            with pytest.raises(UsageError, match="takes no idempotency_key"):
                await drained(many(Adding.add, requests, idempotency_key="one"))  # type: ignore[operator]
            with pytest.raises(UsageError, match="1 to 1,000, not 0"):
                await drained(many(Adding.add, requests, concurrency=0))  # type: ignore[operator]


async def drained(many: Any) -> None:
    if isinstance(many, AsyncIterator):
        async for _ in many:
            pass
    else:
        await many


async def test_call_all_keeps_the_order_and_the_bound() -> None:
    async with a_world() as world:
        running, most = 0, 0
        call = world.here.call

        async def counted(asked: Call) -> Answer:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await call(asked)
            finally:
                running -= 1

        world.here.call = counted  # type: ignore[method-assign]
        replies = await world.client.call_all(Adding.add, (Sum(n, 1) for n in range(50)), concurrency=4)
        assert replies == [n + 1 for n in range(50)]
        assert most == 4


async def test_call_all_raises_the_first_failure_and_ends_the_rest() -> None:
    async with a_world() as world:
        with pytest.raises(TooLarge):
            await world.client.call_all(Adding.add, [Sum(101, 1), *[Sum(n, 1) for n in range(50)]], concurrency=2)
        assert len(world.here.calls) < 10
        with pytest.raises(UsageError, match="one key for many"):
            await world.client.call_all(Adding.add, [], idempotency_key="k")
        with pytest.raises(UsageError, match="concurrency"):
            await world.client.call_all(Adding.add, [], concurrency=0)


async def test_call_each_yields_failures_too_and_takes_no_more_than_it_needs() -> None:
    async with a_world() as world:
        taken: list[int] = []

        def requests() -> Any:
            for n in range(100):
                taken.append(n)
                yield Sum(n * 50, 1)

        results: list[int | None] = []
        outcomes = world.client.call_each(Adding.add, requests(), concurrency=3)
        async for outcome in outcomes:
            error = outcome.error
            assert error is None or isinstance(error, TooLarge)
            results.append(None if error else outcome.result())
            if len(results) == 6:
                break
        await outcomes.aclose()  # type: ignore[attr-defined]
        assert sorted(n for n in results if n is not None) == [1, 51, 101]
        assert results.count(None) == 3
        assert len(taken) <= 10


async def test_inside_a_handler_it_refuses() -> None:
    async with a_world() as world:
        token = handling.set(object())
        try:
            uses: list[Callable[[], Awaitable[object]]] = [
                lambda: world.client.call(Adding.add, Sum(1, 2)),
                lambda: world.client.send(Adding.add, Sum(1, 2)),
                lambda: world.client.publish(Adding.added, 1),
                lambda: world.client.ticket(Adding.add, ids.text(ids.uuid7(1, 1))).status(),
            ]
            for use in uses:
                with pytest.raises(UsageError, match=r"use ctx\.send"):
                    await use()
        finally:
            handling.reset(token)


async def test_mistakes_are_named_before_anything_happens() -> None:
    async with a_world() as world:
        client: Any = world.client
        for use, said in (
            (lambda: client.send(Adding.add, Sum(1, 2), timeout=2), "send takes no timeout"),
            (lambda: client.call(Adding.add, Sum(1, 2), delay=2), "call takes no delay"),
            (lambda: client.call(Adding.add, Sum(1, 2), tiemout=2), "call takes no tiemout"),
            (lambda: client.call(Adding.add, Sum(1, 2), timeout=100), "What takes longer is sent"),
            (lambda: client.call(Adding.add, {"a": 1, "b": 2}), "Sum"),
            (lambda: client.call(Adding.added, 1), "Use publish"),
            (lambda: client.publish(Adding.add, Sum(1, 2)), "Use send"),
            (lambda: client.call_or_send(Adding.add, Sum(1, 2), timeout=2), "call_or_send takes no timeout"),
        ):
            with pytest.raises(UsageError, match=said):
                await use()
        assert world.here.calls == []
        assert await world.store.depths() == []


async def test_a_client_never_creates_a_store(tmp_path: Any) -> None:
    client = Client(store=f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(StoreError):
        await client.send(Adding.add, Sum(1, 2))
    assert list(tmp_path.iterdir()) == []
    await client.close()


async def test_a_closed_client_says_so_and_closing_twice_is_fine() -> None:
    client = Client(store="memory:")
    async with client:
        await client.send(Adding.add, Sum(1, 2))
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await client.send(Adding.add, Sum(1, 2))


async def test_many_first_uses_open_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    original = MemoryStore.open

    async def counted(self: MemoryStore, *, create: bool = False, accept_loss: bool = False) -> Any:
        opened.append(create)
        await asyncio.sleep(0)
        return await original(self, create=create, accept_loss=accept_loss)

    monkeypatch.setattr(MemoryStore, "open", counted)
    client = Client(store="memory:")
    doomed = asyncio.ensure_future(client.send(Adding.add, Sum(0, 0)))
    sends = [asyncio.ensure_future(client.send(Adding.add, Sum(n, 0))) for n in range(5)]
    await asyncio.sleep(0)
    doomed.cancel()
    assert len({ticket.id for ticket in await asyncio.gather(*sends)}) == 5
    assert opened == [False]
    await client.close()


def test_in_another_loop_it_says_so() -> None:
    client = Client(store="memory:")

    async def use() -> None:
        await client.send(Adding.add, Sum(1, 2))

    async def use_and_close() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await use()

    with asyncio.Runner() as first:
        first.run(use())
        with asyncio.Runner() as second:
            second.run(use_and_close())
        first.run(client.close())
