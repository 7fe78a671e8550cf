"""Many at once: nothing twice, nothing lost, whoever comes when."""

import asyncio
from collections import Counter

from ringpost.core.message import Delivery, Message, Settlement, State
from ringpost.store.port import Cancel
from ringpost.testing.conformance.suite import (
    LEASE_S,
    OTHER,
    QUEUE,
    Chapter,
    Subject,
    lined,
    message,
    new_id,
    reservation,
    same,
)

CHAPTER = Chapter("racing")
_COUNT = 200


async def drain(subject: Subject, holder: int, queue: str = QUEUE) -> list[Delivery]:
    """Work a queue until it is empty: claim with the settlements of the last turn, as workers do."""
    done: list[Delivery] = []
    settlements: list[Settlement] = []
    while True:
        claimed = await subject.store.claim({queue: 7}, holder, LEASE_S, settlements)
        same("whoever holds can settle", set(claimed.settled) - {True}, set())
        if not claimed.deliveries:
            return done
        done += claimed.deliveries
        settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]
        await asyncio.sleep(0)


@CHAPTER.case()
async def many_puts_at_once_are_all_there(subject: Subject) -> None:
    await asyncio.gather(*(subject.put(message(b"%d" % number)) for number in range(_COUNT)))
    bodies = Counter(await subject.bodies())
    while more := await subject.bodies():
        bodies.update(more)
    same("each once", bodies, Counter(b"%d" % number for number in range(_COUNT)))


@CHAPTER.case()
async def many_claims_at_once_share_what_is_there(subject: Subject) -> None:
    await subject.put_bodies(*(b"%d" % number for number in range(_COUNT)))
    done = await asyncio.gather(*(drain(subject, holder) for holder in range(100, 108)))
    ids = [delivery.id for part in done for delivery in part]
    same("all, and each once", (len(ids), len(set(ids))), (_COUNT, _COUNT))


@CHAPTER.case()
async def one_id_put_by_many_is_one_row(subject: Subject) -> None:
    sent = message(b"1")
    answers = await asyncio.gather(*(subject.put(sent) for _ in range(50)))
    same("one of them was first", [put[0].duplicate for put in answers].count(False), 1)
    same("one row", await subject.bodies(), [b"1"])


@CHAPTER.case()
async def one_key_reserved_by_many_runs_once(subject: Subject) -> None:
    answers = await asyncio.gather(*(subject.put(reservation(holder=holder)) for holder in range(50)))
    same("one of them runs", sum(put[0].delivery is not None for put in answers), 1)
    same("all have its id", len({put[0].id for put in answers}), 1)


@CHAPTER.case()
async def one_delivery_settled_by_many_is_settled_once(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    staged = [message(b"%d" % number, OTHER) for number in range(20)]
    tries = [subject.settle(Settlement(delivery, State.SUCCEEDED, staged=[one])) for one in staged]
    won = await asyncio.gather(*tries)
    same("one settles", won.count(True), 1)
    same("and stages", await subject.bodies(OTHER), [b"%d" % won.index(True)])


@CHAPTER.case()
async def cancelling_and_claiming_at_once_agree(subject: Subject) -> None:
    sent = await subject.put_bodies(*(b"%d" % number for number in range(40)))
    cancels = asyncio.gather(*(subject.order(Cancel(id)) for id in sent))
    parts = await asyncio.gather(drain(subject, 1), drain(subject, 2))
    await cancels
    states = Counter([await subject.state(id) for id in sent])
    same("each has one end", states[State.CANCELLED] + states[State.SUCCEEDED], 40)
    done = len(parts[0]) + len(parts[1])
    same("what was claimed wasn't cancelled at once", states[State.SUCCEEDED], done)


@CHAPTER.case("lines")
async def a_line_has_one_head_however_many_put_and_claim(subject: Subject) -> None:
    running: set[bytes] = set()
    found: dict[bytes, list[bytes]] = {}
    lines = [b"line %011d" % number for number in range(5)]

    async def send() -> None:
        for number in range(20):
            await subject.put(*(lined(b"%03d" % number, line) for line in lines))

    async def work(holder: int) -> None:
        settlements: list[Settlement] = []
        while sum(len(bodies) for bodies in found.values()) < 100:
            claimed = await subject.store.claim({QUEUE: 3}, holder, LEASE_S, settlements)
            running.difference_update(one.delivery.line or b"" for one in settlements)
            settlements = []
            for delivery in claimed.deliveries:
                line = delivery.line or b""
                same("one of a line at a time", line in running, False)
                running.add(line)
                found.setdefault(line, []).append(delivery.body)
                settlements.append(Settlement(delivery, State.SUCCEEDED))
            await asyncio.sleep(0)
            if settlements:  # given back before the next claim, so that "running" here is never too long
                running.difference_update(one.delivery.line or b"" for one in settlements)
                same("settled", set(await subject.store.settle(settlements)), {True})
                settlements = []

    await asyncio.wait_for(asyncio.gather(send(), *(work(holder) for holder in range(4))), 60)
    for line in lines:
        same("each line in order", found[line], [b"%03d" % number for number in range(20)])


@CHAPTER.case()
async def everything_at_once_loses_nothing(subject: Subject) -> None:
    sent = [Message(new_id(), QUEUE, b"%d" % number) for number in range(_COUNT)]
    done: list[Delivery] = []
    puts = [subject.put(*sent[at : at + 5], *sent[max(at - 2, 0) : at]) for at in range(0, _COUNT, 5)]

    async def work(holder: int) -> None:
        while len(done) < _COUNT:
            done.extend(await drain(subject, holder))
            await asyncio.sleep(0)

    async def tend() -> None:
        while len(done) < _COUNT:
            await subject.store.tend(10)
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*puts, work(1), work(2), work(3), tend()), 60)
    same("each once", Counter(one.body for one in done), Counter(one.body for one in sent))
    states = Counter([await subject.state(one.id) for one in sent])
    same("all have ended well", states, Counter({State.SUCCEEDED: _COUNT}))
