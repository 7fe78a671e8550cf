"""Keeping: ended rows stay as long as somebody may ask for them, then they go; live ones never do."""

from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.message import Cause, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.testing.conformance.suite import (
    KEY,
    LEASE_S,
    QUEUE,
    REPLY,
    Chapter,
    Subject,
    holds,
    message,
    new_id,
    reservation,
    same,
)

CHAPTER = Chapter("keeping")
_MARGIN_S = 120.0  # a store may find what is to be purged by the minute
_DAY_S = 24 * 3600.0


async def leap(subject: Subject, seconds: float) -> int:
    """Move time on in one step, with upkeep after it; gives how many rows were purged."""
    subject.advance(seconds)
    return (await subject.tend()).purged


@CHAPTER.case()
async def an_ended_message_is_kept_as_long_as_asked(subject: Subject) -> None:
    kept = Message(new_id(), QUEUE, b"1", keep_s=1000)
    await subject.put(kept)
    holds("settled", await subject.settle(Settlement(await subject.claim_one(), State.SUCCEEDED, REPLY)))
    await leap(subject, 990)
    answer = (await subject.there(kept.id)).answer
    same("with its answer", answer, REPLY)
    same("then it goes", await leap(subject, 10 + _MARGIN_S), 1)
    same("whole", await subject.state(kept.id), None)


@CHAPTER.case()
async def each_row_has_its_own_keep(subject: Subject) -> None:
    short, long = Message(new_id(), QUEUE, b"1", keep_s=100), Message(new_id(), QUEUE, b"2", keep_s=10_000)
    await subject.put(long, short)
    for delivery in await subject.claim():
        await subject.finish(delivery)
    await leap(subject, 100 + _MARGIN_S)
    found = (await subject.state(short.id), await subject.state(long.id))
    same("the short goes, the long stays", found, (None, State.SUCCEEDED))
    await leap(subject, 10_000)
    same("until its time", await subject.state(long.id), None)


@CHAPTER.case()
async def every_end_but_death_is_purged_by_its_keep(subject: Subject) -> None:
    for to in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        await subject.put(Message(new_id(), QUEUE, b"1", keep_s=100))
        await subject.finish(await subject.claim_one(), to)
    await subject.put(Message(new_id(), QUEUE, b"1", keep_s=100, ttl_s=10))
    subject.advance(11)
    await subject.tend()
    same("all go", await leap(subject, 100 + _MARGIN_S), 4)


@CHAPTER.case()
async def dead_messages_wait_for_their_operator(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", keep_s=100)
    await subject.put(sent)
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    await leap(subject, 20 * _DAY_S)
    same("dead ones stay beyond their keep", await subject.state(sent.id), State.DEAD)
    await leap(subject, KEEP_DEAD_S - 20 * _DAY_S + _MARGIN_S)
    same("but not for ever", await subject.state(sent.id), None)


@CHAPTER.case()
async def what_lives_is_never_purged(subject: Subject) -> None:
    ready = Message(new_id(), "no.consumer", b"1", keep_s=1)
    scheduled = Message(new_id(), QUEUE, b"2", keep_s=1, delay_s=100 * _DAY_S)
    await subject.put(ready, scheduled)
    await leap(subject, 90 * _DAY_S)
    found = (await subject.state(ready.id), await subject.state(scheduled.id))
    same("however old it is", found, (State.READY, State.SCHEDULED))


@CHAPTER.case()
async def an_answered_reservation_is_purged_too(subject: Subject) -> None:
    wanted = reservation()
    wanted.keep_s = 100
    holds("settled", await subject.settle(Settlement(await subject.reserve(wanted), State.SUCCEEDED, REPLY)))
    await leap(subject, 100 + _MARGIN_S)
    same("gone", await subject.state(wanted.id), None)
    await subject.reserve(reservation(KEY))


@CHAPTER.case()
async def a_purged_id_is_new_again(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", keep_s=100)
    await subject.put(sent)
    await subject.finish(await subject.claim_one())
    await leap(subject, 100 + _MARGIN_S)
    same("nothing is known of it", (await subject.put(sent))[0].duplicate, False)


@CHAPTER.case(settings=Settings(lease_s=LEASE_S, keep_bytes=1 << 20))
async def ended_rows_take_no_more_room_than_they_may(subject: Subject) -> None:
    keyed = Message(new_id(), QUEUE, b"k" * 100_000, dedup=KEY, digest=KEY, keep_s=100_000)
    plain = [Message(new_id(), QUEUE, b"p" * 100_000, keep_s=100_000) for _ in range(30)]
    await subject.put(keyed, *plain)
    for delivery in await subject.claim():
        await subject.finish(delivery)
    for _ in range(60):
        subject.advance(60)
        await subject.store.tend(4)
    there = [await subject.state(one.id) is not None for one in plain]
    holds("about as much stays as may", 2 <= sum(there) <= 12)
    same("the oldest go first", there, sorted(there))
    same("keyed ones last", await subject.state(keyed.id), State.SUCCEEDED)


@CHAPTER.case()
async def upkeep_is_done_in_steps(subject: Subject) -> None:
    await subject.put(*(Message(new_id(), QUEUE, b"1", ttl_s=10) for _ in range(60)), message(b"2"))
    subject.advance(11)
    first = await subject.store.tend(25)
    holds("one step does a bounded amount", 0 < first.expired <= 25)
    holds("and says that there is more", first.more)
    total = first.expired + (await subject.tend()).expired
    same("all in the end", total, 60)
