"""Putting: what is accepted is there, what is known is absorbed, what doesn't fit is refused; nothing in between."""

from msgspec import structs

from ringpost.core.message import Kind, Message, Priority, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Filter
from ringpost.testing.conformance.suite import (
    DIGEST,
    HOLDER,
    KEY,
    LEASE_S,
    LOST_S,
    OTHER,
    QUEUE,
    REPLY,
    SECOND,
    Chapter,
    Subject,
    envelope,
    holds,
    message,
    new_id,
    reservation,
    same,
)

CHAPTER = Chapter("putting")
_FULL_AT_3 = Settings(lease_s=LEASE_S, depth_max=3)
_FULL_AT_4_MIB = Settings(lease_s=LEASE_S, depth_bytes_max=4 << 20)


def keyed(body: bytes = b"{}", digest: bytes = DIGEST) -> Message:
    return Message(new_id(), QUEUE, body, dedup=KEY, digest=digest)


@CHAPTER.case()
async def what_was_put_can_be_read(subject: Subject) -> None:
    headers = envelope(operation=QUEUE, sender="test")
    sent = Message(new_id(), QUEUE, b'{"n":1}', headers, priority=Priority.HIGH, keep_s=77)
    answer = (await subject.put(sent))[0]
    same("a new message has one receiver and is no duplicate", (answer.receivers, answer.duplicate), (1, False))
    record = await subject.there(sent.id)
    found = (record.id, record.queue, record.headers, record.body, record.priority, record.keep_s, record.kind)
    same("a row says what was put", found, (sent.id, QUEUE, headers, b'{"n":1}', Priority.HIGH, 77, Kind.MESSAGE))
    same("it starts ready, untried", (record.state, record.attempts, record.losses), (State.READY, 0, 0))
    same("and in its first generation", (record.generation, record.started_ms, record.settled_ms), (1, None, None))


@CHAPTER.case()
async def a_batch_gets_one_answer_each_in_order(subject: Subject) -> None:
    messages = [message(b"%d" % number) for number in range(250)]
    answers = await subject.put(*messages)
    same("answers come in the order of the messages", [put.id for put in answers], [one.id for one in messages])
    same("all of a batch is stored", len(await subject.claim(1000)), 250)


@CHAPTER.case()
async def an_empty_batch_is_no_error(subject: Subject) -> None:
    same("nothing in, nothing out", await subject.store.put([]), [])
    same("nothing to settle", await subject.store.settle([]), [])
    same("nothing to change", await subject.store.change([]), [])
    same("nothing to read", await subject.store.read([]), [])


@CHAPTER.case()
async def any_bytes_come_back_as_they_were(subject: Subject) -> None:
    bodies = [b"", b"\x00", bytes(range(256)), b"\xff" * 70_000, "grüße".encode()]
    sent = await subject.put(*(message(body) for body in bodies))
    same("a body is claimed as it was put", await subject.bodies(), bodies)
    records = await subject.store.read([put.id for put in sent], bodies=True)
    same("and read as it was put", [record.body for record in records if record], bodies)


@CHAPTER.case()
async def an_absent_id_reads_as_none(subject: Subject) -> None:
    here = (await subject.put_bodies(b"1"))[0]
    found = await subject.store.read([new_id(), here, new_id()])
    same("answers stand at the place of their ids", [record is not None for record in found], [False, True, False])


@CHAPTER.case()
async def a_repeated_id_is_absorbed(subject: Subject) -> None:
    sent = message(b"1")
    await subject.put(sent)
    again = (await subject.put(sent))[0]
    same("a repeated put says so", (again.id, again.duplicate, again.state), (sent.id, True, State.READY))
    same("and changes nothing", await subject.bodies(), [b"1"])
    again = (await subject.put(sent))[0]
    same("whatever has become of the row", (again.duplicate, again.state), (True, State.RUNNING))


@CHAPTER.case()
async def a_repeated_id_is_absorbed_after_its_end(subject: Subject) -> None:
    sent = message(b"1")
    await subject.put(sent)
    await subject.finish(await subject.claim_one())
    again = (await subject.put(sent))[0]
    same("an ended message is still known", (again.duplicate, again.state), (True, State.SUCCEEDED))
    same("and not done again", await subject.bodies(), [])


@CHAPTER.case()
async def a_repetition_within_one_batch_is_absorbed(subject: Subject) -> None:
    sent = message(b"1")
    answers = await subject.put(sent, message(b"2"), structs.replace(sent))
    same("the first goes in, the second is its duplicate", [put.duplicate for put in answers], [False, False, True])
    same("and there is one row", await subject.bodies(), [b"1", b"2"])


