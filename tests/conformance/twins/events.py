"""Stores that spread events wrongly: in parts, again, or without counting who missed them."""

from collections.abc import Callable, Mapping
from itertools import count

from msgspec import structs

from ringpost.core.message import Message
from ringpost.core.notes import Subscription
from ringpost.store.memory import notes, put
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Put
from twins.twin import instead_of

FanOut = Callable[[Turn, Message, bool], Put]
Told = Callable[[Turn, Message, Mapping[str, Subscription]], Put | None]
_published = count(1)


@instead_of(put._fan_out)
def absorbs_no_fan_out(fan_out: FanOut, turn: Turn, event: Message, limited: bool) -> Put:
    """Gives the deliveries of a repeated event new ids."""
    other = next(_published).to_bytes(2, "big") + event.id[2:]
    done = fan_out(turn, structs.replace(event, id=other), limited)
    return structs.replace(done, id=event.id)


@instead_of(put._fan_out)
def fans_out_in_parts(fan_out: FanOut, turn: Turn, event: Message, limited: bool) -> Put:
    """Keeps the deliveries of an event that fit, and says that it was refused."""
    done = fan_out(turn, event, limited)
    if done.refused == "full":
        fan_out(turn, event, False)
    return done


@instead_of(notes.count_gaps)
def forgets_what_the_suspended_miss(*given: object) -> None:
    """Leaves a suspended subscription out and doesn't write down that it did."""


@instead_of(put._told)
def counts_every_repeat_as_missed(
    told: Told, turn: Turn, event: Message, subscriptions: Mapping[str, Subscription]
) -> Put | None:
    """Writes down that a suspended subscription missed an event as often as that is published."""
    answer = told(turn, event, subscriptions)
    if answer is not None:
        notes.count_gaps(turn, event.event, subscriptions, 0)
    return answer
