"""Calls after messages: who waits for them, and what comes of those that aren't there or won't come."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_world import Adding, Sum, a_world

from ringpost.client.ticket import Receipt, Ticket
from ringpost.contract.errors import NotHere, NotYet, StateError, UsageError
from ringpost.core import ids, notes
from ringpost.core.after import After, Awaited
from ringpost.core.message import Answer, State
from ringpost.core.receipt import Status
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note


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
