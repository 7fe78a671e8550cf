"""Slots: nobody waits for a call to end, but a call waits for a message, and goes before what a claim asks for."""

import asyncio

import pytest

from ringpost.service.slots import Slots


async def test_what_is_taken_is_refused_at_once() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not slots.take()
    assert not await slots.take_soon()


def test_calls_take_what_a_claim_has_only_asked_for() -> None:
    slots = Slots(3)
    slots.ask(3)
    assert slots.free == 0
    assert slots.take()
    assert slots.claimed(3, 3) == 1  # one more than there is room for
    assert (slots.used, slots.messages, slots.asked, slots.free) == (3, 2, 0, 0)
    assert not slots.take()


def test_what_a_claim_didnt_give_is_free_again() -> None:
    slots = Slots(2)
    slots.ask(2)
    assert slots.claimed(2, 0) == 0
    assert (slots.used, slots.messages, slots.free) == (0, 0, 2)


async def test_a_message_that_ends_gives_its_slot_to_the_call_that_waits_before_the_next_claim() -> None:
    slots = Slots(2)
    slots.ask(2)
    slots.claimed(2, 2)
    call = asyncio.create_task(slots.take_soon())
    await asyncio.sleep(0)
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
    slots.claimed(1, 1)
    call = asyncio.create_task(slots.take_soon())
    await asyncio.sleep(0)
    slots.give()
    assert await call
    slots.ended()
    assert slots.used == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_goes_away_while_waiting_leaves_no_slot_taken(when: str) -> None:
    slots = Slots(1)
    slots.ask(1)
    slots.claimed(1, 1)
    call = asyncio.create_task(slots.take_soon())
    await asyncio.sleep(0)
    if when == "before":
        call.cancel()
        await asyncio.sleep(0)
    slots.ended()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert slots.used == 0
