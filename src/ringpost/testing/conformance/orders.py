"""Orders: cancel, replay, drop and report, each by the state that the row is in."""

from ringpost.core.message import Cause, Delivery, Message, Progress, Settlement, State
from ringpost.store.port import Cancel, Changed, Drop, Replay, Report
from ringpost.testing.conformance.suite import (
    LINE,
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

CHAPTER = Chapter("orders")


async def dead(subject: Subject, body: bytes = b"1") -> Delivery:
    await subject.put_bodies(body)
    delivery = await subject.claim_one()
    settlement = Settlement(delivery, State.DEAD, cause=Cause.REJECTED)
    holds("settled", await subject.settle(settlement))
    return delivery


@CHAPTER.case()
async def what_waits_is_cancelled_at_once(subject: Subject) -> None:
    sent = [
        message(b"ready"),
        Message(new_id(), QUEUE, b"scheduled", delay_s=50),
        Message(new_id(), QUEUE, b"head", line=LINE),
        Message(new_id(), QUEUE, b"waiting", line=LINE),
    ]
    await subject.put(*sent)
    for one in (sent[0], sent[1], sent[3]):
        same("done", await subject.order(Cancel(one.id, "me")), Changed("done", State.CANCELLED))
        record = await subject.there(one.id)
        same("it has ended", (record.state, record.cause), (State.CANCELLED, Cause.CANCELLED))
    await subject.elapse(60)
    same("only what wasn't cancelled is done", await subject.bodies(), [b"head"])


@CHAPTER.case()
async def a_retry_is_cancelled_at_once(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    await subject.retry(delivery, delay_s=10)
    same("done", (await subject.order(Cancel(delivery.id))).result, "done")
    await subject.elapse(11)
    same("it doesn't come again", await subject.bodies(), [])


@CHAPTER.case()
async def what_runs_is_asked_to_stop(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    same("requested", await subject.order(Cancel(delivery.id)), Changed("requested", State.RUNNING))
    record = await subject.there(delivery.id)
    same("it runs on, with the flag", (record.state, record.cancel_asked), (State.RUNNING, True))
    await subject.finish(delivery, State.CANCELLED, Cause.CANCELLED)
    same("until its handler has stopped", await subject.state(delivery.id), State.CANCELLED)


@CHAPTER.case()
async def a_handler_may_succeed_in_spite_of_cancelling(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    await subject.order(Cancel(delivery.id))
    holds("it was quicker", await subject.settle(Settlement(delivery, State.SUCCEEDED, REPLY)))
    same("then it has succeeded", await subject.state(delivery.id), State.SUCCEEDED)


@CHAPTER.case()
async def the_wish_to_cancel_survives_a_release(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    await subject.order(Cancel(delivery.id))
    await subject.finish(delivery, State.READY)
    for again in await subject.claim():
        same("the next holder is told", again.cancel_asked, True)


@CHAPTER.case()
async def what_has_ended_can_not_be_cancelled(subject: Subject) -> None:
    for to in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.DEAD):
        await subject.put_bodies(b"1")
        delivery = await subject.claim_one()
        await subject.finish(delivery, to)
        same("too late", await subject.order(Cancel(delivery.id)), Changed("too_late", to))
        same("it stays as it ended", await subject.state(delivery.id), to)


@CHAPTER.case()
async def an_unknown_id_is_unknown(subject: Subject) -> None:
    for order in (Cancel(new_id()), Replay(new_id(), 1), Drop(new_id())):
        same("there is no such row", (await subject.order(order)).result, "unknown")


@CHAPTER.case()
async def orders_are_answered_one_by_one(subject: Subject) -> None:
    ready = (await subject.put_bodies(b"1"))[0]
    answers = await subject.store.change([Cancel(new_id()), Cancel(ready), Cancel(ready), Drop(ready)])
    same("each in its turn", [one.result for one in answers], ["unknown", "done", "too_late", "too_late"])


# --- replay and drop


@CHAPTER.case()
async def a_dead_message_can_be_replayed(subject: Subject) -> None:
    first = await dead(subject)
    before = await subject.there(first.id)
    same("done", (await subject.order(Replay(first.id, 1, "me"))).result, "done")
    record = await subject.there(first.id)
    same("the next generation of the same row", (record.generation, record.ref), (2, before.ref))
    same("starts anew", (record.state, record.attempts, record.losses), (State.READY, 0, 0))
    same("as if never started", (record.started_ms, record.settled_ms, record.answer), (None, None, None))
    again = await subject.claim_one()
    same("the first attempt of generation 2", (again.id, again.generation, again.attempt), (first.id, 2, 1))
    holds("with a higher fence", again.fence > first.fence)
    same("the old delivery has lost", await subject.settle(Settlement(first, State.SUCCEEDED)), False)
    await subject.finish(again)
    same("and it can end well", await subject.state(first.id), State.SUCCEEDED)


@CHAPTER.case()
async def a_replay_is_for_the_generation_that_was_seen(subject: Subject) -> None:
    first = await dead(subject)
    same("not for one to come", (await subject.order(Replay(first.id, 2))).result, "conflict")
    same("done", (await subject.order(Replay(first.id, 1))).result, "done")
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    same("nor for one that was", (await subject.order(Replay(first.id, 1))).result, "conflict")
    same("it stays dead", await subject.state(first.id), State.DEAD)
    same("but the one that is", (await subject.order(Replay(first.id, 2))).result, "done")
    same("third generation", (await subject.claim_one()).generation, 3)


@CHAPTER.case()
async def two_replays_open_one_generation(subject: Subject) -> None:
    first = await dead(subject)
    both = await subject.store.change([Replay(first.id, 1), Replay(first.id, 1)])
    same("the first", both[0].result, "done")
    holds("not the second", both[1].result in ("too_late", "conflict"))
    same("one delivery", len(await subject.claim()), 1)


@CHAPTER.case()
async def a_suspect_is_cleared_by_replay(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    for _ in range(5):
        await subject.lose(await subject.claim_one())
    same("dead", await subject.state(id), State.DEAD)
    same("done", (await subject.order(Replay(id, 1))).result, "done")
    same("it is no suspect any more", len((await subject.turn(suspects=0)).deliveries), 1)


@CHAPTER.case()
async def only_the_dead_are_replayed_and_dropped(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    for order in (Replay(id, 1), Drop(id)):
        same("not what waits", await subject.order(order), Changed("too_late", State.READY))
    delivery = await subject.claim_one()
    for order in (Replay(id, 1), Drop(id)):
        same("not what runs", await subject.order(order), Changed("too_late", State.RUNNING))
    await subject.finish(delivery)
    for order in (Replay(id, 1), Drop(id)):
        same("not what succeeded", await subject.order(order), Changed("too_late", State.SUCCEEDED))


@CHAPTER.case()
async def a_dropped_message_is_gone(subject: Subject) -> None:
    first, second = await dead(subject, b"1"), await dead(subject, b"2")
    same("done", (await subject.order(Drop(first.id, "me"))).result, "done")
    same("gone", await subject.state(first.id), None)
    same("the other stays", await subject.state(second.id), State.DEAD)
    same("it can't be dropped twice", (await subject.order(Drop(first.id))).result, "unknown")


@CHAPTER.case()
async def who_replayed_and_dropped_is_known(subject: Subject) -> None:
    first, second = await dead(subject, b"1"), await dead(subject, b"2")
    same("nothing was done yet", await subject.store.audit(first.id), [])
    await subject.order(Replay(first.id, 1, "ada", "one first"))
    await subject.order(Replay(first.id, 1, "eve"))  # too late: nothing was done
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    await subject.order(Replay(first.id, 2, "bob"))
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    await subject.order(Drop(first.id, "kim"))
    done = await subject.store.audit(first.id)
    same(
        "in its order, also of what is gone",
        [(one.who, one.what, one.detail) for one in done],
        [("ada", "replay", "generation 2: one first"), ("bob", "replay", "generation 3"), ("kim", "drop", "")],
    )
    holds("with its time", all(one.at_ms > 0 for one in done))
    same("and only of that message", await subject.store.audit(second.id), [])


# --- progress


@CHAPTER.case()
async def progress_can_be_read(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    same("none yet", (await subject.there(delivery.id)).progress, None)
    for share, note in ((0.25, "a quarter"), (None, "still at it"), (1.0, "")):
        same("kept", (await subject.order(Report(delivery, Progress(share, note)))).result, "done")
        progress = (await subject.there(delivery.id)).progress
        holds("there", progress is not None)
        same("the latest word", progress and (progress.share, progress.note), (share, note))


@CHAPTER.case()
async def who_reports_hears_of_cancelling(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    delivery = await subject.claim_one()
    await subject.order(Cancel(delivery.id))
    same("told", (await subject.order(Report(delivery, Progress(0.5, "half")))).result, "requested")


@CHAPTER.case()
async def who_has_lost_can_not_report(subject: Subject) -> None:
    await subject.put_bodies(b"1")
    lost = await subject.claim_one()
    await subject.lose(lost)
    same("not after the loss", (await subject.order(Report(lost, Progress(0.5, "lost")))).result, "conflict")
    current = await subject.claim_one(holder=SECOND)
    same("nor over another's", (await subject.order(Report(lost, Progress(0.5, "lost")))).result, "conflict")
    same("nothing of it is seen", (await subject.there(lost.id)).progress, None)
    await subject.finish(current)
    same("nor after the end", (await subject.order(Report(current, Progress(0.5, "late")))).result, "conflict")


@CHAPTER.case()
async def a_removed_row_takes_no_report(subject: Subject) -> None:
    await subject.put(message(b"1", OTHER))
    delivery = await subject.claim_one(OTHER)
    holds("removed", await subject.settle(Settlement(delivery, State.FAILED, remove=True)))
    answer = (await subject.order(Report(delivery, Progress(0.5, "late")))).result
    holds("there is nothing to report on", answer in ("unknown", "conflict"))
