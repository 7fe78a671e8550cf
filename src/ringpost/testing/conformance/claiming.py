"""Claiming: in order, at most as many as wanted, each to one holder, under a fence that only rises."""

from ringpost.core.message import Message, Priority, Settlement, State
from ringpost.testing.conformance.suite import (
    HOLDER,
    LEASE_S,
    OTHER,
    QUEUE,
    SECOND,
    Chapter,
    Subject,
    envelope,
    holds,
    message,
    new_id,
    same,
)

CHAPTER = Chapter("claiming")


@CHAPTER.case()
async def a_delivery_says_all_that_was_sent(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b'{"n":1}', envelope(operation=QUEUE), ttl_s=100, keep_s=99)
    await subject.put(sent)
    record = await subject.there(sent.id)
    delivery = await subject.claim_one()
    found = (delivery.id, delivery.queue, delivery.body, delivery.headers, delivery.keep_s)
    same("the message is delivered whole", found, (sent.id, QUEUE, b'{"n":1}', sent.headers, 99))
    same("first attempt, no loss", (delivery.attempt, delivery.losses, delivery.generation), (1, 0, 1))
    same("with its times", (delivery.created_ms, delivery.expires_ms), (record.created_ms, record.expires_ms))
    same("nobody asked to cancel it", delivery.cancel_asked, False)
    record = await subject.there(sent.id)
    same("the row runs under the fence", (record.state, record.fence), (State.RUNNING, delivery.fence))
    holds("since now", record.started_ms is not None)


@CHAPTER.case()
async def the_oldest_comes_first(subject: Subject) -> None:
    bodies = [b"%d" % number for number in range(20)]
    for body in bodies:
        await subject.put(message(body))
    same("messages are claimed in the order of their puts", await subject.bodies(), bodies)


@CHAPTER.case("priority")
async def the_highest_priority_comes_first(subject: Subject) -> None:
    for number, priority in enumerate([Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.LOW, Priority.HIGH]):
        await subject.put(Message(new_id(), QUEUE, b"%d" % number, priority=priority))
    same("by priority, then by age", await subject.bodies(), [b"2", b"4", b"1", b"0", b"3"])


@CHAPTER.case()
async def never_more_than_wanted(subject: Subject) -> None:
    await subject.put_bodies(*(b"%d" % number for number in range(10)))
    await subject.put(*(message(b"o", OTHER) for _ in range(10)))
    claimed = await subject.store.claim({QUEUE: 3, OTHER: 2}, HOLDER, LEASE_S)
    queues = [delivery.queue for delivery in claimed.deliveries]
    same("of each queue at most as many as wanted", (queues.count(QUEUE), queues.count(OTHER)), (3, 2))
    same("nothing where nothing is wanted", await subject.claim(0), [])
    same("the rest is still there", len(await subject.claim(100)), 7)


@CHAPTER.case()
async def only_from_the_queues_that_are_wanted(subject: Subject) -> None:
    await subject.put(message(b"1"), message(b"2", OTHER))
    same("other queues are left alone", await subject.bodies(), [b"1"])
    same("and an unknown queue is empty", await subject.bodies("no.such"), [])
    same("no queue, no message", (await subject.store.claim({}, HOLDER, LEASE_S)).deliveries, [])


@CHAPTER.case()
async def each_message_to_one_holder(subject: Subject) -> None:
    await subject.put_bodies(*(b"%d" % number for number in range(10)))
    mine = await subject.claim(5, holder=HOLDER)
    theirs = await subject.claim(100, holder=SECOND)
    ids = [delivery.id for delivery in mine + theirs]
    same("nothing is delivered twice", (len(ids), len(set(ids))), (10, 10))
    same("and nothing is left", await subject.claim(), [])


@CHAPTER.case()
async def one_fence_a_claim_and_it_rises(subject: Subject) -> None:
    fences: list[int] = []
    await subject.put_bodies(*(b"%d" % number for number in range(12)))
    for holder in (HOLDER, SECOND, HOLDER, SECOND):
        batch = {delivery.fence for delivery in await subject.claim(3, holder=holder)}
        same("a claim has one fence", len(batch), 1)
        fences += batch
    same("every claim has a higher fence than all before it", fences, sorted(set(fences)))


@CHAPTER.case()
async def the_fence_of_a_message_rises_with_every_claim(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    fences = [(await subject.there(id)).fence]
    for _ in range(4):
        delivery = await subject.claim_one()
        fences.append(delivery.fence)
        await subject.finish(delivery, State.READY)
    same("fences only rise", fences, sorted(fences))
    same("and are new at each claim", len(set(fences[1:])), 4)


@CHAPTER.case()
async def a_claim_settles_first(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    first = await subject.claim_one()
    claimed = await subject.turn(settlements=[Settlement(first, State.SUCCEEDED)])
    same("settlements go with a claim", claimed.settled, [True])
    same("which takes what is there", [delivery.body for delivery in claimed.deliveries], [b"2"])
    same("the settled one has ended", await subject.state(first.id), State.SUCCEEDED)


@CHAPTER.case()
async def a_claim_gets_what_its_settlements_staged(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    first = await subject.claim_one()
    settlement = Settlement(first, State.SUCCEEDED, staged=[message(b"staged")])
    claimed = await subject.turn(settlements=[settlement])
    same("staged messages can be claimed in the same turn", [one.body for one in claimed.deliveries], [b"staged"])


@CHAPTER.case()
async def a_paused_queue_gives_nothing(subject: Subject) -> None:
    await subject.put(message(b"1"), message(b"2", OTHER))
    pause = await subject.pause(QUEUE)
    same("what is paused isn't claimed", await subject.bodies(), [])
    same("other queues go on", await subject.bodies(OTHER), [b"2"])
    await subject.put(message(b"3"))
    await subject.store.note_drop(pause)
    same("after the pause nothing is missing", await subject.bodies(), [b"1", b"3"])


@CHAPTER.case()
async def a_pause_can_end_by_its_lease(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    await subject.pause(QUEUE, lease_s=10)
    same("paused", await subject.bodies(), [])
    await subject.elapse(11)
    same("and over", await subject.bodies(), [b"1"])


@CHAPTER.case()
async def a_claim_says_when_to_come_again(subject: Subject) -> None:
    same("nothing scheduled, nothing due", (await subject.turn()).next_due_s, None)
    await subject.put(Message(new_id(), QUEUE, b"later", delay_s=50), Message(new_id(), QUEUE, b"soon", delay_s=20))
    due_s = (await subject.turn()).next_due_s
    holds("the first that is due counts", due_s is not None and 19 <= due_s <= 20.01)
    due_s = (await subject.tend()).next_due_s
    holds("upkeep says the same", due_s is not None and 19 <= due_s <= 20.01)
