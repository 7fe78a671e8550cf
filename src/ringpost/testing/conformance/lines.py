"""Lines: of the messages with one ordering key one is at work, the others wait behind it in the order of their puts."""

from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.message import Cause, Message, Priority, Settlement, State
from ringpost.store.port import Cancel, Changed, Drop, Replay
from ringpost.testing.conformance.suite import (
    LINE,
    OTHER,
    QUEUE,
    SECOND,
    Chapter,
    Subject,
    holds,
    lined,
    message,
    new_id,
    same,
)

CHAPTER = Chapter("lines")
_ANOTHER = b"another line...."


async def put_line(subject: Subject, *bodies: bytes) -> list[bytes]:
    return [put.id for put in await subject.put(*(lined(body) for body in bodies))]


@CHAPTER.case("lines")
async def one_of_a_line_at_a_time(subject: Subject) -> None:
    ids = await put_line(subject, b"1", b"2", b"3")
    states = [await subject.state(id) for id in ids]
    same("one is ready, the others wait", states, [State.READY, State.WAITING, State.WAITING])
    same("one is claimed", await subject.bodies(), [b"1"])
    same("and no other while it runs", await subject.bodies(), [])


@CHAPTER.case("lines")
async def a_line_is_in_order(subject: Subject) -> None:
    bodies = [b"%d" % number for number in range(12)]
    for body in bodies:
        await subject.put(lined(body))
    found: list[bytes] = []
    for _ in bodies:
        delivery = await subject.claim_one()
        found.append(delivery.body)
        await subject.finish(delivery)
    same("each after the other", found, bodies)


@CHAPTER.case("lines")
async def the_next_is_woken_in_the_same_commit(subject: Subject) -> None:
    ids = await put_line(subject, b"1", b"2", b"3")
    delivery = await subject.claim_one()
    await subject.finish(delivery)
    same("ready as soon as the head has ended", await subject.state(ids[1]), State.READY)
    same("and only that one", await subject.state(ids[2]), State.WAITING)
    claimed = await subject.store.claim({QUEUE: 5}, SECOND, 30.0)
    batch = [Settlement(claimed.deliveries[0], State.FAILED)]
    claimed = await subject.store.claim({QUEUE: 5}, SECOND, 30.0, batch)
    same("a turn that settles the head takes the next", [one.id for one in claimed.deliveries], [ids[2]])


@CHAPTER.case("lines")
async def lines_and_what_has_no_key_do_not_hold_each_other_up(subject: Subject) -> None:
    await subject.put(lined(b"a1"), lined(b"a2"), lined(b"b1", _ANOTHER), lined(b"b2", _ANOTHER), message(b"plain"))
    same("one of each line and all without key", sorted(await subject.bodies()), [b"a1", b"b1", b"plain"])


@CHAPTER.case("lines")
async def a_line_may_cross_queues(subject: Subject) -> None:
    await subject.put(lined(b"1"), Message(new_id(), OTHER, b"2", line=LINE))
    first = await subject.claim_one()
    same("the next waits in another queue", await subject.bodies(OTHER), [])
    await subject.finish(first)
    same("until it is its turn", await subject.bodies(OTHER), [b"2"])


@CHAPTER.case("lines")
async def a_line_that_ran_empty_starts_anew(subject: Subject) -> None:
    await subject.put(lined(b"1"))
    await subject.finish(await subject.claim_one())
    ids = await put_line(subject, b"2", b"3")
    same("ready at once", [await subject.state(id) for id in ids], [State.READY, State.WAITING])


@CHAPTER.case("lines")
async def who_comes_while_the_head_runs_waits(subject: Subject) -> None:
    await subject.put(lined(b"1"))
    head = await subject.claim_one()
    ids = await put_line(subject, b"2")
    same("behind a running head", await subject.state(ids[0]), State.WAITING)
    staged = lined(b"3")
    holds("the head stages one more", await subject.settle(Settlement(head, State.SUCCEEDED, staged=[staged])))
    states = [await subject.state(ids[0]), await subject.state(staged.id)]
    same("which stands behind the one that came before", states, [State.READY, State.WAITING])


