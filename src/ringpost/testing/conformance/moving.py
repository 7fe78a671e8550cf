"""Moving: rows leave a store as they are and come into another as they were, with nobody told of an end."""

from collections.abc import Sequence

from msgspec import structs

from ringpost.core.life import ENDS, QUEUED
from ringpost.core.message import Answer, Cause, Delivery, Failure, Message, Priority, Record, Settlement, State
from ringpost.core.notes import Subscription
from ringpost.store.log import Logged
from ringpost.store.port import Cancel, Exported, Movable, Passage, Put, Replay
from ringpost.testing.conformance.events import COUNT, EVENT, THANK, published
from ringpost.testing.conformance.farewells import FAILURES, REPLIES, with_reply_to
from ringpost.testing.conformance.logs import KEPT_S, begin, catch_up, forget_deliveries, handled, kept, publish, write
from ringpost.testing.conformance.suite import (
    DIGEST,
    KEY,
    LINE,
    OTHER,
    QUEUE,
    REPLY,
    SECOND,
    Chapter,
    Subject,
    Violation,
    holds,
    lined,
    message,
    new_id,
    reservation,
    same,
)

CHAPTER = Chapter("moving")
PASSAGE = Passage("there", "here", "me", "a move")
EVERY = (*QUEUED, State.FORWARDED, *ENDS)
_ERROR = Failure("ValueError", "no", "", 1, 1)


def movable(subject: Subject) -> Movable:
    """Give the store as one that moves."""
    if not isinstance(subject.store, Movable):
        raise Violation("broken: a store with the capability `move` has its methods")
    return subject.store


async def exported(subject: Subject) -> list[Exported]:
    """Export all, page by page."""
    found: list[Exported] = []
    while page := await movable(subject).export(EVERY, found[-1].record.ref if found else 0, 3):
        found += page
    return found


async def taken_out(subject: Subject) -> list[Exported]:
    """Empty the store, and give what was in it."""
    rows = await exported(subject)
    same("what nobody touched goes", await movable(subject).take_out(rows, PASSAGE), [True] * len(rows))
    same("and is gone", await exported(subject), [])
    return rows


async def taken_in(subject: Subject, rows: Sequence[Exported], passage: Passage = PASSAGE) -> list[Put]:
    """Take rows in that must not be refused."""
    answers = await movable(subject).take_in(rows, passage)
    same("one answer a row", [put.id for put in answers], [row.record.id for row in rows])
    same("none is refused", [put.refused for put in answers], [""] * len(rows))
    return answers


async def moved(subject: Subject) -> None:
    """Take all rows out of the store and in again, as if it were two."""
    rows = await taken_out(subject)
    puts = await taken_in(subject, rows, structs.replace(PASSAGE, move=new_id().hex()))
    same("each is new", [put.duplicate for put in puts], [False] * len(rows))


def _as_known(record: Record | None) -> Record | None:
    """Leave out what belongs to one store alone."""
    return None if record is None else structs.replace(record, ref=0, fence=0)


async def _one_of_each(subject: Subject) -> list[bytes]:
    """Put rows that come to be in every state but running; gives their ids."""
    ready = Message(new_id(), QUEUE, b"ready", headers=b'{"sender":"me"}', priority=Priority.HIGH, keep_s=77)
    scheduled = Message(new_id(), QUEUE, b"scheduled", delay_s=500, ttl_s=900)
    head, waiting = lined(b"head"), lined(b"waiting")
    await subject.put(scheduled, head, waiting)
    ended = [message(to.name.encode(), OTHER) for to in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.DEAD)]
    tried, away = message(b"tried", OTHER), message(b"away", OTHER)
    await subject.put(*ended, tried, away)
    for delivery in await subject.claim(queue=OTHER):
        if delivery.body == b"tried":
            await subject.settle(Settlement(delivery, State.SCHEDULED, delay_s=600, failure=_ERROR))
        elif delivery.body == b"away":
            await subject.settle(Settlement(delivery, State.FORWARDED, Answer(202, b'{"id":"there"}')))
        else:
            await _ended(subject, delivery)
    await subject.order(Cancel(away.id))
    expired = Message(new_id(), QUEUE, b"expired", ttl_s=1)
    await subject.put(expired, ready)
    subject.advance(2)
    await subject.tend()
    return [one.id for one in (ready, scheduled, head, waiting, *ended, tried, away, expired)]


