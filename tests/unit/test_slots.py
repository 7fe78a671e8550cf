"""Slots: a call waits a moment for one, and goes before what a claim asks for."""

import asyncio

import pytest

from ringpost.core.limit import Fixed
from ringpost.core.message import Priority
from ringpost.service.slots import Slots


async def entered(slots: Slots, seconds: float = 30.0) -> str:
    """Wait for a slot, and say what became of it."""
    return await slots.enter(Priority.NORMAL, asyncio.get_running_loop().time() + seconds)


async def test_who_finds_neither_slot_nor_room_to_wait_is_turned_away_at_once() -> None:
    slots = Slots(1, queue_max=0)
    assert slots.take()
    assert not slots.take()
    assert await entered(slots) == "shed"


async def test_who_waits_for_too_long_is_turned_away_and_leaves_the_queue() -> None:
    slots = Slots(1)
    assert slots.take()
    assert await entered(slots, 0.01) == "late"
    assert await entered(slots) == "shed"
    assert slots.waiting == 0
    slots.give()
    assert slots.take()


async def test_a_call_that_ends_gives_its_slot_to_the_one_that_waits() -> None:
    slots = Slots(1)
    assert slots.take()
    call = asyncio.create_task(entered(slots))
    await asyncio.sleep(0)
    slots.give()
    assert not slots.take()
    assert await call == "runs"


async def test_as_many_tasks_are_made_as_there_is_room_for() -> None:
    """What is made in one turn of the loop takes its slot in the next: till then it is expected."""
    slots = Slots(3, limiter=Fixed(2), queue_max=1)
    assert [slots.let_in(Priority.NORMAL) for _ in range(6)] == [True, True, True, False, False, False]
    await asyncio.sleep(0)
    assert slots.take()
    assert [slots.let_in(Priority.NORMAL) for _ in range(4)] == [True, True, False, False]


async def test_messages_may_be_claimed_again_when_nobody_waits_any_more() -> None:
    freed: list[int] = []
    slots = Slots(2, limiter=Fixed(1))
    slots.freed = lambda: freed.append(slots.free)
    assert slots.take()
    call = asyncio.create_task(entered(slots))
    await asyncio.sleep(0)
    assert slots.free == 0
    slots.give()
    assert await call == "runs"
    assert freed == [1]


async def test_closed_it_lets_nobody_in_and_who_waits_is_told_at_once() -> None:
    slots = Slots(1)
    assert slots.take()
    call = asyncio.create_task(entered(slots))
    await asyncio.sleep(0)
    slots.shut(True)
    assert await call == "shed"
    slots.give()
    assert not slots.take()
    slots.shut(False)
    assert slots.take()


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
    call = asyncio.create_task(entered(slots))
    await asyncio.sleep(0)
    assert not call.done()
    slots.ended()
    assert await call == "runs"
    assert (slots.used, slots.messages, slots.free) == (2, 1, 0)


async def test_a_handler_that_ends_meanwhile_gives_its_slot_to_who_waits() -> None:
    slots = Slots(2)
    assert slots.take()
    slots.ask(1)
    slots.claimed(1, 1)
    call = asyncio.create_task(entered(slots))
    await asyncio.sleep(0)
    slots.give()
    assert await call == "runs"
    slots.ended()
    assert slots.used == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_goes_away_while_waiting_leaves_no_slot_taken(when: str) -> None:
    slots = Slots(1)
    slots.ask(1)
    slots.claimed(1, 1)
    call = asyncio.create_task(entered(slots))
    await asyncio.sleep(0)
    if when == "before":
        call.cancel()
        await asyncio.sleep(0)
    slots.ended()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert slots.used == 0