@CHAPTER.case("lines")
async def a_retrying_head_blocks(subject: Subject) -> None:
    await put_line(subject, b"1", b"2")
    await subject.retry(await subject.claim_one(), delay_s=20)
    same("nobody overtakes it", await subject.bodies(), [])
    await subject.elapse(21)
    again = await subject.claim_one()
    same("it comes again first", (again.body, again.attempt), (b"1", 2))
    same("alone", await subject.bodies(), [])
    await subject.finish(again)
    same("then the next", await subject.bodies(), [b"2"])


@CHAPTER.case("lines")
async def a_released_head_keeps_its_place(subject: Subject) -> None:
    await put_line(subject, b"1", b"2")
    await subject.finish(await subject.claim_one(), State.READY)
    same("it comes again first, and alone", await subject.bodies(), [b"1"])


@CHAPTER.case("lines")
async def a_lost_head_keeps_its_place(subject: Subject) -> None:
    await put_line(subject, b"1", b"2")
    await subject.lose(await subject.claim_one())
    same("it comes again first, and alone", await subject.bodies(), [b"1"])


@CHAPTER.case("lines")
async def a_dead_head_lets_the_next_go(subject: Subject) -> None:
    await put_line(subject, b"1", b"2")
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    same("the line goes on", await subject.bodies(), [b"2"])


@CHAPTER.case("lines")
async def a_dead_head_keeps_its_place_where_the_queue_halts(subject: Subject) -> None:
    await subject.halt()
    ids = await put_line(subject, b"1", b"2", b"3")
    await subject.put(lined(b"other", _ANOTHER))
    dead, other = await subject.claim()
    await subject.finish(dead, State.DEAD, Cause.REJECTED)
    await subject.finish(other)
    await subject.tend()
    same("the line waits", (await subject.bodies(), await subject.state(ids[1])), ([], State.WAITING))
    same("replayed", await subject.order(Replay(ids[0], 1)), Changed("done", State.READY))
    again = await subject.claim()
    same("the dead one goes first", [one.body for one in again], [b"1"])
    await subject.finish(again[0])
    same("then the next", await subject.bodies(), [b"2"])


@CHAPTER.case("lines")
async def a_halted_line_goes_on_once_its_dead_head_is_dropped(subject: Subject) -> None:
    await subject.halt()
    ids = await put_line(subject, b"1", b"2")
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    same("it waits", await subject.bodies(), [])
    same("dropped", (await subject.order(Drop(ids[0]))).result, "done")
    same("it goes on", await subject.bodies(), [b"2"])


@CHAPTER.case("lines")
async def a_halted_line_goes_on_once_its_dead_head_is_purged(subject: Subject) -> None:
    await subject.halt()
    await put_line(subject, b"1", b"2")
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    subject.advance(KEEP_DEAD_S + 120)
    await subject.tend()
    same("it goes on", await subject.bodies(), [b"2"])


@CHAPTER.case("lines")
async def a_head_that_lost_its_workers_halts_too(subject: Subject) -> None:
    await subject.halt()
    await put_line(subject, b"1", b"2")
    for _ in range(5):
        await subject.lose(await subject.claim_one())
    same("the line waits", await subject.bodies(), [])


@CHAPTER.case("lines")
async def only_death_halts(subject: Subject) -> None:
    await subject.halt()
    for to in (State.FAILED, State.CANCELLED, State.SUCCEEDED):
        await subject.put(lined(b"head"), lined(b"next"))
        await subject.finish(await subject.claim_one(), to)
        await subject.finish(await subject.claim_one())


@CHAPTER.case("lines")
async def a_cancelled_head_lets_the_next_go(subject: Subject) -> None:
    ids = await put_line(subject, b"1", b"2", b"3")
    same("cancelled", (await subject.order(Cancel(ids[0]))).result, "done")
    same("the next is ready", await subject.state(ids[1]), State.READY)
    same("only that one", await subject.bodies(), [b"2"])


