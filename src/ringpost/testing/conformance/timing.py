"""Time: what is delayed comes when due, what has expired doesn't come at all."""

from ringpost.core.message import Cause, Delivery, Message, Settlement, State
from ringpost.testing.conformance.suite import (
    LINE,
    OTHER,
    QUEUE,
    Chapter,
    Subject,
    holds,
    message,
    new_id,
    same,
)

CHAPTER = Chapter("time")


@CHAPTER.case("delay")
async def a_delayed_message_comes_when_due(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", delay_s=30)
    await subject.put(sent)
    record = await subject.there(sent.id)
    same("it is scheduled", (record.state, record.due_ms - record.created_ms), (State.SCHEDULED, 30_000))
    await subject.elapse(28)
    same("not before it is due", await subject.bodies(), [])
    same("one becomes due", (await subject.elapse(3)).due, 1)
    same("then it comes", await subject.bodies(), [b"1"])


@CHAPTER.case("delay")
async def an_instant_in_the_future_is_waited_for(subject: Subject) -> None:
    now = message(b"now", OTHER)
    await subject.put(now)
    await subject.put(Message(new_id(), QUEUE, b"at", due_ms=(await subject.there(now.id)).created_ms + 30_000))
    await subject.elapse(28)
    same("not before the instant", await subject.bodies(), [])
    await subject.elapse(3)
    same("but then", await subject.bodies(), [b"at"])


@CHAPTER.case("delay")
async def an_instant_in_the_past_is_now(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", due_ms=1000))
    same("it is due", await subject.bodies(), [b"1"])


@CHAPTER.case("delay")
async def a_repeated_delayed_message_is_absorbed(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", delay_s=30)
    await subject.put(sent)
    again = (await subject.put(sent))[0]
    same("known while it is scheduled", (again.duplicate, again.state), (True, State.SCHEDULED))


@CHAPTER.case("delay")
async def a_staged_delay_counts_from_the_commit(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    staged = Message(new_id(), OTHER, b"later", delay_s=20)
    await subject.elapse(15)
    holds("it settles", await subject.settle(Settlement(delivery, State.SUCCEEDED, staged=[staged])))
    await subject.elapse(15)
    same("not from when it was staged", await subject.bodies(OTHER), [])
    await subject.elapse(6)
    same("due", await subject.bodies(OTHER), [b"later"])


@CHAPTER.case()
async def what_has_expired_is_not_claimed(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", ttl_s=10)
    await subject.put(sent, message(b"2"))
    subject.advance(11)
    deliveries = (await subject.store.claim({QUEUE: 10}, 1, 30.0)).deliveries
    same("a claim passes over what has expired", [one.body for one in deliveries], [b"2"])
    record = await subject.there(sent.id)
    same("and ends it", (record.state, record.cause), (State.EXPIRED, Cause.EXPIRED))
    holds("at a time", record.settled_ms is not None)


@CHAPTER.case()
async def a_claim_finds_what_stands_behind_the_expired(subject: Subject) -> None:
    expiring = [Message(new_id(), QUEUE, b"old", ttl_s=10) for _ in range(50)]
    await subject.put(*expiring, message(b"good"))
    subject.advance(11)
    deliveries: list[Delivery] = []
    for _ in range(10):  # a claim may look at a bounded number of rows
        deliveries = (await subject.store.claim({QUEUE: 5}, 1, 30.0)).deliveries
        if deliveries:
            break
    same("what is good comes, however much has expired before it", [one.body for one in deliveries], [b"good"])


@CHAPTER.case()
async def upkeep_expires_what_nobody_claims(subject: Subject) -> None:
    ready = Message(new_id(), "no.consumer", b"1", ttl_s=10)
    scheduled = Message(new_id(), QUEUE, b"2", ttl_s=10, delay_s=100)
    await subject.put(ready, scheduled, message(b"3"))
    subject.advance(11)
    same("upkeep finds them", (await subject.tend()).expired, 2)
    for sent in (ready, scheduled):
        same("wherever they wait", await subject.state(sent.id), State.EXPIRED)
    same("the others stay", await subject.bodies(), [b"3"])


@CHAPTER.case()
async def a_reader_sees_what_has_expired(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", ttl_s=10)
    await subject.put(sent)
    same("before", await subject.state(sent.id), State.READY)
    subject.advance(11)
    same("a read of an overdue row ends it first", await subject.state(sent.id), State.EXPIRED)


@CHAPTER.case()
async def what_runs_does_not_expire(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", ttl_s=10))
    delivery = await subject.claim_one()
    subject.advance(11)
    await subject.tend()
    same("a running message is left alone", await subject.state(delivery.id), State.RUNNING)
    await subject.finish(delivery)


@CHAPTER.case()
async def a_retry_expires(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", ttl_s=10))
    delivery = await subject.claim_one()
    subject.advance(5)
    await subject.retry(delivery, delay_s=100)
    await subject.elapse(6)
    same("expiry ends retries", await subject.state(delivery.id), State.EXPIRED)


@CHAPTER.case()
async def what_comes_back_too_late_expires(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", ttl_s=10))
    delivery = await subject.claim_one()
    subject.advance(11)
    await subject.finish(delivery, State.READY)
    same("it isn't claimed again", await subject.bodies(), [])
    same("it has expired", await subject.state(delivery.id), State.EXPIRED)


@CHAPTER.case("lines")
async def an_expired_head_lets_the_next_go(subject: Subject) -> None:
    head = Message(new_id(), QUEUE, b"1", line=LINE, ttl_s=10)
    await subject.put(head, Message(new_id(), QUEUE, b"2", line=LINE))
    subject.advance(11)
    await subject.tend()
    same("the next goes on", await subject.bodies(), [b"2"])
    same("the head has expired", await subject.state(head.id), State.EXPIRED)


@CHAPTER.case("lines")
async def who_waits_in_line_expires_too(subject: Subject) -> None:
    waiting = Message(new_id(), QUEUE, b"2", line=LINE, ttl_s=10)
    await subject.put(Message(new_id(), QUEUE, b"1", line=LINE), waiting, Message(new_id(), QUEUE, b"3", line=LINE))
    head = await subject.claim_one()
    subject.advance(11)
    await subject.tend()
    same("in its place", await subject.state(waiting.id), State.EXPIRED)
    await subject.finish(head)
    same("and the line goes on behind it", await subject.bodies(), [b"3"])
