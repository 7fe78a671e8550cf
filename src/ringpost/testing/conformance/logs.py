"""The log of an event: who subscribes later begins with what was told before, who missed some is given it, once."""

from msgspec import structs

from ringpost.core import ids, notes
from ringpost.core.message import Cause, Message, Priority, Settlement, State
from ringpost.core.notes import Subscription
from ringpost.core.subscription import refilled
from ringpost.settings import Settings
from ringpost.store.port import CaughtUp, Filter, Note
from ringpost.testing.conformance.events import COUNT, EVENT, THANK, published
from ringpost.testing.conformance.suite import LEASE_S, LINE, Chapter, Subject, holds, message, same

CHAPTER = Chapter("logs")
KEPT_S = 24 * 3600
LONG_S = 3 * 3600.0  # longer than a delivery is kept, shorter than the log


def kept(body: bytes = b"1", *, line: bytes | None = None) -> Message:
    """Give an event that its log keeps for a day."""
    return structs.replace(published(body), log_s=KEPT_S, line=line)


async def publish(subject: Subject, *bodies: bytes) -> None:
    for body in bodies:
        await subject.put(kept(body))


async def begin(subject: Subject, queue: str = COUNT) -> None:
    """Subscribe from the beginning."""
    await write(subject, Subscription(behind=True), queue)


async def write(subject: Subject, subscription: Subscription, queue: str = COUNT) -> None:
    await subject.store.note_put(Note(notes.subscription(EVENT, queue), notes.encode(subscription)))


async def noted(subject: Subject, queue: str = COUNT) -> Subscription:
    (note,) = await subject.store.notes(notes.subscription(EVENT, queue))
    return notes.decode_subscription(note.value)


async def step(subject: Subject, limit: int = 1000, queue: str = COUNT) -> CaughtUp:
    return await subject.store.catch_up(EVENT, queue, limit)


async def catch_up(subject: Subject, queue: str = COUNT, *, limit: int = 1000) -> int:
    """Go on to the end; gives how many it was given."""
    given = 0
    for _ in range(100):
        done = await step(subject, limit, queue)
        given += done.given
        if not done.behind:
            return given
        holds("with nobody in its way it goes on", done.more)
    raise AssertionError("catching up comes to an end")


async def handled(subject: Subject, queue: str = COUNT) -> list[bytes]:
    """Handle all there is, one after the other, and give the bodies."""
    done: list[bytes] = []
    while deliveries := await subject.claim(queue=queue):
        for delivery in deliveries:
            await subject.finish(delivery)
            done.append(delivery.body)
    return done


async def forget_deliveries(subject: Subject) -> None:
    """Let so much time pass that deliveries that are done are kept no longer, while the log is."""
    subject.advance(LONG_S)
    await subject.elapse(2)


@CHAPTER.case()
async def who_comes_later_begins_with_what_was_told_before(subject: Subject) -> None:
    await publish(subject, b"1", b"2", b"3")
    await begin(subject)
    same("it is given all of it", await catch_up(subject), 3)
    same("in the order in which it was told", await handled(subject), [b"1", b"2", b"3"])
    await publish(subject, b"4")
    same("and from then on what is told", await subject.bodies(COUNT), [b"4"])


@CHAPTER.case()
async def what_is_told_meanwhile_comes_out_of_the_log(subject: Subject) -> None:
    await publish(subject, b"1", b"2")
    await begin(subject)
    await step(subject, 1)
    put = (await subject.put(kept(b"3")))[0]
    same("who is behind will get it", put.receivers, 1)
    await catch_up(subject)
    same("nothing is passed over or doubled", await handled(subject), [b"1", b"2", b"3"])


@CHAPTER.case()
async def a_step_is_bounded(subject: Subject) -> None:
    await publish(subject, b"1", b"2", b"3", b"4", b"5")
    await begin(subject)
    sizes = [await step(subject, 2)]
    while sizes[-1].behind:
        sizes.append(await step(subject, 2))
    holds("no step gives more than was asked for", max(done.given for done in sizes) <= 2)
    same("all is given", sum(done.given for done in sizes), 5)
    same("and how many is noted", (await noted(subject)).given, 5)


@CHAPTER.case()
async def what_is_not_to_be_kept_is_not_logged(subject: Subject) -> None:
    await subject.put(published(b"1"))
    await begin(subject)
    same("there is nothing to give", await catch_up(subject), 0)


@CHAPTER.case()
async def who_does_not_begin_at_the_beginning_gets_nothing_of_it(subject: Subject) -> None:
    await publish(subject, b"1")
    await subject.subscribe(EVENT, COUNT)
    same("a step leaves it as it is", (await step(subject)).given, 0)
    same("nothing waits for it", await subject.bodies(COUNT), [])


