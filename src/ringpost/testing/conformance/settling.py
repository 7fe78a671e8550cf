"""Settling: one commit under the fence does all of it, or none."""

from ringpost.core.message import Answer, Cause, Delivery, Failure, Message, Settlement, State
from ringpost.testing.conformance.suite import (
    LEASE_S,
    OTHER,
    QUEUE,
    REPLY,
    SECOND,
    Chapter,
    Subject,
    holds,
    message,
    new_id,
    same,
)

CHAPTER = Chapter("settling")


def failure(number: int) -> Failure:
    return Failure("ValueError", f"no. {number}", "Traceback …", attempt=number, at_ms=number)


async def stale(subject: Subject) -> tuple[Delivery, Delivery]:
    """Give a delivery whose lease was lost, and the one that took its place."""
    await subject.put_bodies(b"1")
    lost = await subject.claim_one()
    await subject.lose(lost)
    return lost, await subject.claim_one(holder=SECOND)


@CHAPTER.case()
async def an_answer_is_kept_byte_for_byte(subject: Subject) -> None:
    answers = [
        Answer(200, b'{"id":"1"}'),
        Answer(204),
        Answer(409, b'{"type":"urn:x"}', "application/problem+json"),
        Answer(503, b"{}", retry_after_s=2.5, processed=False),
        Answer(200, bytes(range(256)) * 800, "application/octet-stream"),
    ]
    sent = await subject.put_bodies(*(b"%d" % number for number in range(len(answers))))
    ends = [State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.FAILED, State.SUCCEEDED]
    deliveries = await subject.claim()
    settled = await subject.store.settle(
        [Settlement(one, to, answer) for one, to, answer in zip(deliveries, ends, answers, strict=True)]
    )
    same("all are settled", settled, [True] * len(answers))
    records = [await subject.there(id) for id in sent]
    same("each has the end it was given", [record.state for record in records], ends)
    same("and its answer as it was given", [record.answer for record in records], answers)


