"""Leases: who renews keeps, who doesn't loses, and who has lost can change nothing any more."""

import threading

from ringpost.core.message import Cause, Delivery, Settlement, State
from ringpost.store.port import Cancel
from ringpost.testing.conformance.suite import (
    HOLDER,
    LEASE_S,
    QUEUE,
    SECOND,
    Chapter,
    Subject,
    holds,
    same,
)

CHAPTER = Chapter("leases")


async def lose_times(subject: Subject, times: int) -> Delivery:
    """Claim and lose the one message that is there so often; gives the last delivery that was lost."""
    delivery = await subject.claim_one()
    await subject.lose(delivery)
    return delivery if times == 1 else await lose_times(subject, times - 1)


@CHAPTER.case()
async def a_renewed_lease_is_kept(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    deliveries = await subject.claim()
    for _ in range(8):
        await subject.elapse(LEASE_S / 3)
        same("what is held is renewed", subject.store.renew(HOLDER, LEASE_S).held, 2)
        same("nobody else gets it", await subject.claim(holder=SECOND), [])
    settled = await subject.store.settle([Settlement(one, State.SUCCEEDED) for one in deliveries])
    same("and it can be settled", settled, [True, True])
    same("nothing is held after that", subject.store.renew(HOLDER, LEASE_S).held, 0)


@CHAPTER.case()
async def a_lapsed_lease_is_lost(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    lost = await subject.claim_one()
    await subject.elapse(LEASE_S - 2)
    same("not before it ends", await subject.claim(holder=SECOND), [])
    await subject.lose(lost)
    record = await subject.there(lost.id)
    same("ready again, a loss counted", (record.state, record.losses, record.attempts), (State.READY, 1, 0))
    again = await subject.claim_one(holder=SECOND)
    same("the next has it, as the same attempt", (again.id, again.attempt, again.losses), (lost.id, 1, 1))
    holds("with a higher fence", again.fence > lost.fence)
    same("the loser can't settle", await subject.settle(Settlement(lost, State.SUCCEEDED)), False)
    same("nor renew", subject.store.renew(HOLDER, LEASE_S).held, 0)
    await subject.finish(again)


@CHAPTER.case()
async def the_loser_can_not_settle_even_before_the_next_claim(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    lost = await subject.claim_one()
    await subject.lose(lost)
    same("what was taken back is no longer its", await subject.settle(Settlement(lost, State.SUCCEEDED)), False)
    same("ready for others", await subject.state(lost.id), State.READY)


@CHAPTER.case()
async def renewing_is_for_ones_own(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    mine, theirs = await subject.claim_one(), await subject.claim_one(holder=SECOND)
    for _ in range(6):
        await subject.elapse(LEASE_S / 3)
        same("one each", subject.store.renew(HOLDER, LEASE_S).held, 1)
    same("mine is kept", await subject.state(mine.id), State.RUNNING)
    same("theirs is lost", await subject.state(theirs.id), State.READY)


@CHAPTER.case()
async def a_lease_is_as_long_as_was_asked_for(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    claimed = await subject.store.claim({QUEUE: 1}, HOLDER, 300.0)
    await subject.elapse(150)
    same("half of a long lease", await subject.state(claimed.deliveries[0].id), State.RUNNING)


@CHAPTER.case()
async def renewing_works_from_a_thread(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    await subject.claim_one()
    held: list[int] = []
    thread = threading.Thread(target=lambda: held.append(subject.store.renew(HOLDER, LEASE_S).held))
    thread.start()
    thread.join(10)  # this blocks the loop, as a handler might
    same("also while the loop is blocked", held, [1])


@CHAPTER.case()
async def five_losses_are_death(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    await lose_times(subject, 4)
    record = await subject.there(id)
    same("four are not", (record.state, record.losses), (State.READY, 4))
    last = await lose_times(subject, 1)
    record = await subject.there(id)
    same("dead", (record.state, record.cause, record.losses), (State.DEAD, Cause.WORKER_LOST, 5))
    same("no attempt was charged", record.attempts, 0)
    same("nothing to claim", await subject.claim(), [])
    same("nothing to settle", await subject.settle(Settlement(last, State.SUCCEEDED)), False)


@CHAPTER.case()
async def suspects_only_as_many_as_wanted(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2", b"3")
    for _ in range(2):
        await subject.claim()
        await subject.elapse(60)
    await subject.put_bodies(b"good")
    claimed = await subject.turn(suspects=0)
    same("no suspect where none is wanted", [one.body for one in claimed.deliveries], [b"good"])
    claimed = await subject.turn(suspects=1)
    same("one where one is wanted", [(one.body, one.losses) for one in claimed.deliveries], [(b"1", 2)])
    claimed = await subject.turn(suspects=2)
    same("two where two are wanted", [one.body for one in claimed.deliveries], [b"2", b"3"])


@CHAPTER.case()
async def one_loss_makes_no_suspect(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    await lose_times(subject, 1)
    claimed = await subject.turn(suspects=0)
    same("a message with one loss is claimed as ever", [one.losses for one in claimed.deliveries], [1])


@CHAPTER.case()
async def a_success_after_losses_is_a_success(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    await lose_times(subject, 2)
    delivery = await subject.claim_one()
    await subject.finish(delivery)
    record = await subject.there(delivery.id)
    same("losses stay on record", (record.state, record.losses, record.attempts), (State.SUCCEEDED, 2, 1))


@CHAPTER.case()
async def a_holder_learns_of_cancelling_when_it_renews(subject: Subject) -> None:
    await subject.put_bodies(b"1", b"2")
    deliveries = await subject.claim()
    same("nothing to tell", subject.store.renew(HOLDER, LEASE_S).cancel, [])
    await subject.order(Cancel(deliveries[1].id))
    same("which one", subject.store.renew(HOLDER, LEASE_S).cancel, [deliveries[1].ref])
    same("not others'", subject.store.renew(SECOND, LEASE_S).cancel, [])


@CHAPTER.case()
async def a_lost_message_that_was_to_be_cancelled_is_cancelled(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    same("it runs, so it is told", (await subject.order(Cancel(delivery.id))).result, "requested")
    await subject.lose(delivery)
    record = await subject.there(delivery.id)
    same("its holder died: cancelled", (record.state, record.cause), (State.CANCELLED, Cause.CANCELLED))


@CHAPTER.case()
async def many_leases_are_lost_together(subject: Subject) -> None:
    await subject.put_bodies(*(b"%d" % number for number in range(100)))
    same("claimed", len(await subject.claim(100)), 100)
    same("all are taken back", (await subject.elapse(60)).lost, 100)
    same("and can be claimed", len(await subject.claim(100, holder=SECOND)), 100)
