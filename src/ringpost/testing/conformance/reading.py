"""Reading and waiting: pages of rows, depths of queues, and wake-ups, which are hints but come."""

import asyncio

from ringpost.core.message import Cause, Kind, Message, Progress, Settlement, State
from ringpost.store.port import Cancel, Depth, Filter, Report, Woken
from ringpost.testing.conformance.suite import (
    HOLDER,
    LEASE_S,
    OTHER,
    QUEUE,
    Chapter,
    Subject,
    Violation,
    envelope,
    holds,
    lined,
    message,
    new_id,
    reservation,
    same,
)

CHAPTER = Chapter("reading")
_NONE: frozenset[bytes] = frozenset()
SOON_S = 5.0  # real seconds: what is awaited comes at once, or not at all


async def depth(subject: Subject, queue: str = QUEUE) -> Depth:
    found = [one for one in await subject.store.depths() if one.queue == queue]
    same("a queue has one depth", len(found), 1)
    return found[0]


@CHAPTER.case("find")
async def rows_are_found_page_by_page(subject: Subject) -> None:
    sent = await subject.put_bodies(*(b"%d" % number for number in range(25)))
    found: list[bytes] = []
    after = 0
    for size in (10, 10, 5):
        page = await subject.store.find(Filter(after=after, limit=10))
        same("a page is as long as asked for", len(page), size)
        refs = [record.ref for record in page]
        same("by rising ref", refs, sorted(refs))
        after = refs[-1]
        found += [record.id for record in page]
    same("every row once", found, sent)
    same("and then none", await subject.store.find(Filter(after=after)), [])


@CHAPTER.case("find")
async def rows_are_found_by_queue_and_state(subject: Subject) -> None:
    await subject.put(message(b"1"), message(b"2"), message(b"3"), message(b"4", OTHER))
    deliveries = await subject.claim(2)
    await subject.finish(deliveries[0], State.DEAD, Cause.REJECTED)

    async def bodies(filter: Filter) -> list[bytes]:
        return [record.body for record in await subject.store.find(filter)]

    same("of a queue", await bodies(Filter(queue=QUEUE)), [b"1", b"2", b"3"])
    same("of an unknown queue", await bodies(Filter(queue="no.such")), [])
    same("in a state", await bodies(Filter(states=(State.READY,))), [b"3", b"4"])
    same("in one of several", await bodies(Filter(states=(State.DEAD, State.RUNNING))), [b"1", b"2"])
    same("both", await bodies(Filter(queue=OTHER, states=(State.READY,))), [b"4"])


@CHAPTER.case("find")
async def reservations_are_found_only_when_asked_for(subject: Subject) -> None:
    await subject.put(message(b"1"))
    await subject.reserve(reservation())
    kinds = [record.kind for record in await subject.store.find(Filter())]
    same("messages", kinds, [Kind.MESSAGE])
    same("calls", [record.kind for record in await subject.store.find(Filter(kind=Kind.CALL))], [Kind.CALL])
    same("either", len(await subject.store.find(Filter(kind=None))), 2)


