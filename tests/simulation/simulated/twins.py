"""Broken twins: one decision of the product replaced by a wrong one. Each has to be caught by what is checked."""

import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from msgspec import structs

from ringpost.client import outbound
from ringpost.core.admission import Admission
from ringpost.core.breaker import Breaker
from ringpost.core.budget import Budget
from ringpost.core.message import Message, Settlement, State
from ringpost.forward import poster
from ringpost.service import slots
from ringpost.store.memory import put, settle
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Put

Twin = Callable[[], AbstractContextManager[Any]]


def unsafe_calls_are_repeated() -> AbstractContextManager[Any]:
    return mock.patch.object(outbound, "may_repeat", lambda failed, tries, *, safe: failed.number < tries.most)


def the_budget_is_ignored() -> AbstractContextManager[Any]:
    return mock.patch.object(Budget, "take", lambda self: True)


def a_breaker_lets_everybody_probe() -> AbstractContextManager[Any]:
    return mock.patch.object(Breaker, "probe", lambda self, now_s, until_s: True)


@contextmanager
def the_queue_keeps_whose_time_is_over() -> Generator[None]:
    """Everybody may come in and wait for as long as it takes."""
    enter = slots.Slots.enter

    def whenever(self: slots.Slots, priority: Any, deadline_s: float) -> Any:
        return enter(self, priority, deadline_s + 60.0)

    with (
        mock.patch.object(slots.Slots, "enter", whenever),
        mock.patch.object(slots, "WAIT_S_MAX", 60.0),
        mock.patch.object(Admission, "_in_time", lambda self, newcomer, now_s: True),
        mock.patch.object(Admission, "_height", lambda self, priority, now_s: 1_000),
    ):
        yield


def as_many_wait_as_come() -> AbstractContextManager[Any]:
    return mock.patch.object(Admission, "_height", lambda self, priority, now_s: 1_000)


@contextmanager
def the_receiver_forgets_what_it_has() -> Generator[None]:
    """A message that is there already is put once more, under another id."""
    once = put.put

    def twice(turn: Turn, message: Message, *, limited: bool) -> Put:
        found = once(turn, message, limited=limited)
        if found.duplicate and not found.refused and message.queue == "back.note":
            other = structs.replace(message, id=message.id[:8] + os.urandom(8), dedup=None)
            once(turn, other, limited=limited)
        return found

    with mock.patch.object(put, "put", twice):
        yield


@contextmanager
def the_fence_is_ignored() -> Generator[None]:
    """Whoever has lost a message commits all the same. What is staged has an id that is the same each time, which alone
    would keep it from doubling: so that is gone as well, as with a row in somebody's table."""
    under_the_fence = settle.settle

    def any_fence(turn: Turn, settlement: Settlement) -> bool:
        settled = under_the_fence(turn, settlement)
        for message in () if settled else settlement.staged:
            put.put(turn, structs.replace(message, id=message.id[:8] + os.urandom(8)), limited=False)
        return settled

    with mock.patch.object(settle, "settle", any_fence):
        yield


def the_forwarder_takes_an_outage_for_a_receipt() -> AbstractContextManager[Any]:
    async def hopeful(self: Any, receiver: Any, delivery: Any, detail: str, **_: Any) -> Settlement:
        return Settlement(delivery, State.SUCCEEDED)

    return mock.patch.object(poster.Poster, "_outage", hopeful)


def the_forwarder_sends_under_a_new_id() -> AbstractContextManager[Any]:
    from ringpost.client.posting import new_id

    return mock.patch.object(poster, "wire_id", lambda receiver, id: new_id())


@contextmanager
def what_stood_in_the_way_is_forgotten() -> Generator[None]:
    """A lapsed lease brings nothing back."""
    with mock.patch.object(MemoryStore, "tend", _tend_nothing):
        yield


async def _tend_nothing(self: MemoryStore, limit: int = 1000) -> Any:
    from ringpost.store.port import Tended

    return Tended()


TWINS: tuple[Twin, ...] = (
    unsafe_calls_are_repeated,
    the_budget_is_ignored,
    a_breaker_lets_everybody_probe,
    the_queue_keeps_whose_time_is_over,
    as_many_wait_as_come,
    the_receiver_forgets_what_it_has,
    the_fence_is_ignored,
    the_forwarder_takes_an_outage_for_a_receipt,
    the_forwarder_sends_under_a_new_id,
    what_stood_in_the_way_is_forgotten,
)