@CHAPTER.case("lines")
async def who_is_cancelled_in_line_is_passed_over(subject: Subject) -> None:
    ids = await put_line(subject, b"1", b"2", b"3")
    same("cancelled", (await subject.order(Cancel(ids[1]))).result, "done")
    await subject.finish(await subject.claim_one())
    same("the one behind comes", await subject.bodies(), [b"3"])


@CHAPTER.case("lines", "delay")
async def a_delayed_message_joins_when_due(subject: Subject) -> None:
    delayed = Message(new_id(), QUEUE, b"delayed", line=LINE, delay_s=20)
    await subject.put(delayed)
    await put_line(subject, b"1", b"2")
    await subject.finish(await subject.claim_one())
    head = await subject.claim_one()
    same("it doesn't hold up the line before it is due", head.body, b"2")
    await subject.elapse(21)
    same("due, it waits behind the head", await subject.state(delayed.id), State.WAITING)
    await subject.finish(head)
    same("and comes in its turn", await subject.bodies(), [b"delayed"])


@CHAPTER.case("lines", "delay")
async def two_that_fall_due_together_stay_in_line(subject: Subject) -> None:
    await subject.put(*(Message(new_id(), QUEUE, body, line=LINE, delay_s=20) for body in (b"1", b"2", b"3")))
    await subject.elapse(21)
    found: list[bytes] = []
    for _ in range(3):
        bodies = await subject.claim()
        same("one at a time", len(bodies), 1)
        found.append(bodies[0].body)
        await subject.finish(bodies[0])
    same("in order", found, [b"1", b"2", b"3"])


@CHAPTER.case("lines")
async def a_repeated_head_makes_no_second_one(subject: Subject) -> None:
    sent = lined(b"1")
    await subject.put(sent, lined(b"2"))
    await subject.put(sent, lined(b"3"))
    same("still one head", await subject.bodies(), [b"1"])
    await subject.put(sent)
    same("while it runs too", await subject.bodies(), [])


@CHAPTER.case("lines")
async def a_replayed_message_joins_its_line_again(subject: Subject) -> None:
    ids = await put_line(subject, b"1", b"2", b"3")
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    head = await subject.claim_one()
    same("replayed", (await subject.order(Replay(ids[0], 1))).result, "done")
    same("behind who runs now", await subject.state(ids[0]), State.WAITING)
    await subject.finish(head)
    same("and first of those that wait, as the oldest", await subject.bodies(), [b"1"])


@CHAPTER.case("lines")
async def dropping_a_dead_message_leaves_the_line_alone(subject: Subject) -> None:
    ids = await put_line(subject, b"1", b"2")
    await subject.finish(await subject.claim_one(), State.DEAD, Cause.REJECTED)
    head = await subject.claim_one()
    same("dropped", (await subject.order(Drop(ids[0]))).result, "done")
    same("the head still runs alone", await subject.bodies(), [])
    await subject.finish(head)


@CHAPTER.case("lines", "priority")
async def priority_counts_between_lines_only(subject: Subject) -> None:
    await subject.put(
        Message(new_id(), QUEUE, b"1", line=LINE, priority=Priority.LOW),
        Message(new_id(), QUEUE, b"2", line=LINE, priority=Priority.HIGH),
        Message(new_id(), QUEUE, b"other", line=_ANOTHER),
    )
    same("the head goes by its own priority", await subject.bodies(), [b"other", b"1"])


@CHAPTER.case("lines")
async def many_lines_each_in_order(subject: Subject) -> None:
    lines = [b"line %011d" % number for number in range(20)]
    await subject.put(*(lined(b"%d" % number, line) for number in range(5) for line in lines))
    for number in range(5):
        deliveries = await subject.claim(1000)
        same("one of each line", len({one.line for one in deliveries}), 20)
        same("the same place in each", [one.body for one in deliveries], [b"%d" % number] * 20)
        same(
            "settled", set(await subject.store.settle([Settlement(one, State.SUCCEEDED) for one in deliveries])), {True}
        )
    same("nothing left", await subject.bodies(), [])