@CHAPTER.case("find")
async def a_page_can_be_without_bodies(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", envelope(operation=QUEUE)))
    same("light", (await subject.store.find(Filter(bodies=False)))[0].body, b"")
    same("or whole", (await subject.store.find(Filter()))[0].body, b"1")
    same("a read is light by default", [one and one.body for one in await subject.store.read([new_id()])], [None])


@CHAPTER.case()
async def depths_count_every_state(subject: Subject) -> None:
    await subject.put(*(message(b"%d" % number) for number in range(4)))
    await subject.put(lined(b"head"), lined(b"waits"), Message(new_id(), QUEUE, b"s", delay_s=50))
    deliveries = await subject.claim(3)
    await subject.finish(deliveries[0])
    await subject.finish(deliveries[1], State.DEAD, Cause.REJECTED)
    found = await depth(subject)
    counted = (found.ready, found.running, found.scheduled, found.waiting, found.dead)
    same("ready, running, scheduled, waiting, dead", counted, (2, 1, 1, 1, 1))
    same("what came and what ended", (found.puts, found.ends), (7, 2))
    ready = await subject.store.find(Filter(states=(State.READY,)))
    same("and the age of the oldest that is ready", found.oldest_ms, min(record.created_ms for record in ready))


@CHAPTER.case()
async def depths_stay_true_through_a_life(subject: Subject) -> None:
    sent = await subject.put_bodies(b"1", b"2", b"3")
    await subject.order(Cancel(sent[2]))
    await subject.retry(await subject.claim_one(), delay_s=5)
    await subject.elapse(6)
    await subject.finish(await subject.claim_one(), State.READY)
    await subject.lose(await subject.claim_one())
    await subject.put(Message(sent[0], QUEUE, b"1"))
    found = await depth(subject)
    counted = (found.ready, found.running, found.scheduled, found.waiting, found.dead)
    same("two are ready, and nothing else", counted, (2, 0, 0, 0, 0))
    for delivery in await subject.claim():
        await subject.finish(delivery)
    found = await depth(subject)
    same("all have ended", (found.ready, found.running, found.ends, found.oldest_ms), (0, 0, 3, None))


@CHAPTER.case()
async def reservations_are_no_depth(subject: Subject) -> None:
    await subject.put(message(b"1"))
    await subject.reserve(reservation())
    found = await depth(subject)
    same("only messages count", (found.ready, found.running, found.puts), (1, 0, 1))


# --- waiting


async def waiting(subject: Subject, queues: set[str], ids: set[bytes]) -> asyncio.Task[Woken]:
    """Begin to wait, and be sure that it has begun."""
    task = asyncio.ensure_future(subject.store.wait(frozenset(queues), frozenset(ids), SOON_S))
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def woken(task: asyncio.Task[Woken], why: str) -> Woken:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    found = await task
    if loop.time() - begun_s >= SOON_S - 0.5:
        raise Violation(f"broken: a wait ends {why}")
    return found


@CHAPTER.case()
async def a_put_wakes_who_waits_for_its_queue(subject: Subject) -> None:
    task = await waiting(subject, {QUEUE, OTHER}, set())
    await subject.put(message(b"1", OTHER))
    found = await woken(task, "when a message comes")
    holds("it says which queue", not found.queues or OTHER in found.queues)


@CHAPTER.case()
async def a_put_wakes_nobody_else(subject: Subject) -> None:
    task = await waiting(subject, {OTHER}, set())
    await subject.put(message(b"1"))
    await asyncio.sleep(0.05)
    holds("a wait for another queue goes on", not task.done())
    task.cancel()
    await asyncio.wait([task])


@CHAPTER.case()
async def what_came_before_the_wait_is_not_missed(subject: Subject) -> None:
    same("nothing there", await subject.claim(), [])
    await subject.put(message(b"1"))
    await woken(await waiting(subject, {QUEUE}, set()), "at once where something came since the last claim")


@CHAPTER.case()
async def a_staged_message_wakes(subject: Subject) -> None:
    await subject.put(message(b"1"))
    delivery = await subject.claim_one()
    task = await waiting(subject, {OTHER}, set())
    holds("settled", await subject.settle(Settlement(delivery, State.SUCCEEDED, staged=[message(b"2", OTHER)])))
    await woken(task, "when something staged is committed")


@CHAPTER.case()
async def what_becomes_due_wakes(subject: Subject) -> None:
    await subject.put(Message(new_id(), QUEUE, b"1", delay_s=10))
    same("not yet", await subject.claim(), [])
    task = await waiting(subject, {QUEUE}, set())
    subject.advance(11)
    await subject.tend()
    await woken(task, "when something has become due")


@CHAPTER.case("lines")
async def the_next_of_a_line_wakes(subject: Subject) -> None:
    await subject.put(lined(b"1"), lined(b"2"))
    head = await subject.claim()
    task = await waiting(subject, {QUEUE}, set())
    await subject.finish(head[0])
    await woken(task, "when it is the next one's turn")


@CHAPTER.case()
async def a_release_wakes(subject: Subject) -> None:
    await subject.put(message(b"1"))
    deliveries = await subject.claim()
    task = await waiting(subject, {QUEUE}, set())
    await subject.finish(deliveries[0], State.READY)
    await woken(task, "when a message is given back")


@CHAPTER.case()
async def an_end_wakes_who_waits_for_the_id(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    delivery = await subject.claim_one()
    task = await waiting(subject, set(), {id})
    await subject.finish(delivery)
    found = await woken(task, "when the message has ended")
    holds("it says which id", not found.ids or id in found.ids)


@CHAPTER.case()
async def an_end_before_the_wait_is_not_missed(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    await subject.finish(await subject.claim_one())
    await woken(await waiting(subject, set(), {id}), "at once where the message has ended")


@CHAPTER.case()
async def cancelling_wakes_the_holder(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    await subject.claim_one()
    task = await waiting(subject, set(), {id})
    same("requested", (await subject.order(Cancel(id))).result, "requested")
    await woken(task, "when cancelling was asked for")


@CHAPTER.case()
async def progress_wakes_who_watches(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    delivery = await subject.claim_one()
    task = await waiting(subject, set(), {id})
    await subject.order(Report(delivery, Progress(0.5, "half")))
    await woken(task, "when there is progress")


@CHAPTER.case()
async def a_wait_ends_with_its_time(subject: Subject) -> None:
    found = await subject.store.wait(frozenset({QUEUE}), _NONE, 0.01)
    same("with nothing", (found.queues, found.ids), (frozenset(), frozenset()))


@CHAPTER.case()
async def everyone_who_waits_for_an_id_is_woken(subject: Subject) -> None:
    id = (await subject.put_bodies(b"1"))[0]
    delivery = await subject.claim_one()
    tasks = [await waiting(subject, set(), {id}) for _ in range(5)]
    await subject.finish(delivery)
    for task in tasks:
        await woken(task, "for all who wait")


@CHAPTER.case()
async def a_given_up_wait_leaves_nothing_behind(subject: Subject) -> None:
    for _ in range(20):
        task = await waiting(subject, {QUEUE}, {new_id()})
        task.cancel()
        await asyncio.wait([task])
    await subject.put(message(b"1"))
    claimed = await subject.store.claim({QUEUE: 1}, HOLDER, LEASE_S)
    same("the store works on", len(claimed.deliveries), 1)
