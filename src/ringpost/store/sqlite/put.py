"""Putting: a batch of messages into rows, known ones absorbed, events spread over their subscriptions."""

from collections.abc import Callable, Sequence

import msgspec

from ringpost.core import ids
from ringpost.core.message import Delivery, Kind, Message, State
from ringpost.store.port import Put, Refused
from ringpost.store.sqlite import line, log
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import (
    LEASE_SHIFT,
    Known,
    Pack,
    Shape,
    crc_of,
    decode_pairs,
    holder_code,
    insert_payload,
    known_by_dedup,
    known_by_id,
    seqs,
)
from ringpost.store.sqlite.turn import Turn

_NOBODY = holder_code(0)
_DEPTHS = (
    "SELECT json_group_array(json_array(ready + waiting + scheduled, bytes)) FROM"
    " (SELECT q.* FROM carray(?1) c JOIN ringpost_queue q ON q.no = c.value)"
)
_OVERTAKE = (
    "UPDATE ringpost_message SET fence = ?2, holder = ?3, lease_ms = ?4, losses = losses + 1"
    " WHERE seq = ?1 AND state = 5"
)


class Room(msgspec.Struct, frozen=True):
    """How much a store takes at its edge. What a handler staged, and what the store itself sends, is always taken."""

    depth_max: int
    depth_bytes_max: int
    disk_full: bool


class EventMismatch(Exception):
    """A part of an event was refused after another was inserted: take the turn again, and look first."""


def put_all(
    turn: Turn,
    messages: Sequence[Message],
    room: Room | None,
    claimed: Callable[[Turn, list[int]], list[Delivery]],
) -> list[Put]:
    """Put messages, one answer each. `room` None: no limits."""
    if not any(message.event for message in messages):
        return _Batch(turn, messages, room, claimed).put()
    told = log.told(turn, messages)
    rows: list[Message] = []
    spans: list[tuple[int, int]] = []
    for at, message in enumerate(messages):
        start = len(rows)
        if not message.event:
            rows.append(message)
        elif at not in told:
            rows += [_for_subscription(message, queue) for queue in turn.look().subscribers(message.event)]
        spans.append((start, len(rows)))
    batch = _Batch(turn, rows, room, claimed)
    batch.events = [span for span, message in zip(spans, messages, strict=True) if message.event]
    if turn.careful:
        batch.look_first()
    answers = batch.put() if rows else []
    no_room = room is not None and room.disk_full
    puts = [
        _of_event(turn, message, told.get(at), answers[start:end], no_room) if message.event else answers[start]
        for at, (message, (start, end)) in enumerate(zip(messages, spans, strict=True))
    ]
    _note_new(turn, [one for one, put in zip(messages, puts, strict=True) if one.event and _is_new(put)])
    return puts


def _for_subscription(event: Message, queue: str) -> Message:
    """Make of an event the message for one subscription: identity, line and key are the subscription's own."""
    name = queue.encode()
    return Message(
        id=ids.delivery(event.id, queue),
        queue=queue,
        body=event.body,
        headers=event.headers,
        priority=event.priority,
        delay_s=event.delay_s,
        due_ms=event.due_ms,
        ttl_s=event.ttl_s,
        line=None if event.line is None else ids.derived(event.line, name),
        dedup=None if event.dedup is None else ids.derived(event.dedup, name),
        digest=event.digest,
        keep_s=event.keep_s,
        caller=event.caller,
    )


def _is_new(put: Put) -> bool:
    return not put.duplicate and not put.refused


def _note_new(turn: Turn, events: Sequence[Message]) -> None:
    """Keep events that came for the first time, and count them for who misses them."""
    places = log.keep(turn, [event for event in events if event.log_s])
    for event in events:
        for queue in turn.look().suspended(event.event):
            turn.miss(event.event, queue, places.get(event.id, 0))