async def _ended(subject: Subject, delivery: Delivery) -> None:
    to = State[delivery.body.decode()]
    answer = Answer(409, b'{"type":"x"}', "application/problem+json") if to is State.FAILED else None
    answer = REPLY if to is State.SUCCEEDED else answer
    cause = Cause.REJECTED if to is State.DEAD else Cause.NONE
    failure = _ERROR if to is State.DEAD else None
    await subject.settle(Settlement(delivery, to, answer, cause=cause, failure=failure))


@CHAPTER.case("move", "lines", "delay", "priority")
async def a_row_is_as_it_was(subject: Subject) -> None:
    sent = await _one_of_each(subject)
    before = [_as_known(await subject.record(id)) for id in sent]
    states = {record.state for record in before if record is not None}
    same("one of each state", states, set(State) - {State.RUNNING})
    depths = [structs.replace(one, puts=0, ends=0) for one in await subject.store.depths()]
    await moved(subject)
    for id, wanted in zip(sent, before, strict=True):
        same("all that is known of it", _as_known(await subject.record(id)), wanted)
    found = [structs.replace(one, puts=0, ends=0) for one in await subject.store.depths()]
    same("and it is counted where it is", found, depths)


@CHAPTER.case("move")
async def what_is_taken_out_is_not_there(subject: Subject) -> None:
    (id,) = await subject.put_bodies(b"1")
    await taken_out(subject)
    same("nobody claims it", await subject.bodies(), [])
    same("nobody reads it", await subject.state(id), None)
    same("none is counted", [one.ready for one in await subject.store.depths()], [0])