@CHAPTER.case()
async def a_known_id_with_other_content_is_refused(subject: Subject) -> None:
    sent = Message(new_id(), QUEUE, b"1", envelope(operation=QUEUE))
    await subject.put(sent)
    others = [
        structs.replace(sent, body=b"2"),
        structs.replace(sent, headers=envelope(operation=QUEUE, sender="somebody")),
        structs.replace(sent, queue=OTHER),
    ]
    for other in others:
        put = (await subject.store.put([other]))[0]
        same("another body, header or queue under a known id is refused", put.refused, "mismatch")
    same("and what was there stays", (await subject.there(sent.id)).body, b"1")
    same("alone", len(await subject.store.find(Filter())), 1)


@CHAPTER.case()
async def a_refused_message_takes_no_neighbour_with_it(subject: Subject) -> None:
    sent = message(b"1")
    await subject.put(sent)
    answers = await subject.store.put([message(b"2"), structs.replace(sent, body=b"x"), message(b"3")])
    same("each entry is judged by itself", [put.refused for put in answers], ["", "mismatch", ""])
    same("the others are stored", await subject.bodies(), [b"1", b"2", b"3"])


@CHAPTER.case()
async def a_repeated_key_is_absorbed(subject: Subject) -> None:
    first = (await subject.put(keyed(b"1")))[0]
    again = (await subject.put(keyed(b"1")))[0]
    same("a repeated key gives the row that is there", (again.id, again.duplicate), (first.id, True))
    same("with its state", again.state, State.READY)
    same("and stores nothing", await subject.bodies(), [b"1"])


@CHAPTER.case()
async def a_repeated_key_within_one_batch_is_absorbed(subject: Subject) -> None:
    answers = await subject.put(keyed(b"1"), keyed(b"1"), message(b"2"))
    same("the second of a key is a duplicate", [put.duplicate for put in answers], [False, True, False])
    same("of the first", answers[1].id, answers[0].id)
    same("and stores nothing", await subject.bodies(), [b"1", b"2"])


@CHAPTER.case()
async def a_key_with_another_request_is_refused(subject: Subject) -> None:
    await subject.put(keyed(b"1"))
    put = (await subject.store.put([keyed(b"2", digest=b"another digest..")]))[0]
    same("one key for two requests is refused", put.refused, "key_reused")
    same("and what was there stays alone", await subject.bodies(), [b"1"])


@CHAPTER.case()
async def a_key_is_free_again_once_its_row_is_purged(subject: Subject) -> None:
    await subject.put(structs.replace(keyed(b"1"), keep_s=60))
    await subject.finish(await subject.claim_one())
    subject.advance(61 + 120)
    await subject.tend()
    again = (await subject.put(keyed(b"2", digest=b"another digest..")))[0]
    same("a purged key can be used for another request", (again.duplicate, again.refused), (False, ""))


# --- reservations


@CHAPTER.case()
async def a_reservation_is_born_running(subject: Subject) -> None:
    wanted = reservation()
    delivery = await subject.reserve(wanted)
    same("it is delivered to who put it", (delivery.id, delivery.body, delivery.attempt), (wanted.id, b"{}", 1))
    same("as what it is", (delivery.kind, delivery.queue, delivery.generation), (Kind.CALL, QUEUE, 1))
    record = await subject.there(wanted.id)
    same("and runs", (record.state, record.fence), (State.RUNNING, delivery.fence))
    holds("since now", record.started_ms is not None)
    same("nobody else can claim it", await subject.claim(), [])


@CHAPTER.case()
async def a_message_can_be_born_running(subject: Subject) -> None:
    wanted = structs.replace(reservation(), kind=Kind.MESSAGE, dedup=None, digest=None)
    delivery = await subject.reserve(wanted)
    same("it runs here", await subject.state(wanted.id), State.RUNNING)
    await subject.lose(delivery)
    same("and again after a crash", (await subject.claim_one(holder=SECOND)).id, wanted.id)