def _of_event(turn: Turn, event: Message, told: Put | None, parts: list[Put], no_room: bool) -> Put:
    """Answer for an event by what the log knows of it, or what became of its deliveries."""
    behind = len(turn.look().behind(event.event))
    if told is not None:
        told.receivers = len(turn.look().subscribers(event.event)) + behind
        return told
    if event.log_s and no_room and not parts:
        return Put(event.id, receivers=behind, refused="disk")
    refusals: list[Refused] = [part.refused for part in parts if part.refused]
    if refusals and not turn.careful and not all(part.refused or part.duplicate for part in parts):
        raise EventMismatch
    known = bool(parts) and all(part.duplicate for part in parts)
    return Put(
        event.id,
        duplicate=known and not refusals,
        receivers=len(parts) + behind,
        refused=refusals[0] if refusals else "",
    )


class _Batch:
    """One batch on its way in. Answers are filled in step by step: what has none yet is still to be inserted."""

    def __init__(
        self,
        turn: Turn,
        rows: Sequence[Message],
        room: Room | None,
        claimed: Callable[[Turn, list[int]], list[Delivery]],
    ) -> None:
        self._turn = turn
        self._rows = rows
        self._room = room
        self._claimed = claimed
        self.events: list[tuple[int, int]] = []  # stretches of rows that are stored all or none
        self._answers: list[Put | None] = [None] * len(rows)
        self._queues = {name: turn.queues.make(name) for name in {row.queue for row in rows}}
        self._reserving = any(row.reserve is not None for row in rows)

    def put(self) -> list[Put]:
        if any(row.dedup is not None for row in self._rows):
            self._absorb_keyed()
        if self._room is not None:
            self._refuse_beyond(self._room)
        self._insert()
        return [answer for answer in self._answers if answer is not None]

    def _open(self) -> list[int]:
        return [at for at, answer in enumerate(self._answers) if answer is None]

    # --- what is known already

    def look_first(self) -> None:
        """Refuse an event whole if one of its deliveries is there with other content."""
        every = [at for start, end in self.events for at in range(start, end)]
        known = known_by_id(self._turn.db, [self._rows[at].id for at in every]) if every else {}
        for start, end in self.events:
            told = [self._known(at, known[row.id]) for at in range(start, end) if (row := self._rows[at]).id in known]
            if any(put.refused for put in told):
                for at in range(start, end):
                    self._answers[at] = Put(self._rows[at].id, refused="mismatch")

    def _known(self, at: int, known: Known) -> Put:
        """Answer for a message whose id is there."""
        row = self._rows[at]
        crc = crc_of(self._queues[row.queue].seed, row.id, row.headers, row.body)
        same = crc == bytes.fromhex(known.crc)
        return Put(row.id, duplicate=True, state=State(known.state), refused="" if same else "mismatch")

    def _absorb_keyed(self) -> None:
        keyed = {at: row.dedup for at in self._open() if (row := self._rows[at]).dedup is not None}
        found = known_by_dedup(self._turn.db, list(keyed.values())) if keyed else {}
        for at, dedup in keyed.items():
            known = found.get(dedup)
            if known is not None:
                self._answers[at] = self._known_key(at, known)

    def _known_key(self, at: int, known: Known) -> Put:
        row, id, state = self._rows[at], bytes.fromhex(known.id), State(known.state)
        if bytes.fromhex(known.digest) != (row.digest or bytes(16)):
            return Put(id, duplicate=True, state=state, refused="key_reused")
        lapsed = state is State.RUNNING and known.lease_ms < self._turn.uptime_ms + LEASE_SHIFT
        if known.kind == Kind.CALL and lapsed and row.reserve is not None:
            return Put(id, duplicate=True, state=state, delivery=self._overtake(row, known))
        return Put(id, duplicate=True, state=state)

    def _overtake(self, row: Message, known: Known) -> Delivery:
        """Take the reservation of a holder that is gone."""
        turn = self._turn
        assert row.reserve is not None
        lease_ms = turn.uptime_ms + round(row.reserve.lease_s * 1000) + LEASE_SHIFT
        turn.db.execute(_OVERTAKE, (known.seq, turn.next_fence(), holder_code(row.reserve.holder), lease_ms))
        known.lease_ms = lease_ms
        return self._claimed(turn, [known.seq])[0]

    # --- limits

    def _refuse_beyond(self, room: Room) -> None:
        rows = [at for at in self._open() if self._rows[at].kind is Kind.MESSAGE]
        if not rows:
            return
        if room.disk_full:
            self._refuse(rows, "disk")
            return
        names = list(dict.fromkeys(self._rows[at].queue for at in rows))
        numbers = seqs([self._queues[name].no for name in names])
        depths = decode_pairs(first(self._turn.db, _DEPTHS, (numbers,)))
        for name, (depth, size) in zip(names, depths, strict=True):
            if depth + len(rows) >= room.depth_max or size >= room.depth_bytes_max - (1 << 20):
                self._refuse(self._beyond(name, rows, room.depth_max - depth, room.depth_bytes_max - size), "full")
        self._refuse_broken_events()

    def _beyond(self, name: str, rows: list[int], count: int, size: int) -> list[int]:
        """Give the positions that no longer fit into the queue."""
        beyond: list[int] = []
        for at in rows:
            row = self._rows[at]
            if row.queue == name:
                count -= 1
                size -= len(row.headers) + len(row.body)
                if count < 0 or size < 0:
                    beyond.append(at)
        return beyond

    def _refuse(self, rows: list[int], why: str) -> None:
        """Refuse what isn't known; what is known is there and needs no room."""
        known = known_by_id(self._turn.db, [self._rows[at].id for at in rows]) if rows else {}
        for at in rows:
            row = self._rows[at]
            there = known.get(row.id)
            refusal = Put(row.id, refused="disk" if why == "disk" else "full")
            self._answers[at] = refusal if there is None else self._known(at, there)

    def _refuse_broken_events(self) -> None:
        """Refuse the rest of an event of which a part found no room."""
        for start, end in self.events:
            answers = self._answers[start:end]
            if any(answer is not None and answer.refused for answer in answers):
                self._refuse([at for at in range(start, end) if self._answers[at] is None], "full")

    # --- inserting

    def _insert(self) -> None:
        turn = self._turn
        lines = {row.line for at in self._open() if (row := self._rows[at]).line is not None}
        before = max(turn.seq, turn.base()) if lines or self._reserving else 0
        repair = False
        for pack in self._packed(lines):
            turn.keeps.add(pack.shape.keep_s)
            inserted = pack.insert(turn.db, turn.now_ms)
            if inserted == len(pack.rows):
                turn.seq = turn.db.last_insert_rowid()
                self._all_new(pack)
            else:
                self._sort_out(pack)
                repair = True
        if lines:
            line.join_new(turn, before)
        if lines and repair:  # the one that was to be a head may have been known already
            line.wake(turn, lines)
        if self._reserving:
            self._deliver_reserved(before)

    def _packed(self, lines: set[bytes]) -> list[Pack]:
        """Sort the open messages into packs of one shape. Where lines are, a pack ends when the shape changes, so that
        the order of the batch is the order of the rows."""
        turn = self._turn
        occupied = line.taken(turn, lines) if lines else set[bytes]()
        packs: list[Pack] = []
        current: dict[Shape, Pack] = {}
        fence = turn.next_fence() if self._reserving else turn.fence
        pack: Pack | None = None
        terms: tuple[object, ...] = ()
        for at in self._open():
            row = self._rows[at]
            before, terms = terms, _terms(row)
            if pack is None or terms != before or pack.full:  # mostly they are all alike: compare before making a shape
                queue = self._queues[row.queue]
                shape = _shape(turn, row, queue.no, fence)
                pack = current.get(shape)
                if pack is None or pack.full:
                    if lines:
                        current.clear()
                    pack = current[shape] = Pack(shape, queue.seed)
                    packs.append(pack)
            first = False
            if row.line is not None and pack.shape.state is not State.SCHEDULED:
                first = row.line not in occupied
                occupied.add(row.line)
            pack.add(at, row, first)
        return packs

    def _all_new(self, pack: Pack) -> None:
        for at in pack.rows:
            self._answers[at] = Put(self._rows[at].id)
        waiting = len(pack.rows) - pack.firsts if pack.shape.lined and pack.shape.state is State.READY else 0
        self._count(pack, len(pack.rows), waiting, pack.bytes)

    def _count(self, pack: Pack, rows: int, waiting: int, size: int) -> None:
        if pack.shape.kind is Kind.CALL:
            return
        tally = self._turn.tally(pack.shape.queue)
        tally.puts += rows
        tally.bytes += size
        tally.count(State.WAITING, waiting)
        tally.count(pack.shape.state, rows - waiting)
        if pack.shape.state is State.READY and rows > waiting:
            self._turn.rang.add(pack.shape.queue)

    def _sort_out(self, pack: Pack) -> None:
        """Find which of a pack were new, and answer for the others. The new ones have no payload yet."""
        known = known_by_id(self._turn.db, [self._rows[at].id for at in pack.rows])
        for at in pack.rows:
            row = self._rows[at]
            there = known.get(row.id)
            if there is None:  # only its key was known: another of this batch has it
                self._absorb_keyed()
            elif not there.whole:
                insert_payload(self._turn.db, there.seq, row)
                self._turn.seq = max(self._turn.seq, there.seq)
                there.whole = True  # the first with this id is the one that went in
                self._answers[at] = Put(row.id)
                self._count(pack, 1, there.state == State.WAITING, len(row.headers) + len(row.body))
            else:
                self._answers[at] = self._known(at, there)

    def _deliver_reserved(self, before: int) -> None:
        """Hand over what was born running here."""
        reserved = [
            (at, answer)
            for at, answer in enumerate(self._answers)
            if self._rows[at].reserve is not None and answer is not None and not answer.duplicate and not answer.refused
        ]
        if not reserved:
            return
        known = known_by_id(self._turn.db, [self._rows[at].id for at, _ in reserved])
        for at, answer in reserved:
            row = self._rows[at]
            there = known[row.id]
            if answer.delivery is None and there.seq > before:
                answer.delivery = _born(self._turn, row, there)


