"""Tickets: what they give, raise and show of a message, and until when."""

import asyncio

import pytest
from client_world import Adding, Sum, TooLarge, a_world, problem

from ringpost.contract.errors import DeadlineExceeded, OperationFailed, StateError, TicketExpired, UsageError
from ringpost.core import ids
from ringpost.core.message import Answer, Progress, State
from ringpost.core.receipt import Status
from ringpost.store.port import Report


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
