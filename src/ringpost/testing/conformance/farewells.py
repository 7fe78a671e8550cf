"""Farewells: whoever waits is told of an end that the store itself makes, in the commit that makes it."""

import msgspec

from ringpost.contract.outcome import DeadLetter
from ringpost.core import ids
from ringpost.core.message import Cause, Failure, Message, Settlement, State
from ringpost.store.port import Cancel, Filter
from ringpost.testing.conformance.suite import (
    LINE,
    QUEUE,
    Chapter,
    Subject,
    envelope,
    holds,
    lined,
    new_id,
    same,
)

CHAPTER = Chapter("farewells")
REPLIES, FAILURES = "shop.bought_it", "shop.on_failure"


def with_reply_to(ttl_s: float | None = None, body: bytes = b'{"n":1}') -> Message:
    return Message(new_id(), QUEUE, body, envelope(operation=QUEUE, reply_to=REPLIES), ttl_s=ttl_s)


async def letter(subject: Subject, queue: str, sent: Message) -> bytes:
    """Claim the one letter in a queue; it must speak of the message."""
    delivery = await subject.claim_one(queue)
    holds("a letter is JSON", isinstance(msgspec.json.decode(delivery.body), dict))
    holds("and names the message", ids.text(sent.id) in delivery.body.decode())
    same("there is one letter", await subject.bodies(queue), [])
    return delivery.body


@CHAPTER.case()
async def an_expired_message_tells_reply_to_and_on_failure(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    sent = with_reply_to(ttl_s=10)
    await subject.put(sent)
    subject.advance(11)
    await subject.tend()
    same("expired", await subject.state(sent.id), State.EXPIRED)
    holds("the outcome says so", b"expired" in await letter(subject, REPLIES, sent))
    holds("the dead letter says so", b"expired" in await letter(subject, FAILURES, sent))


@CHAPTER.case()
async def what_a_claim_expires_is_told_too(subject: Subject) -> None:
    sent = with_reply_to(ttl_s=10)
    await subject.put(sent)
    subject.advance(11)
    same("nothing to claim", (await subject.store.claim({QUEUE: 5}, 1, 30.0)).deliveries, [])
    await letter(subject, REPLIES, sent)


@CHAPTER.case()
async def what_a_reader_expires_is_told_too(subject: Subject) -> None:
    sent = with_reply_to(ttl_s=10)
    await subject.put(sent)
    subject.advance(11)
    same("expired", await subject.state(sent.id), State.EXPIRED)
    await letter(subject, REPLIES, sent)


@CHAPTER.case()
async def a_cancelled_message_tells_reply_to_only(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    sent = with_reply_to()
    await subject.put(sent)
    same("cancelled", (await subject.order(Cancel(sent.id))).result, "done")
    holds("the outcome says so", b"cancelled" in await letter(subject, REPLIES, sent))
    same("to be cancelled is no failure", await subject.bodies(FAILURES), [])


@CHAPTER.case()
async def a_message_that_lost_its_workers_tells_both(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    sent = with_reply_to()
    await subject.put(sent)
    for _ in range(5):
        same("nobody is told before the end", (await subject.bodies(REPLIES), await subject.bodies(FAILURES)), ([], []))
        await subject.lose(await subject.claim_one())
    same("dead", await subject.state(sent.id), State.DEAD)
    holds("the outcome says why", b"worker_lost" in await letter(subject, REPLIES, sent))
    holds("the dead letter says why", b"worker_lost" in await letter(subject, FAILURES, sent))


@CHAPTER.case()
async def a_message_cancelled_by_its_holders_loss_tells_reply_to(subject: Subject) -> None:
    sent = with_reply_to()
    await subject.put(sent)
    delivery = await subject.claim_one()
    await subject.order(Cancel(sent.id))
    same("not before the end", await subject.bodies(REPLIES), [])
    await subject.lose(delivery)
    holds("the outcome says so", b"cancelled" in await letter(subject, REPLIES, sent))


@CHAPTER.case()
async def who_settles_tells_himself(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    for to in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        await subject.put(with_reply_to())
        await subject.finish(await subject.claim_one(), to, Cause.NONE)
    same("a store doesn't speak for workers", (await subject.bodies(REPLIES), await subject.bodies(FAILURES)), ([], []))


@CHAPTER.case()
async def of_a_death_the_store_tells_with_all_errors(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    sent = with_reply_to()
    await subject.put(sent)
    for attempt, to in ((1, State.SCHEDULED), (2, State.DEAD)):
        failure = Failure("ValueError", f"no {attempt}", attempt=attempt, at_ms=attempt)
        delivery = await subject.claim_one()
        ending = Settlement(delivery, to, cause=Cause.HANDLER_ERROR, failure=failure)
        same("it is settled", await subject.store.settle([ending]), [True])
        await subject.tend()
    holds("the outcome says why", b"handler_error" in await letter(subject, REPLIES, sent))
    dead = msgspec.json.decode(await letter(subject, FAILURES, sent), type=DeadLetter)
    told = DeadLetter(QUEUE, ids.text(sent.id), "handler_error", 2, ["ValueError: no 1", "ValueError: no 2"])
    same("the dead letter tells everything", dead, told)


@CHAPTER.case()
async def without_reply_to_nobody_is_told(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"{}", envelope(operation=QUEUE), ttl_s=10))
    subject.advance(11)
    same("it expires", (await subject.tend()).expired, 1)
    same("in silence", len(await subject.store.find(Filter())), 1)


@CHAPTER.case()
async def only_the_service_of_the_queue_hears_of_its_dead(subject: Subject) -> None:
    await subject.tell_failures("another.queue", FAILURES)
    await subject.put(Message(new_id(), QUEUE, b"{}", envelope(operation=QUEUE), ttl_s=10))
    subject.advance(11)
    await subject.tend()
    same("not others", await subject.bodies(FAILURES), [])


@CHAPTER.case("lines")
async def each_of_a_line_is_told_of(subject: Subject) -> None:
    headers = envelope(operation=QUEUE, reply_to=REPLIES)
    await subject.put(
        *(Message(new_id(), QUEUE, b"{}", headers, line=LINE, ttl_s=10) for _ in range(3)), lined(b"last")
    )
    subject.advance(11)
    await subject.tend()
    same("a letter for each", len(await subject.bodies(REPLIES)), 3)
    same("and the line goes on", await subject.bodies(), [b"last"])


@CHAPTER.case()
async def a_repeated_end_is_told_once(subject: Subject) -> None:
    sent = with_reply_to(ttl_s=10)
    await subject.put(sent)
    subject.advance(11)
    for _ in range(3):
        await subject.tend()
        await subject.state(sent.id)
    await letter(subject, REPLIES, sent)


@CHAPTER.case()
async def letters_are_taken_however_full_it_is(subject: Subject) -> None:
    sent = [with_reply_to(ttl_s=10) for _ in range(20)]
    await subject.put(*sent)
    subject.advance(11)
    same("all expire", (await subject.tend()).expired, 20)
    same("and all are told of", len(await subject.claim(100, REPLIES)), 20)


@CHAPTER.case()
async def a_letter_is_a_message_like_any_other(subject: Subject) -> None:
    await subject.put(with_reply_to(ttl_s=10))
    subject.advance(11)
    await subject.tend()
    delivery = await subject.claim_one(REPLIES)
    holds("it can be settled", await subject.settle(Settlement(delivery, State.SUCCEEDED)))
    same("and ends", await subject.state(delivery.id), State.SUCCEEDED)