@CHAPTER.case()
async def a_running_reservation_holds_its_key(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    again = (await subject.put(reservation(holder=SECOND)))[0]
    same("the same key meets what runs", (again.id, again.duplicate, again.state), (first.id, True, State.RUNNING))
    same("and runs nothing", again.delivery, None)


@CHAPTER.case()
async def a_settled_reservation_keeps_its_answer(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    holds("its holder settles it", await subject.settle(Settlement(first, State.SUCCEEDED, REPLY)))
    again = (await subject.put(reservation()))[0]
    same("the same key finds it ended", (again.id, again.state, again.delivery), (first.id, State.SUCCEEDED, None))
    answer = (await subject.there(again.id)).answer
    same("with its answer byte for byte", answer and (answer.status, answer.body), (REPLY.status, REPLY.body))


@CHAPTER.case()
async def a_failed_reservation_leaves_nothing(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    holds("its holder removes it", await subject.settle(Settlement(first, State.FAILED, remove=True)))
    same("nothing of it stays", await subject.state(first.id), None)
    again = await subject.reserve(reservation())
    holds("the key is free for the next, with a higher fence", again.fence > first.fence)


@CHAPTER.case()
async def a_released_reservation_leaves_nothing(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    await subject.finish(first, State.READY)
    same("a reservation is never left for workers", await subject.state(first.id), None)
    same("who could not answer its caller", await subject.claim(), [])


@CHAPTER.case()
async def a_lapsed_reservation_is_overtaken(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    subject.advance(LEASE_S + 1)
    put = (await subject.put(reservation(holder=SECOND)))[0]
    second = put.delivery
    if second is None:
        await subject.elapse(LOST_S)  # a store may wait to see that it was not itself that stalled
        second = await subject.reserve(reservation(holder=SECOND))
    holds("the next with the key runs, with a higher fence", second.fence > first.fence)
    same("and the first has lost", await subject.settle(Settlement(first, State.SUCCEEDED, REPLY)), False)
    holds("while the second can settle", await subject.settle(Settlement(second, State.SUCCEEDED, REPLY)))


@CHAPTER.case()
async def a_lost_reservation_is_removed(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    await subject.lose(first)
    same("nothing of it stays", await subject.state(first.id), None)
    same("its holder has lost", await subject.settle(Settlement(first, State.SUCCEEDED, REPLY)), False)


@CHAPTER.case()
async def reservations_are_renewed_like_messages(subject: Subject) -> None:
    first = await subject.reserve(reservation())
    for _ in range(6):
        await subject.elapse(LEASE_S / 3)
        same("one row is held", subject.store.renew(HOLDER, LEASE_S).held, 1)
    holds("what is renewed isn't lost", await subject.settle(Settlement(first, State.SUCCEEDED, REPLY)))


@CHAPTER.case()
async def fences_rise_with_every_reservation(subject: Subject) -> None:
    fences = [(await subject.reserve(reservation(b"%016d" % number))).fence for number in range(5)]
    same("fences rise", fences, sorted(set(fences)))


# --- limits


@CHAPTER.case(settings=_FULL_AT_3)
async def a_full_queue_refuses(subject: Subject) -> None:
    sent = [message(b"%d" % number) for number in range(3)]
    await subject.put(*sent)
    same("beyond its depth a queue refuses", (await subject.store.put([message(b"3")]))[0].refused, "full")
    same("but not what is known", (await subject.store.put([sent[0]]))[0].refused, "")
    same("and not for another queue", (await subject.store.put([message(b"x", OTHER)]))[0].refused, "")
    same("nothing of what was refused is there", await subject.bodies(), [b"0", b"1", b"2"])


@CHAPTER.case(settings=_FULL_AT_3)
async def a_queue_has_room_again_once_something_ended(subject: Subject) -> None:
    await subject.put_bodies(b"0", b"1", b"2")
    await subject.finish(await subject.claim_one())
    await subject.put(message(b"3"))
    same("and is full again", (await subject.store.put([message(b"4")]))[0].refused, "full")


@CHAPTER.case(settings=_FULL_AT_4_MIB)
async def a_queue_is_full_by_bytes_too(subject: Subject) -> None:
    body = b"x" * 200_000
    answers = [(await subject.store.put([message(body)]))[0].refused for _ in range(25)]
    holds("beyond its bytes a queue refuses", "full" in answers)
    accepted = answers.count("")
    holds("but takes about as much as it may", 15 <= accepted <= 21)
    same("what was refused is not there", len(await subject.claim()), accepted)


@CHAPTER.case(settings=_FULL_AT_3)
async def staged_messages_are_never_refused(subject: Subject) -> None:
    await subject.put_bodies(b"0", b"1", b"2")
    delivery = await subject.claim_one()
    staged = [message(b"staged %d" % number) for number in range(5)]
    holds("it settles", await subject.settle(Settlement(delivery, State.SUCCEEDED, staged=staged)))
    same("limits are for the edge only", len(await subject.bodies()), 7)


@CHAPTER.case(settings=_FULL_AT_3)
async def a_full_queue_takes_reservations_of_calls(subject: Subject) -> None:
    await subject.put_bodies(b"0", b"1", b"2")
    await subject.reserve(reservation())