@CHAPTER.case()
async def an_end_can_be_without_answer(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    await subject.finish(delivery)
    record = await subject.there(delivery.id)
    same("no answer was given", (record.state, record.answer), (State.SUCCEEDED, None))
    holds("the end has its time", record.settled_ms is not None)


@CHAPTER.case()
async def what_is_settled_stays_settled(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    await subject.finish(delivery)
    for to in (State.SUCCEEDED, State.FAILED, State.SCHEDULED, State.READY, State.DEAD):
        same("a second settlement has lost", await subject.settle(Settlement(delivery, to)), False)
    same("nothing of it is applied", await subject.state(delivery.id), State.SUCCEEDED)


@CHAPTER.case()
async def the_first_of_two_settlements_in_one_batch_wins(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    both = [Settlement(delivery, State.SUCCEEDED, REPLY), Settlement(delivery, State.FAILED)]
    same("one of them is applied", await subject.store.settle(both), [True, False])
    same("the first", await subject.state(delivery.id), State.SUCCEEDED)


@CHAPTER.case()
async def a_lost_fence_settles_nothing(subject: Subject) -> None:
    lost, current = await stale(subject)
    for to in (State.SUCCEEDED, State.FAILED, State.SCHEDULED, State.READY, State.DEAD, State.CANCELLED):
        settlement = Settlement(lost, to, REPLY, failure=failure(1))
        same(f"a holder who lost its lease can't settle ({to.name})", await subject.settle(settlement), False)
    record = await subject.there(lost.id)
    same("the row is the other's", (record.state, record.fence), (State.RUNNING, current.fence))
    same("untouched", (record.answer, record.failures, record.attempts), (None, [], 0))
    await subject.finish(current)


@CHAPTER.case()
async def a_lost_fence_removes_nothing(subject: Subject) -> None:
    lost, current = await stale(subject)
    same("nor can it remove", await subject.settle(Settlement(lost, State.FAILED, remove=True)), False)
    await subject.finish(current)


@CHAPTER.case()
async def a_lost_fence_costs_no_neighbour_its_end(subject: Subject) -> None:
    lost, current = await stale(subject)
    await subject.put_bodies(b"2", b"3")
    others = await subject.claim(holder=SECOND)
    batch = [Settlement(one, State.SUCCEEDED, REPLY) for one in (others[0], lost, others[1], current)]
    same("each is judged by itself", await subject.store.settle(batch), [True, False, True, True])
    for delivery in (*others, current):
        same("the good ones are settled", await subject.state(delivery.id), State.SUCCEEDED)


@CHAPTER.case()
async def staged_messages_come_with_the_settlement(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    staged = [message(b"a"), message(b"b", OTHER), Message(new_id(), QUEUE, b"c", delay_s=20)]
    same("not before it", await subject.store.read([one.id for one in staged]), [None, None, None])
    holds("it settles", await subject.settle(Settlement(delivery, State.SUCCEEDED, staged=staged)))
    states = [await subject.state(one.id) for one in staged]
    same("with it, all of them", states, [State.READY, State.READY, State.SCHEDULED])


@CHAPTER.case()
async def nothing_is_staged_where_the_fence_is_lost(subject: Subject) -> None:
    lost, current = await stale(subject)
    mine, theirs = message(b"mine"), message(b"theirs")
    batch = [
        Settlement(lost, State.SUCCEEDED, staged=[mine]),
        Settlement(current, State.SUCCEEDED, staged=[theirs]),
    ]
    same("one has lost", await subject.store.settle(batch), [False, True])
    same("nothing of it is there", await subject.state(mine.id), None)
    same("all of the other", await subject.state(theirs.id), State.READY)
    same("and only that", await subject.bodies(), [b"theirs"])


@CHAPTER.case()
async def nothing_is_staged_by_a_claim_that_lost(subject: Subject) -> None:
    lost, _ = await stale(subject)
    mine = message(b"mine")
    claimed = await subject.turn(settlements=[Settlement(lost, State.SUCCEEDED, staged=[mine])])
    same("the settlement has lost", claimed.settled, [False])
    same("what it staged isn't there", (await subject.state(mine.id), claimed.deliveries), (None, []))


@CHAPTER.case()
async def a_staged_message_that_is_known_is_absorbed(subject: Subject) -> None:
    known = message(b"known")
    await subject.put(known, message(b"1"))
    deliveries = await subject.claim(2)
    settlement = Settlement(deliveries[1], State.SUCCEEDED, staged=[known, message(b"new")])
    holds("it settles", await subject.settle(settlement))
    same("only the new one is added", await subject.bodies(), [b"new"])


@CHAPTER.case()
async def staging_goes_with_every_way_of_settling(subject: Subject) -> None:
    ways = [State.FAILED, State.SCHEDULED, State.DEAD, State.READY]
    await subject.put_bodies(*(b"%d" % number for number in range(len(ways))))
    deliveries = await subject.claim()
    staged = [message(b"s", OTHER) for _ in ways]
    batch = [Settlement(one, to, staged=[extra]) for one, to, extra in zip(deliveries, ways, staged, strict=True)]
    same("all settle", await subject.store.settle(batch), [True] * len(ways))
    same("and stage", len(await subject.bodies(OTHER)), len(ways))


# --- retries


@CHAPTER.case()
async def a_retry_comes_back_when_due(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    delivery = await subject.claim_one()
    await subject.retry(delivery, delay_s=20)
    record = await subject.there(id)
    same("it waits for its time", (record.state, record.attempts), (State.SCHEDULED, 1))
    await subject.elapse(18)
    same("not before it is due", await subject.bodies(), [])
    await subject.elapse(3)
    again = await subject.claim_one()
    same("then as its second attempt", (again.id, again.attempt, again.losses), (id, 2, 0))
    holds("with a higher fence", again.fence > delivery.fence)
    same("the old delivery has lost", await subject.settle(Settlement(delivery, State.SUCCEEDED)), False)


@CHAPTER.case()
async def a_retry_without_delay_is_due_at_once(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    await subject.retry(await subject.claim_one())
    same("due now", (await subject.claim_one()).attempt, 2)


@CHAPTER.case()
async def a_retry_can_be_without_charge(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    for _ in range(3):
        delivery = await subject.claim_one()
        same("no attempt is charged", delivery.attempt, 1)
        holds("deferred", await subject.settle(Settlement(delivery, State.SCHEDULED, delay_s=0, charge=False)))
    same("nor counted", (await subject.there(id)).attempts, 0)


@CHAPTER.case()
async def a_release_gives_back_at_no_cost(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    delivery = await subject.claim_one()
    await subject.finish(delivery, State.READY)
    record = await subject.there(delivery.id)
    same("ready again, nothing counted", (record.state, record.attempts, record.losses), (State.READY, 0, 0))
    same("at its old place", await subject.bodies(), [b"1", b"2"])


@CHAPTER.case()
async def a_started_message_stays_started(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    await subject.retry(await subject.claim_one(), delay_s=20)
    started_ms = (await subject.there(id)).started_ms
    holds("a message in retry has started", started_ms is not None)
    await subject.elapse(21)
    await subject.claim_one()
    same("and keeps the time of its first start", (await subject.there(id)).started_ms, started_ms)


@CHAPTER.case()
async def failures_are_kept_the_last_five(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    for number in range(1, 8):
        settlement = Settlement(await subject.claim_one(), State.SCHEDULED, failure=failure(number))
        holds("retried", await subject.settle(settlement))
    last = Settlement(await subject.claim_one(), State.DEAD, cause=Cause.HANDLER_ERROR, failure=failure(8))
    holds("dead", await subject.settle(last))
    record = await subject.there(id)
    same("dead after its attempts", (record.state, record.cause, record.attempts), (State.DEAD, Cause.HANDLER_ERROR, 8))
    same("the last five failures are kept", record.failures, [failure(number) for number in range(4, 9)])


@CHAPTER.case()
async def every_cause_is_kept(subject: Subject) -> None:
    causes = [Cause.HANDLER_ERROR, Cause.UNDECODABLE, Cause.REJECTED, Cause.TOO_OLD, Cause.TOO_FAR]
    await subject.put_bodies(*(b"%d" % number for number in range(len(causes))))
    for delivery, cause in zip(await subject.claim(), causes, strict=True):
        await subject.finish(delivery, State.DEAD, cause)
        record = await subject.there(delivery.id)
        same("a dead message says why", (record.state, record.cause), (State.DEAD, cause))


@CHAPTER.case()
async def a_large_batch_settles_whole(subject: Subject) -> None:
    await subject.put(*(message(b"%d" % number) for number in range(600)))
    deliveries = await subject.claim(600)
    batch = [
        Settlement(one, State.SUCCEEDED, Answer(200, one.body), staged=[message(b"s", OTHER)]) for one in deliveries
    ]
    same("all of it", set(await subject.store.settle(batch)), {True})
    records = await subject.store.read([one.id for one in deliveries])
    same("each with its own answer", [record and record.answer for record in records], [one.answer for one in batch])
    same("and what it staged", len(await subject.claim(1000, OTHER)), 600)


@CHAPTER.case()
async def a_lapsed_lease_that_nobody_took_still_settles(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    subject.advance(LEASE_S + 5)
    holds("the fence decides, not the clock", await subject.settle(Settlement(delivery, State.SUCCEEDED)))
