"""Events: a publish makes one delivery for every subscription, all or none, and a repeated one is absorbed."""

from msgspec import structs

from ringpost.core import notes
from ringpost.core.message import Cause, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Filter, Note
from ringpost.testing.conformance.suite import (
    LEASE_S,
    LINE,
    OTHER,
    Chapter,
    Subject,
    envelope,
    holds,
    message,
    new_id,
    same,
)

CHAPTER = Chapter("events")
EVENT = "shop.bought"
COUNT, THANK = "analytics.on.shop.bought", "mail.on.shop.bought"


def published(body: bytes = b"1") -> Message:
    return Message(new_id(), "", body, envelope(operation=EVENT), event=EVENT)


@CHAPTER.case()
async def every_subscription_gets_a_delivery(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    sent = published()
    put = (await subject.put(sent))[0]
    same("the receipt counts them", (put.id, put.receivers, put.duplicate), (sent.id, 2, False))
    mine, theirs = await subject.claim_one(COUNT), await subject.claim_one(THANK)
    same("each the same event", [(one.body, one.headers) for one in (mine, theirs)], [(b"1", sent.headers)] * 2)
    holds("each a row of its own", mine.id != theirs.id)
    await subject.finish(mine)
    await subject.finish(theirs, State.DEAD, Cause.REJECTED)
    same("with its own end", await subject.state(mine.id), State.SUCCEEDED)


@CHAPTER.case()
async def without_subscription_nothing_is_stored(subject: Subject) -> None:
    put = (await subject.put(published()))[0]
    same("nobody receives it", (put.receivers, put.duplicate), (0, False))
    same("nothing is there", await subject.store.find(Filter()), [])


@CHAPTER.case()
async def only_its_own_subscriptions_count(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT)
    await subject.subscribe(EVENT + ".again", THANK)
    await subject.subscribe("shop", OTHER)
    same("names must be equal, not alike", (await subject.put(published()))[0].receivers, 1)


@CHAPTER.case()
async def a_repeated_publish_is_absorbed(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    sent = published()
    await subject.put(sent)
    await subject.finish(await subject.claim_one(COUNT))
    put = (await subject.put(sent))[0]
    same("it is a duplicate", (put.id, put.receivers, put.duplicate), (sent.id, 2, True))
    same("nothing is done again", await subject.bodies(COUNT), [])
    same("nothing is done twice", await subject.bodies(THANK), [b"1"])


@CHAPTER.case()
async def a_publish_repeated_within_one_batch_is_absorbed(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT)
    sent = published()
    answers = await subject.put(sent, structs.replace(sent))
    same("the second is a duplicate", [put.duplicate for put in answers], [False, True])
    same("one delivery", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case()
async def who_subscribes_later_gets_what_comes_later(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT)
    await subject.put(published(b"1"))
    await subject.subscribe(EVENT, THANK)
    await subject.put(published(b"2"))
    same("the first has both", await subject.bodies(COUNT), [b"1", b"2"])
    same("the second what came after it", await subject.bodies(THANK), [b"2"])


@CHAPTER.case()
async def who_has_left_gets_nothing(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    await subject.store.note_drop(notes.subscription(EVENT, THANK))
    same("one receiver", (await subject.put(published()))[0].receivers, 1)
    same("nothing for who left", await subject.bodies(THANK), [])


@CHAPTER.case()
async def a_suspended_subscription_gets_nothing(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT)
    name = notes.subscription(EVENT, THANK)
    await subject.store.note_put(Note(name, notes.encode(notes.Subscription(suspended=True))))
    same("it is no receiver", (await subject.put(published()))[0].receivers, 1)
    same("and gets no delivery", await subject.bodies(THANK), [])
    (note,) = await subject.store.notes(name)
    same("what it missed is counted", notes.decode_subscription(note.value).gap_count, 1)


@CHAPTER.case()
async def a_known_event_with_other_content_is_refused(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    sent = published()
    await subject.put(sent)
    put = (await subject.store.put([structs.replace(sent, body=b"2")]))[0]
    same("one id for two events is refused", put.refused, "mismatch")
    same("what was there stays", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case()
async def events_are_staged_like_messages(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    await subject.put_bodies(b"x")
    delivery = await subject.claim_one()
    holds(
        "it settles", await subject.settle(Settlement(delivery, State.SUCCEEDED, staged=[published(), message(b"y")]))
    )
    same("one for each", (await subject.bodies(COUNT), await subject.bodies(THANK)), ([b"1"], [b"1"]))
    same("beside the message", await subject.bodies(), [b"y"])


@CHAPTER.case()
async def the_options_of_an_event_hold_for_every_delivery(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    await subject.put(structs.replace(published(), delay_s=20, ttl_s=60, keep_s=77))
    same("delayed", (await subject.bodies(COUNT), await subject.bodies(THANK)), ([], []))
    await subject.elapse(21)
    for queue in (COUNT, THANK):
        delivery = await subject.claim_one(queue)
        span_ms = (delivery.expires_ms or 0) - delivery.created_ms
        same("with its expiry and keep", (span_ms, delivery.keep_s), (60_000, 77))


@CHAPTER.case("lines")
async def each_subscription_has_its_own_line(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    await subject.put(*(structs.replace(published(body), line=LINE) for body in (b"1", b"2")))
    first = await subject.claim_one(COUNT)
    same("one at a time", await subject.bodies(COUNT), [])
    slow = await subject.claim_one(THANK)
    await subject.finish(first)
    same("in order", await subject.bodies(COUNT), [b"2"])
    same("and a slow subscriber holds up nobody but itself", (slow.body, await subject.bodies(THANK)), (b"1", []))


@CHAPTER.case(settings=Settings(lease_s=LEASE_S, depth_max=2))
async def an_event_is_stored_whole_or_not_at_all(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT, THANK)
    await subject.put(message(b"a", THANK), message(b"b", THANK))
    put = (await subject.store.put([published()]))[0]
    same("a full subscriber refuses it", put.refused, "full")
    same("for all", await subject.bodies(COUNT), [])
