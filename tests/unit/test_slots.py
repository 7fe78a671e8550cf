"""Slots: nobody waits for a handler to end, but a call waits for what a claim under way doesn't need."""

import asyncio

import pytest

from ringpost.service.slots import Slots


async def test_what_is_taken_is_refused_at_once() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not slots.take()
    assert not await slots.take_soon()


async def test_what_a_claim_asked_for_and_doesnt_need_goes_to_the_calls_that_wait() -> None:
    slots = Slots(2)
    slots.ask(2)
    assert not slots.take()
    calls = [asyncio.create_task(slots.take_soon()) for _ in range(3)]
    await asyncio.sleep(0)
    slots.unneeded(2)
    assert [await call for call in calls] == [True, True, False]
    assert (slots.used, slots.messages, slots.free) == (2, 0, 0)


async def test_a_message_that_ends_gives_its_slot_to_the_call_that_waits_before_the_next_claim() -> None:
    slots = Slots(2)
    slots.ask(2)
    call = asyncio.create_task(slots.take_soon())
    await asyncio.sleep(0)
    slots.unneeded(0)
    assert not call.done()
    slots.ended()
    assert await call
    assert (slots.used, slots.messages, slots.free) == (2, 1, 0)


async def test_where_calls_have_all_slots_nobody_waits() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not await slots.take_soon()


async def test_a_handler_that_ends_meanwhile_gives_its_slot_to_who_waits() -> None:
    slots = Slots(2)
    assert slots.take()
    slots.ask(1)
    call = asyncio.create_task(slots.take_soon())
    await asyncio.sleep(0)
    slots.give()
    assert await call
    slots.unneeded(1)
    assert slots.used == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_goes_away_while_waiting_leaves_no_slot_taken(when: str) -> None:
    slots = Slots(1)
    slots.ask(1)
    call = asyncio.create_task(slots.take_soon())
    await asyncio.sleep(0)
    if when == "before":
        call.cancel()
        await asyncio.sleep(0)
    slots.unneeded(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert slots.used == 0