@CHAPTER.case()
async def nobody_is_made_to_subscribe(subject: Subject) -> None:
    await publish(subject, b"1")
    done = await step(subject)
    same("nothing is given to who doesn't subscribe", (done.given, done.behind), (0, False))
    same("and no note is made", await subject.store.notes(notes.SUBSCRIPTION), [])


@CHAPTER.case()
async def deliveries_of_the_log_are_those_of_the_publish(subject: Subject) -> None:
    sent = structs.replace(kept(), keep_s=77)
    await subject.put(sent)
    await begin(subject)
    await catch_up(subject)
    delivery = await subject.claim_one(COUNT)
    same("with the same id", delivery.id, ids.delivery(sent.id, COUNT))
    same("as it was sent", (delivery.body, delivery.headers, delivery.keep_s), (sent.body, sent.headers, 77))


@CHAPTER.case("priority")
async def what_comes_out_of_the_log_goes_behind_what_is_new(subject: Subject) -> None:
    await publish(subject, b"old")
    await begin(subject)
    await catch_up(subject)
    same(
        "its priority is low", (await subject.there((await subject.store.find(Filter()))[0].id)).priority, Priority.LOW
    )
    await publish(subject, b"new")
    same("the new goes first", await subject.bodies(COUNT), [b"new", b"old"])


@CHAPTER.case("lines")
async def one_ordering_key_keeps_its_order(subject: Subject) -> None:
    for body in (b"1", b"2"):
        await subject.put(kept(body, line=LINE))
    await begin(subject)
    await step(subject, 1)
    await subject.put(kept(b"3", line=LINE))
    await catch_up(subject)
    await subject.put(kept(b"4", line=LINE))
    (first,) = await subject.claim(queue=COUNT)
    await subject.finish(first)
    same("in the order in which they were told", [first.body, *await handled(subject)], [b"1", b"2", b"3", b"4"])


@CHAPTER.case()
async def a_repeated_publish_is_known_as_long_as_the_log(subject: Subject) -> None:
    await subject.subscribe(EVENT, COUNT)
    sent = kept()
    await subject.put(sent)
    await handled(subject)
    await forget_deliveries(subject)
    same("its delivery is kept no longer", await subject.record(ids.delivery(sent.id, COUNT)), None)
    await subject.subscribe(EVENT, THANK)
    put = (await subject.put(sent))[0]
    same("it is a duplicate", (put.id, put.duplicate, put.receivers), (sent.id, True, 2))
    same("nothing is done again", await subject.bodies(COUNT), [])
    same("nor for who subscribed since", await subject.bodies(THANK), [])
    await begin(subject, "late.on.shop.bought")
    same("and it is in the log once", await catch_up(subject, "late.on.shop.bought"), 1)


@CHAPTER.case()
async def a_publish_repeated_within_one_batch_is_logged_once(subject: Subject) -> None:
    sent = kept()
    answers = await subject.put(sent, structs.replace(sent))
    same("the second is a duplicate", [put.duplicate for put in answers], [False, True])
    await begin(subject)
    same("one entry", await catch_up(subject), 1)


