"""The table of life, pair by pair: what can happen in each state of a row, and that nothing else does.

For every state that the port can bring a row into and everything that can happen to it, the row is brought there, it
happens, and the row must then be where the table says; where the table says that it can't happen, nothing may change.
"""

from collections.abc import Awaitable, Callable

from msgspec import structs

from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.life import Happening, allowed
from ringpost.core.message import Cause, Delivery, Kind, Message, Progress, Reservation, Settlement, State
from ringpost.store.port import Cancel, Capability, Conclude, Drop, Exported, Replay, Report
from ringpost.testing.conformance.moving import PASSAGE, movable
from ringpost.testing.conformance.suite import (
    HOLDER,
    LEASE_S,
    LINE,
    LOST_S,
    QUEUE,
    SECOND,
    Chapter,
    Run,
    Subject,
    Violation,
    new_id,
    same,
)

CHAPTER = Chapter("the table of life")
_DELAY_S, _TTL_S, _KEEP_S = 300.0, 600.0, 1000
_MARGIN_S = 130.0  # less than the delay, more than a store may need to find what is to be purged


class Row:
    """The row under test, and the delivery by which it was last claimed."""

    def __init__(self, message: Message, delivery: Delivery | None, head: Delivery | None = None) -> None:
        self.message = message
        self.delivery = delivery
        self.head = head  # of its line, where it waits behind one


def _message(*, delay_s: float = 0.0, keep_s: int = _KEEP_S) -> Message:
    return Message(new_id(), QUEUE, b"{}", line=LINE, keep_s=keep_s, ttl_s=_TTL_S, delay_s=delay_s)


async def bring(subject: Subject, state: State) -> Row:
    """Bring a new row into a state."""
    head: Delivery | None = None
    if state is State.WAITING:
        await subject.put(_message())
        head = await subject.claim_one(holder=SECOND)
    message = _message(
        delay_s=_DELAY_S if state is State.SCHEDULED else 0.0,
        keep_s=_KEEP_S if state.terminal else 1,  # what lives must not be purged, however short its keep
    )
    await subject.put(message)
    if state < State.RUNNING:
        return Row(message, None, head)
    delivery = await subject.claim_one()
    if state is State.EXPIRED:
        await subject.finish(delivery, State.READY)
        subject.advance(_TTL_S + 1)
        await subject.tend()
    elif state.terminal or state is State.FORWARDED:
        await subject.finish(delivery, state, Cause.REJECTED if state is State.DEAD else Cause.NONE)
    return Row(message, delivery)


def _delivery(row: Row) -> Delivery:
    """Give the delivery that the row had last; if it never had one, one as an impostor would make it."""
    return row.delivery or Delivery(1, row.message.id, QUEUE, 1, 1, 0, 1, 0, b"{}", b"{}", LINE)


def _settling(to: State, *, charge: bool = True) -> Callable[[Subject, Row], Awaitable[object]]:
    async def settle(subject: Subject, row: Row) -> None:
        await subject.settle(Settlement(_delivery(row), to, delay_s=_DELAY_S, charge=charge, cause=Cause.REJECTED))

    return settle


async def _put(subject: Subject, row: Row) -> None:
    await subject.store.put([row.message])


async def _reserve(subject: Subject, row: Row) -> None:
    message = row.message
    again = Message(message.id, QUEUE, b"{}", line=LINE, reserve=Reservation(SECOND, LEASE_S))
    await subject.store.put([again])


async def _wait_until_due(subject: Subject, row: Row) -> None:
    subject.advance(_DELAY_S + 1)
    subject.store.renew(HOLDER, LEASE_S)
    subject.store.renew(SECOND, LEASE_S)
    await subject.tend()


async def _let_its_turn_come(subject: Subject, row: Row) -> None:
    if row.head is not None:
        await subject.finish(row.head)
    await subject.tend()


async def _claim(subject: Subject, row: Row) -> None:
    await subject.store.claim({QUEUE: 10}, SECOND, LEASE_S)


async def _renew(subject: Subject, row: Row) -> None:
    subject.store.renew(HOLDER, LEASE_S)


async def _lose_the_lease(subject: Subject, row: Row) -> None:
    await subject.elapse(LOST_S)