def _terms(row: Message) -> tuple[object, ...]:
    """Give all of a message that its shape is made of."""
    return (
        row.queue,
        row.kind,
        row.priority,
        row.delay_s,
        row.due_ms,
        row.ttl_s,
        row.keep_s,
        row.caller,
        row.reserve,
        row.line is None,
        row.dedup is None,
    )


def _shape(turn: Turn, row: Message, queue: int, fence: int) -> Shape:
    now_ms = turn.now_ms
    due_ms = row.due_ms if row.due_ms is not None else now_ms + round(row.delay_s * 1000)
    state, holder, lease_ms = State.READY, _NOBODY, now_ms
    if row.reserve is not None:
        state, holder = State.RUNNING, holder_code(row.reserve.holder)
        lease_ms = turn.uptime_ms + round(row.reserve.lease_s * 1000) + LEASE_SHIFT
    elif due_ms > now_ms:
        state = State.SCHEDULED
    return Shape(
        queue=queue,
        kind=row.kind,
        state=state,
        priority=row.priority,
        due_ms=max(due_ms, now_ms),
        keep_s=row.keep_s,
        expires_ms=None if row.ttl_s is None else now_ms + round(row.ttl_s * 1000),
        caller=row.caller,
        fence=fence,
        holder=holder,
        lease_ms=lease_ms,
        lined=row.line is not None,
        keyed=row.dedup is not None,
    )


def _born(turn: Turn, row: Message, there: Known) -> Delivery:
    return Delivery(
        ref=there.seq,
        id=row.id,
        queue=row.queue,
        fence=there.fence,
        attempt=1,
        losses=0,
        generation=1,
        created_ms=turn.now_ms,
        headers=row.headers,
        body=row.body,
        line=row.line,
        expires_ms=None if row.ttl_s is None else turn.now_ms + round(row.ttl_s * 1000),
        kind=row.kind,
        keep_s=row.keep_s,
    )
