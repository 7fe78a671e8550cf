"""Forwarding: what another store has been given waits here for its outcome, under no lease and in no line."""

import asyncio

from ringpost.core.message import Answer, Cause, Delivery, Failure, Message, Settlement, State
from ringpost.store.port import Cancel, Changed, Conclude, Filter, Replay
from ringpost.testing.conformance.farewells import FAILURES, REPLIES, letter, with_reply_to
from ringpost.testing.conformance.settling import stale
from ringpost.testing.conformance.suite import (
    LOST_S,
    OTHER,
    QUEUE,
    REPLY,
    SECOND,
    Chapter,
    Subject,
    holds,
    lined,
    message,
    same,
)

CHAPTER = Chapter("forwarding")
RECEIPT = Answer(202, b'{"id":"there"}')
UNKNOWN = Failure("Gone", "the other store knows nothing of it", attempt=1, at_ms=1)


async def handed_over(subject: Subject, sent: Message | None = None, queue: str = QUEUE) -> Delivery:
    """Put a message, claim it, and hand it over."""
    await subject.put(sent or message(queue=queue))
    delivery = await subject.claim_one(queue)
    holds("a holder can hand over", await subject.settle(Settlement(delivery, State.FORWARDED, RECEIPT)))
    return delivery


async def concluded(subject: Subject, order: Conclude) -> None:
    same("the outcome takes effect", await subject.order(order), Changed("done", order.to))


@CHAPTER.case()
async def what_is_handed_over_keeps_its_receipt(subject: Subject) -> None:
    delivery = await handed_over(subject)
    record = await subject.there(delivery.id)
    same("it is away", (record.state, record.answer, record.settled_ms), (State.FORWARDED, RECEIPT, None))
    same("and was tried once", (record.attempts, record.losses), (1, 0))


@CHAPTER.case()
async def what_is_away_is_found_with_its_receipt(subject: Subject) -> None:
    first, second = await handed_over(subject), await handed_over(subject)
    await handed_over(subject, queue=OTHER)
    await subject.put_bodies(b"waits")
    found = await subject.store.find(Filter(QUEUE, (State.FORWARDED,), bodies=False))
    same("in its order", [record.id for record in found], [first.id, second.id])
    same("with its receipt", [record.answer for record in found], [RECEIPT, RECEIPT])


@CHAPTER.case()
async def what_is_away_has_no_lease(subject: Subject) -> None:
    delivery = await handed_over(subject)
    same("nothing is lost", (await subject.elapse(LOST_S)).lost, 0)
    same("it stays away", await subject.state(delivery.id), State.FORWARDED)
    same("nobody claims it", await subject.claim(), [])
    same("nor settles it", await subject.settle(Settlement(delivery, State.SUCCEEDED, REPLY)), False)


@CHAPTER.case()
async def only_the_holder_hands_over(subject: Subject) -> None:
    lost, current = await stale(subject)
    same("a lost fence doesn't", await subject.settle(Settlement(lost, State.FORWARDED, RECEIPT)), False)
    record = await subject.there(lost.id)
    same("the row is the other's", (record.state, record.fence), (State.RUNNING, current.fence))


@CHAPTER.case("lines")
async def a_line_goes_on_at_the_hand_over(subject: Subject) -> None:
    await subject.put(lined(b"1"), lined(b"2"))
    delivery = await subject.claim_one()
    holds("handed over", await subject.settle(Settlement(delivery, State.FORWARDED, RECEIPT)))
    following = await subject.claim_one()
    same("the next one follows", following.body, b"2")
    await subject.put(lined(b"3"))
    await concluded(subject, Conclude(delivery.id, 1, State.SUCCEEDED))
    same("and the outcome wakes nobody out of turn", await subject.bodies(), [])
    await subject.finish(following)
    same("the last one has its turn", await subject.bodies(), [b"3"])


@CHAPTER.case()
async def an_outcome_ends_what_is_away(subject: Subject) -> None:
    ends = [
        Conclude(b"", 1, State.SUCCEEDED, answer=REPLY),
        Conclude(b"", 1, State.SUCCEEDED),
        Conclude(b"", 1, State.FAILED, Cause.PROBLEM, Answer(409, b'{"type":"urn:x"}', "application/problem+json")),
        Conclude(b"", 1, State.CANCELLED, Cause.CANCELLED),
        Conclude(b"", 1, State.EXPIRED, Cause.EXPIRED),
        Conclude(b"", 1, State.DEAD, Cause.OUTCOME_UNKNOWN, failure=UNKNOWN),
    ]
    for end in ends:
        delivery = await handed_over(subject)
        await concluded(subject, Conclude(delivery.id, 1, end.to, end.cause, end.answer, end.failure))
        record = await subject.there(delivery.id)
        same("as it was told", (record.state, record.cause, record.answer), (end.to, end.cause, end.answer))
        same("with its failure", record.failures, [] if end.failure is None else [end.failure])
        holds("at a time", record.settled_ms is not None)