async def _cancel(subject: Subject, row: Row) -> None:
    await subject.order(Cancel(row.message.id))


async def _report(subject: Subject, row: Row) -> None:
    await subject.order(Report(_delivery(row), Progress(0.5, "half")))


async def _expire(subject: Subject, row: Row) -> None:
    subject.advance(_TTL_S + 1)
    subject.store.renew(HOLDER, LEASE_S)
    subject.store.renew(SECOND, LEASE_S)
    await subject.tend()


async def _conclude(subject: Subject, row: Row) -> None:
    await subject.order(Conclude(row.message.id, 1, State.SUCCEEDED))


async def _replay(subject: Subject, row: Row) -> None:
    await subject.order(Replay(row.message.id, 1))


async def _drop(subject: Subject, row: Row) -> None:
    await subject.order(Drop(row.message.id))


async def _purge(subject: Subject, row: Row) -> None:
    state = await subject.state(row.message.id)
    kept_s = KEEP_DEAD_S if state is State.DEAD else _KEEP_S if state and state.terminal else 1
    subject.advance(kept_s + _MARGIN_S)
    subject.store.renew(HOLDER, LEASE_S)
    subject.store.renew(SECOND, LEASE_S)
    await subject.tend()


async def _take_out(subject: Subject, row: Row) -> None:
    record = await subject.there(row.message.id)
    await movable(subject).take_out([Exported(record, LINE, None, None, None, False, True)], PASSAGE)


async def _take_in(subject: Subject, row: Row) -> None:
    """Let the row come once more, as it was when it was put."""
    record = await subject.there(row.message.id)
    again = structs.replace(record, state=State.READY)
    await movable(subject).take_in([Exported(again, LINE, None, None, None, False, True)], PASSAGE)


async def _overtake(subject: Subject, row: Row) -> None:
    """Repeat the message as a keyed call would, its lease over: no message is overtaken, only a reservation."""
    subject.advance(LEASE_S + 1)
    await _reserve(subject, row)


_STEPS: dict[Happening, Callable[[Subject, Row], Awaitable[object]]] = {
    Happening.PUT: _put,
    Happening.RESERVE: _reserve,
    Happening.DUE: _wait_until_due,
    Happening.TURN: _let_its_turn_come,
    Happening.CLAIM: _claim,
    Happening.RENEW: _renew,
    Happening.PROGRESS: _report,
    Happening.SUCCEED: _settling(State.SUCCEEDED),
    Happening.RETRY: _settling(State.SCHEDULED),
    Happening.DEFER: _settling(State.SCHEDULED, charge=False),
    Happening.RELEASE: _settling(State.READY),
    Happening.REJECT: _settling(State.DEAD),
    Happening.LEASE_END: _lose_the_lease,
    Happening.OVERTAKE: _overtake,
    Happening.HAND_OVER: _settling(State.FORWARDED),
    Happening.OUTCOME: _conclude,
    Happening.CANCEL: _cancel,
    Happening.STOPPED: _settling(State.CANCELLED),
    Happening.EXPIRE: _expire,
    Happening.REPLAY: _replay,
    Happening.DROP: _drop,
    Happening.PURGE: _purge,
    Happening.TAKE_OUT: _take_out,
    Happening.TAKE_IN: _take_in,
}


def _pair(state: State, happening: Happening) -> Run:
    wanted = allowed(state, happening, Kind.MESSAGE) or frozenset({state})

    async def run(subject: Subject) -> None:
        row = await bring(subject, state)
        found = await subject.state(row.message.id)
        same("a row can be brought into every state", found, state)
        await _STEPS[happening](subject, row)
        found = await subject.state(row.message.id)
        if found not in wanted:
            raise Violation(
                f"broken: {state.name} -{happening}-> {[_name(one) for one in wanted]}; found {_name(found)}"
            )

    return run


def _name(state: State | None) -> str:
    return "nothing" if state is None else state.name


for _state in State:
    for _happening in _STEPS:
        _moves: tuple[Capability, ...] = ("move",) if _happening in (Happening.TAKE_OUT, Happening.TAKE_IN) else ()
        CHAPTER.add(f"{_state.name.lower()}, {_happening}", _pair(_state, _happening), "lines", "delay", *_moves)