@CHAPTER.case("move")
async def what_runs_stays(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    delivery = await subject.claim_one()
    rows = await exported(subject)
    same("only what nobody holds", [row.record.body for row in rows], [b"2"])
    held = structs.replace(rows[0], record=await subject.there(delivery.id))
    await movable(subject).take_out([structs.replace(held, record=structs.replace(held.record, fence=0))], PASSAGE)
    holds("its holder settles it", await subject.settle(Settlement(delivery, State.SUCCEEDED)))


@CHAPTER.case("move", "lines")
async def who_waits_behind_what_runs_stays(subject: Subject) -> None:
    await subject.put(lined(b"1"), lined(b"2"), lined(b"other", b"another line...."))
    await subject.claim_one()
    same("of that line nobody", [row.record.body for row in await exported(subject)], [b"other"])


@CHAPTER.case("move")
async def what_comes_again_is_known(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    rows = await taken_out(subject)
    await taken_in(subject, rows)
    again = await taken_in(subject, rows)
    same("each is a duplicate", [put.duplicate for put in again], [True, True])
    same("and is handled once", await subject.bodies(), [b"1", b"2"])


@CHAPTER.case("move")
async def what_came_is_known_when_it_is_long_gone(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    rows = await taken_out(subject)
    await taken_in(subject, rows)
    for delivery in await subject.claim():
        await subject.finish(delivery)
    subject.advance(3600 + 130)
    await subject.tend()
    same("purged", await subject.state(rows[0].record.id), None)
    same("it isn't taken again", [put.duplicate for put in await taken_in(subject, rows[:1])], [True])
    same("nor the other, by another page", [put.duplicate for put in await taken_in(subject, rows[1:])], [True])
    same("nothing is handled again", await subject.bodies(), [])


@CHAPTER.case("move")
async def other_content_is_refused(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    (row,) = await exported(subject)
    other = structs.replace(row, record=structs.replace(row.record, body=b"2"))
    same("of one id", [put.refused for put in await movable(subject).take_in([other], PASSAGE)], ["mismatch"])
    same("what is there stays", await subject.bodies(), [b"1"])


@CHAPTER.case("move")
async def what_is_damaged_is_refused(subject: Subject) -> None:
    (id,) = await subject.put_bodies(b"1")
    (row,) = await taken_out(subject)
    damaged = structs.replace(row, sound=False)
    for _ in range(2):  # what was refused is no more known for it
        same("it says so", [put.refused for put in await movable(subject).take_in([damaged], PASSAGE)], ["mismatch"])
    same("it isn't made to look sound", await subject.state(id), None)


@CHAPTER.case("move")
async def a_key_stands_for_one_request(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", dedup=KEY, digest=DIGEST))
    rows = await taken_out(subject)
    there = Message(new_id(), QUEUE, b"1", dedup=KEY, digest=DIGEST)
    await subject.put(there)
    for _ in range(2):  # what was refused is no more known for it
        (put,) = await movable(subject).take_in(rows, PASSAGE)
        same("whoever is there first has it", (put.id, put.refused), (there.id, "key_reused"))
    same("nothing is handled twice", await subject.bodies(), [b"1"])


@CHAPTER.case("move")
async def keys_and_their_answers_come_along(subject: Subject) -> None:
    delivery = await subject.reserve(reservation())
    holds("answered", await subject.settle(Settlement(delivery, State.SUCCEEDED, REPLY)))
    await moved(subject)
    (put,) = await subject.put(reservation())
    same("the request is known", (put.id, put.duplicate, put.delivery), (delivery.id, True, None))
    same("with its answer", (await subject.there(delivery.id)).answer, REPLY)
    (other,) = await subject.store.put([structs.replace(reservation(), digest=b"other request...")])
    same("another under its key is refused", other.refused, "key_reused")


@CHAPTER.case("move")
async def what_was_touched_since_stays(subject: Subject) -> None:
    await subject.put_bodies(b"claimed", b"cancelled", b"released", b"dead")
    for delivery in await subject.claim():
        await subject.finish(delivery, State.DEAD if delivery.body == b"dead" else State.READY)
    rows = {row.record.body: row for row in await exported(subject)}
    await subject.order(Cancel(rows[b"cancelled"].record.id))
    await subject.order(Replay(rows[b"dead"].record.id, 1))
    for delivery in await subject.claim(holder=SECOND):
        if delivery.body == b"released":
            await subject.finish(delivery, State.READY)
    out = [rows[body] for body in (b"claimed", b"cancelled", b"released", b"dead")]
    same("it says so", await movable(subject).take_out(out, PASSAGE), [False] * 4)
    same("nothing is gone", [await subject.state(row.record.id) is None for row in out], [False] * 4)


@CHAPTER.case("move", "lines", "delay")
async def that_its_time_has_come_changes_nothing(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"due", delay_s=10), lined(b"head"), lined(b"next"))
    due, head, following = await exported(subject)
    subject.advance(11)
    await subject.tend()
    same("the head goes", await movable(subject).take_out([head], PASSAGE), [True])
    same("the next one's turn has come", await subject.state(following.record.id), State.READY)
    same("both go all the same", await movable(subject).take_out([due, following], PASSAGE), [True, True])
    same("and again: they are gone", await movable(subject).take_out([due, following], PASSAGE), [True, True])


@CHAPTER.case("move")
async def nobody_is_told_of_an_end(subject: Subject) -> None:
    await subject.tell_failures(QUEUE, FAILURES)
    await subject.put(with_reply_to(), with_reply_to())
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    told = len(await subject.bodies(REPLIES)), len(await subject.bodies(FAILURES))
    same("of the death", told, (1, 1))
    await moved(subject)
    same("no reply", await subject.bodies(REPLIES), [])
    same("no dead letter", await subject.bodies(FAILURES), [])


@CHAPTER.case("move", "lines", "delay")
async def a_line_keeps_its_order(subject: Subject) -> None:
    await subject.put(*(lined(b"%d" % number) for number in range(5)))
    await subject.retry(await subject.claim_one(), delay_s=20)
    await moved(subject)
    same("the head is tried again first", await subject.bodies(), [])
    await subject.elapse(21)
    for number in range(5):
        delivery = await subject.claim_one()
        same("each in its turn", delivery.body, b"%d" % number)
        await subject.finish(delivery)


@CHAPTER.case("move", "lines", "delay")
async def who_comes_stands_behind_who_is_there(subject: Subject) -> None:
    await subject.put(lined(b"1"), lined(b"2"))
    await subject.retry(await subject.claim_one(), delay_s=20)
    rows = await taken_out(subject)
    await subject.put(lined(b"0"))
    await taken_in(subject, rows)
    for number in range(3):
        delivery = await subject.claim_one()
        same("and keeps its order", delivery.body, b"%d" % number)
        same("none beside it", await subject.bodies(), [])
        await subject.finish(delivery)


@CHAPTER.case("move", "lines")
async def a_dead_head_halts_its_line_here_too(subject: Subject) -> None:
    await subject.halt()
    await subject.put(lined(b"1"), lined(b"2"))
    dead = await subject.claim_one()
    await subject.finish(dead, State.DEAD, Cause.REJECTED)
    await moved(subject)
    same("nobody passes it", await subject.bodies(), [])
    same("replayed, it is the first", (await subject.order(Replay(dead.id, 1))).state, State.READY)
    for body in (b"1", b"2"):
        delivery = await subject.claim_one()
        same("then the line goes on", delivery.body, body)
        await subject.finish(delivery)


@CHAPTER.case("move", "lines")
async def a_line_goes_on_when_its_head_is_taken_out(subject: Subject) -> None:
    await subject.put(lined(b"1", LINE), lined(b"2", LINE))
    rows = await exported(subject)
    await movable(subject).take_out(rows[:1], PASSAGE)
    same("the next one's turn", await subject.bodies(), [b"2"])


@CHAPTER.case("move", "delay")
async def times_are_kept(subject: Subject) -> None:
    expiring = Message(new_id(), QUEUE, b"expiring", delay_s=100, ttl_s=30)
    await subject.put(Message(new_id(), QUEUE, b"due", delay_s=50), expiring)
    await moved(subject)
    same("not before its time", await subject.bodies(), [])
    subject.advance(51)
    same("but then", await subject.bodies(), [b"due"])
    same("what expires, expires", await subject.state(expiring.id), State.EXPIRED)


@CHAPTER.case("move")
async def what_has_ended_is_kept_as_long(subject: Subject) -> None:
    (id,) = await subject.put_bodies(b"1")
    await subject.finish(await subject.claim_one())
    await moved(subject)
    subject.advance(3000)
    await subject.tend()
    same("an hour", await subject.state(id), State.SUCCEEDED)
    subject.advance(3600 + 130)  # a store may look for it late, but not for long
    await subject.tend()
    same("and not for ever", await subject.state(id), None)


@CHAPTER.case("move")
async def attempts_count_on(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    for number in range(7):
        delivery = await subject.claim_one()
        same("from where they were", delivery.attempt, number + 1)
        failure = structs.replace(_ERROR, attempt=number + 1, at_ms=number)
        await subject.settle(Settlement(delivery, State.SCHEDULED, failure=failure))
        if number in (2, 5):
            await moved(subject)
            await subject.elapse(1)
    (row,) = await exported(subject)
    same("the last errors are kept", [one.attempt for one in row.record.failures], [3, 4, 5, 6, 7])


@CHAPTER.case("move")
async def of_a_dead_letter_it_is_known_who_moved_it(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    dead = await subject.claim_one()
    await subject.finish(dead, State.DEAD, Cause.REJECTED)
    await moved(subject)
    done = [(one.who, one.what, one.detail) for one in await subject.store.audit(dead.id)]
    same("there and here", done, [("me", "move", "to store here"), ("me", "move", "from store there")])


@CHAPTER.case("move")
async def that_a_log_has_something_is_known(subject: Subject) -> None:
    store = movable(subject)
    same("nothing was told", await store.has_log(EVENT), False)
    await subject.put(structs.replace(published(), event="shop.sold", log_s=60))
    same("of this one", [await store.has_log(EVENT), await store.has_log("shop.sold")], [False, True])


async def logged(subject: Subject) -> list[Logged]:
    """Export a log, page by page."""
    found: list[Logged] = []
    while page := await movable(subject).export_log(EVENT, found[-1].entry.pos if found else 0, 2):
        found += page
    return found


async def log_moved(subject: Subject) -> list[int]:
    """Take a log out of the store and in again, as if it were two; gives the places."""
    entries = await logged(subject)
    await movable(subject).take_out_log(EVENT, entries)
    same("it is gone", [await logged(subject), await movable(subject).has_log(EVENT)], [[], False])
    return await movable(subject).take_in_log(EVENT, entries, PASSAGE)


def _as_it_was(entries: Sequence[Logged]) -> list[Logged]:
    """Leave out what belongs to one store alone."""
    return [structs.replace(one, entry=structs.replace(one.entry, pos=0)) for one in entries]


@CHAPTER.case("move")
async def a_log_comes_as_it_was(subject: Subject) -> None:
    await write(subject, Subscription(), THANK)
    await subject.put(kept(b"1"), structs.replace(kept(b"2", line=LINE), ttl_s=500.0, caller="ada"))
    await subject.put(
        structs.replace(kept(b"3"), delay_s=300.0), structs.replace(published(b"other"), event="shop.sold")
    )
    before = await logged(subject)
    same("in its order", [one.entry.body for one in before], [b"1", b"2", b"3"])
    same("with who got it", [one.receivers for one in before], [(THANK,)] * 3)
    same("and sound", [one.sound for one in before], [True] * 3)
    places = await log_moved(subject)
    after = await logged(subject)
    same("all of it", _as_it_was(after), _as_it_was(before))
    same("where it is said to be", [one.entry.pos for one in after], places)


@CHAPTER.case("move")
async def what_came_of_a_log_is_given_to_who_has_not_got_it(subject: Subject) -> None:
    await write(subject, Subscription(), THANK)
    await publish(subject, b"1", b"2", b"3")
    await handled(subject, THANK)
    await forget_deliveries(subject)
    await log_moved(subject)
    await begin(subject, COUNT)
    await begin(subject, THANK)
    same("one gets all", [await catch_up(subject, queue=COUNT), await handled(subject, COUNT)], [3, [b"1", b"2", b"3"]])
    same("the other nothing", await catch_up(subject, queue=THANK), 0)


@CHAPTER.case("move")
async def an_event_that_came_with_a_log_is_told_once(subject: Subject) -> None:
    event = kept(b"1")
    await subject.put(event)
    await log_moved(subject)
    (again,) = await subject.store.put([event])
    same("it is known", again.duplicate, True)
    same("and stands there once", len(await logged(subject)), 1)


@CHAPTER.case("move")
async def a_log_that_comes_again_is_known(subject: Subject) -> None:
    await publish(subject, b"1", b"2", b"3")
    first, second, third = await logged(subject)
    store = movable(subject)
    await store.take_out_log(EVENT, [first, second, third])
    await store.take_out_log(EVENT, [first])
    places = await store.take_in_log(EVENT, [first, second], PASSAGE)
    same("in the places that it has", await store.take_in_log(EVENT, [first, second], PASSAGE), places)
    later = structs.replace(PASSAGE, move="a later one")
    more = await store.take_in_log(EVENT, [second, third], later)
    same("a later move goes on behind it", more[:1], places[1:])
    same("each once", [one.entry.body for one in await logged(subject)], [b"1", b"2", b"3"])


@CHAPTER.case("move")
async def a_log_does_not_come_behind_what_was_told_here(subject: Subject) -> None:
    await publish(subject, b"1", b"2", b"3")
    first, second, third = await logged(subject)
    store = movable(subject)
    await store.take_out_log(EVENT, [first, second, third])
    same("the beginning comes", len(await store.take_in_log(EVENT, [first], PASSAGE)), 1)
    await publish(subject, b"4")
    same("nothing of the rest", await store.take_in_log(EVENT, [second, third], PASSAGE), [])
    same("is here", [one.entry.body for one in await logged(subject)], [b"1", b"4"])
    elsewhere = structs.replace(PASSAGE, source="a third one")
    same("nor what is from elsewhere", await store.take_in_log(EVENT, [second], elsewhere), [])


@CHAPTER.case("move")
async def what_came_of_a_log_is_kept_for_as_long(subject: Subject) -> None:
    await publish(subject, b"1")
    subject.advance(KEPT_S - 60)
    await log_moved(subject)
    subject.advance(30)
    await subject.elapse(1)
    same("to its end", len(await logged(subject)), 1)
    subject.advance(60)
    await subject.elapse(1)
    same("and no longer", await logged(subject), [])