@CHAPTER.case()
async def a_logged_event_with_other_content_is_refused(subject: Subject) -> None:
    sent = kept()
    await subject.put(sent)
    put = (await subject.store.put([structs.replace(sent, body=b"2")]))[0]
    same("one id for two events is refused", put.refused, "mismatch")
    await begin(subject)
    await catch_up(subject)
    same("what was there stays", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case()
async def what_is_staged_is_logged_with_its_settlement(subject: Subject) -> None:
    await subject.put_bodies(b"x", b"y")
    good, bad = await subject.claim(2)
    settled = await subject.store.settle([
        Settlement(good, State.SUCCEEDED, staged=[kept(b"1")]),
        Settlement(structs.replace(bad, fence=bad.fence + 1), State.SUCCEEDED, staged=[kept(b"2")]),
    ])  # fmt: skip
    same("one of them holds its lease", settled, [True, False])
    await begin(subject)
    await catch_up(subject)
    same("only its event is there", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case("sql")
async def what_a_transaction_publishes_is_logged_with_its_commit(subject: Subject) -> None:
    for commits in (False, True):
        transaction = subject.store.begin(lambda: "in the suite")
        await transaction.lock()
        if commits:
            holds("it commits", await transaction.commit(None, [kept(b"1")]))
        else:
            await transaction.rollback()
    await begin(subject)
    await catch_up(subject)
    same("what was committed is there", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case()
async def the_log_keeps_an_event_for_as_long_as_was_asked(subject: Subject) -> None:
    await publish(subject, b"1")
    await subject.put(structs.replace(kept(b"2"), log_s=2 * KEPT_S))
    subject.advance(KEPT_S + 60)
    await subject.elapse(2)
    await begin(subject)
    await catch_up(subject)
    same("and no longer", await subject.bodies(COUNT), [b"2"])


@CHAPTER.case(settings=Settings(lease_s=LEASE_S, depth_max=2))
async def what_was_refused_is_not_in_the_log(subject: Subject) -> None:
    await subject.subscribe(EVENT, THANK)
    await subject.put(message(b"a", THANK), message(b"b", THANK))
    same("a full subscriber refuses it", (await subject.store.put([kept()]))[0].refused, "full")
    await begin(subject)
    same("nothing is given of it", await catch_up(subject), 0)


@CHAPTER.case(settings=Settings(lease_s=LEASE_S, depth_max=4))
async def catching_up_fills_no_queue(subject: Subject) -> None:
    await publish(subject, b"1", b"2", b"3", b"4", b"5")
    await begin(subject)
    done = CaughtUp()
    for _ in range(5):
        done = await step(subject)
    same("half of the room is left", (await noted(subject)).given, 2)
    same("it waits", (done.behind, done.more), (True, False))
    await handled(subject)
    await step(subject)
    await step(subject)
    same("until there is room again", await handled(subject), [b"3", b"4"])


async def suspend(subject: Subject) -> None:
    await write(subject, structs.replace(await noted(subject), suspended=True))


async def come_back(subject: Subject, *, refill: bool) -> None:
    back = structs.replace(await noted(subject), suspended=False)
    await write(subject, refilled(back) if refill else back)


@CHAPTER.case()
async def the_suspended_are_given_what_they_missed_and_nothing_else(subject: Subject) -> None:
    await publish(subject, b"before")
    await subject.subscribe(EVENT, COUNT)
    await publish(subject, b"1")
    same("it gets what is told", await handled(subject), [b"1"])
    await suspend(subject)
    await publish(subject, b"2", b"3")
    await come_back(subject, refill=False)
    await publish(subject, b"4")
    same("what it missed is counted", (await noted(subject)).gap_count, 2)
    same("it goes on with what is new", await handled(subject), [b"4"])
    await forget_deliveries(subject)
    await come_back(subject, refill=True)
    same("it is given as many as it missed", await catch_up(subject), 2)
    same("those that it missed", await handled(subject), [b"2", b"3"])
    same("and no gap is left", (await noted(subject)).gap_count, 0)


@CHAPTER.case()
async def the_suspended_are_given_nothing(subject: Subject) -> None:
    await publish(subject, b"1")
    await write(subject, Subscription(behind=True, suspended=True))
    done = await step(subject)
    same("nobody takes it", (done.given, done.behind, done.more), (0, True, False))
    await publish(subject, b"2")
    same("the log remembers for it", (await noted(subject)).gap_count, 0)
    await write(subject, Subscription(behind=True))
    await catch_up(subject)
    same("until it is back", await subject.bodies(COUNT), [b"1", b"2"])


@CHAPTER.case()
async def a_repeated_publish_is_missed_once(subject: Subject) -> None:
    await write(subject, Subscription(suspended=True))
    sent = kept()
    await subject.put(sent)
    await subject.put(sent)
    same("one was missed", (await noted(subject)).gap_count, 1)


@CHAPTER.case()
async def what_has_expired_is_not_given(subject: Subject) -> None:
    await subject.put(structs.replace(kept(b"1"), ttl_s=60), structs.replace(kept(b"2"), ttl_s=600))
    subject.advance(61)
    await begin(subject)
    await catch_up(subject)
    delivery = await subject.claim_one(COUNT)
    same("what has not is", delivery.body, b"2")
    same("and expires when it was to", (delivery.expires_ms or 0) - delivery.created_ms <= 539_500, True)


@CHAPTER.case("delay")
async def what_is_not_due_waits_until_it_was_to_be(subject: Subject) -> None:
    await subject.put(structs.replace(kept(), delay_s=60))
    subject.advance(30)
    await begin(subject)
    await catch_up(subject)
    same("not before", await subject.bodies(COUNT), [])
    await subject.elapse(31)
    same("but then", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case()
async def each_event_has_a_log_of_its_own(subject: Subject) -> None:
    await publish(subject, b"1")
    await subject.put(structs.replace(kept(b"2"), event=EVENT + ".again"))
    await begin(subject)
    await catch_up(subject)
    same("names must be equal, not alike", await subject.bodies(COUNT), [b"1"])


@CHAPTER.case()
async def a_dead_delivery_is_not_given_again(subject: Subject) -> None:
    await publish(subject, b"1")
    await begin(subject)
    await catch_up(subject)
    await subject.finish(await subject.claim_one(COUNT), State.DEAD, Cause.REJECTED)
    await begin(subject)  # removed, and subscribed anew
    same("its row is there still", await catch_up(subject), 0)
    same("nothing is done twice", await subject.bodies(COUNT), [])