@CHAPTER.case()
async def an_outcome_is_for_what_is_away_only(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    same("not what waits", await subject.order(Conclude(id, 1, State.SUCCEEDED)), Changed("conflict", State.READY))
    delivery = await subject.claim_one()
    same("nor what runs", await subject.order(Conclude(id, 1, State.SUCCEEDED)), Changed("conflict", State.RUNNING))
    await subject.finish(delivery)
    found = await subject.order(Conclude(id, 1, State.DEAD, Cause.OUTCOME_UNKNOWN))
    same("nor what has ended", found, Changed("too_late", State.SUCCEEDED))
    same("untouched", await subject.state(id), State.SUCCEEDED)
    same("nor what isn't", (await subject.order(Conclude(b"x" * 16, 1, State.SUCCEEDED))).result, "unknown")


@CHAPTER.case()
async def an_outcome_comes_once(subject: Subject) -> None:
    delivery = await handed_over(subject)
    await concluded(subject, Conclude(delivery.id, 1, State.SUCCEEDED, answer=REPLY))
    found = await subject.order(Conclude(delivery.id, 1, State.FAILED, Cause.PROBLEM))
    same("the second one is too late", found, Changed("too_late", State.SUCCEEDED))
    same("and changes nothing", (await subject.there(delivery.id)).answer, REPLY)


@CHAPTER.case()
async def an_outcome_of_another_generation_is_none(subject: Subject) -> None:
    delivery = await handed_over(subject)
    await concluded(subject, Conclude(delivery.id, 1, State.DEAD, Cause.OUTCOME_UNKNOWN))
    await subject.order(Replay(delivery.id, 1))
    record = await subject.there(delivery.id)
    same("a replay begins anew", (record.answer, record.state), (None, State.READY))
    again = await subject.claim_one(holder=SECOND)
    holds("handed over again", await subject.settle(Settlement(again, State.FORWARDED, RECEIPT)))
    late = await subject.order(Conclude(delivery.id, 1, State.SUCCEEDED, answer=REPLY))
    same("what belongs to the first changes nothing", late, Changed("conflict", State.FORWARDED))
    await concluded(subject, Conclude(delivery.id, 2, State.SUCCEEDED, answer=REPLY))


@CHAPTER.case()
async def an_outcome_is_told_to_reply_to(subject: Subject) -> None:
    sent = with_reply_to()
    await handed_over(subject, sent)
    same("not at the hand-over", await subject.bodies(REPLIES), [])
    await concluded(subject, Conclude(sent.id, 1, State.SUCCEEDED, answer=REPLY))
    holds("the reply is in the letter", REPLY.body in await letter(subject, REPLIES, sent))


@CHAPTER.case()
async def a_death_elsewhere_is_told_to_both(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    sent = with_reply_to()
    await handed_over(subject, sent)
    await concluded(subject, Conclude(sent.id, 1, State.DEAD, Cause.OUTCOME_UNKNOWN, failure=UNKNOWN))
    holds("the outcome says why", b"outcome_unknown" in await letter(subject, REPLIES, sent))
    holds("the dead letter too", UNKNOWN.message.encode() in await letter(subject, FAILURES, sent))


@CHAPTER.case()
async def cancelling_is_passed_on(subject: Subject) -> None:
    delivery = await handed_over(subject)
    waiting = asyncio.ensure_future(subject.store.wait(frozenset(), frozenset((delivery.id,)), 5.0))
    await asyncio.sleep(0)
    same("asked for", await subject.order(Cancel(delivery.id)), Changed("requested", State.FORWARDED))
    same("whoever waits for it is woken", (await waiting).ids, frozenset((delivery.id,)))
    holds("the forwarder sees it", (await subject.there(delivery.id)).cancel_asked)
    await concluded(subject, Conclude(delivery.id, 1, State.CANCELLED, Cause.CANCELLED))


@CHAPTER.case()
async def a_claim_tells_since_when_it_is_tried(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    first = await subject.claim_one()
    started_ms = (await subject.there(first.id)).started_ms
    same("since its first claim", first.started_ms, started_ms)
    held = Settlement(first, State.SCHEDULED, delay_s=20, charge=False, cause=Cause.HANDLER_ERROR, failure=UNKNOWN)
    holds("tried again", await subject.settle(held))
    same("a failure is kept that costs no attempt", (await subject.there(first.id)).failures, [UNKNOWN])
    await subject.elapse(21)
    same("however often", (await subject.claim_one()).started_ms, started_ms)
