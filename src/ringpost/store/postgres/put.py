"""Putting: a batch of messages into rows, known ones absorbed, events spread over their subscriptions."""

from collections.abc import Mapping, Sequence
from zlib import crc32

import msgspec

from ringpost.core import ids
from ringpost.core.message import Delivery, Kind, Message, State
from ringpost.core.notes import Subscription
from ringpost.store.port import Put, Refused
from ringpost.store.postgres import line, log
from ringpost.store.postgres.db import Again
from ringpost.store.postgres.turn import Queues, Turn, columns

# Arrays of one row a message. `born`: the state; a ready one of a taken line waits.
_INSERT = """
WITH t AS MATERIALIZED (SELECT ringpost.now_ms() AS ms),
given AS MATERIALIZED (
  SELECT * FROM unnest($1::bytea[], $2::int[], $3::smallint[], $4::smallint[], $5::smallint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::int[], $10::bytea[], $11::bytea[], $12::bytea[], $13::text[], $14::bigint[],
    $15::bytea[], $16::bytea[], $17::bigint[], $18::bigint[]) WITH ORDINALITY
  AS g(id, queue, kind, born, priority, delay_ms, due_ms, ttl_ms, keep_s, line, dedup, digest, caller, crc, headers,
    body, holder, lease_ms, place)
),
kept AS (
  INSERT INTO ringpost.letter (id, dedup, digest, caller, crc, headers, body)
  SELECT id, dedup, digest, caller, crc, headers, body FROM given ORDER BY place
  ON CONFLICT DO NOTHING RETURNING seq, id
),
put AS (
  INSERT INTO ringpost.message (seq, queue, kind, state, priority, due_ms, created_ms, expires_ms, keep_s, keyed, line,
    size, fence, holder, lease_ms, started_ms)
  SELECT k.seq, g.queue, g.kind,
    CASE WHEN g.born = 4 AND coalesce(g.due_ms, t.ms + g.delay_ms) > t.ms THEN 2 ELSE g.born END,
    g.priority, greatest(coalesce(g.due_ms, t.ms + g.delay_ms), t.ms), t.ms, t.ms + g.ttl_ms, g.keep_s,
    g.dedup IS NOT NULL, g.line, octet_length(g.headers) + octet_length(g.body),
    CASE WHEN g.born = 5 THEN nextval('ringpost.fence') ELSE 0 END, g.holder, t.ms + g.lease_ms,
    CASE WHEN g.born = 5 THEN t.ms END
  FROM t, kept k JOIN given g ON g.id = k.id
  RETURNING seq, queue, kind, state, size, line, fence, created_ms, expires_ms
),
lined AS (
  INSERT INTO ringpost.line (line, place, seq)
  SELECT line, CASE WHEN state = 3 THEN 3 ELSE 2 END, seq FROM put WHERE line IS NOT NULL AND state > 2
),
tallied AS (
  INSERT INTO ringpost.tally SELECT queue, count(*), 0, count(*), sum(size), 0 FROM put WHERE kind = 2 GROUP BY queue
)
SELECT k.id, p.seq, p.state, p.fence, p.created_ms, p.expires_ms FROM kept k JOIN put p ON p.seq = k.seq
"""
_KNOWN = (
    "SELECT l.id, l.dedup, l.digest, l.crc, m.seq, m.state, m.kind, m.lease_ms < ringpost.now_ms(), m.holder, m.fence,"
    " m.attempts, m.losses, m.generation, m.created_ms, m.expires_ms, m.line, m.keep_s, m.cancel_ms IS NOT NULL"
    " FROM ringpost.letter l JOIN ringpost.message m ON m.seq = l.seq WHERE l.{column} = ANY($1::bytea[])"
)
_KNOWN_IDS, _KNOWN_DEDUPS = _KNOWN.format(column="id"), _KNOWN.format(column="dedup")
_OVERTAKE = (
    "UPDATE ringpost.message SET fence = nextval('ringpost.fence'), holder = $2, lease_ms = ringpost.now_ms() + $3,"
    " losses = losses + 1 WHERE seq = $1 AND state = 5 AND lease_ms < ringpost.now_ms() RETURNING fence"
)
_ROUNDS = 3


class Room(msgspec.Struct):
    """How much the store takes at its edge. What a handler staged, and what the store itself sends, is always taken.

    `depths`: rows and bytes that live in each queue, by its number, as far as is known here.
    """

    depth_max: int
    depth_bytes_max: int
    depths: Mapping[int, tuple[int, int]]


class Known(msgspec.Struct, gc=False):
    """What a put has to know of a row that is there already."""

    id: bytes
    dedup: bytes | None
    digest: bytes | None
    crc: int
    seq: int
    state: int
    kind: int
    lapsed: bool
    holder: int
    fence: int
    attempts: int
    losses: int
    generation: int
    created_ms: int
    expires_ms: int | None
    line: bytes | None
    keep_s: int
    cancel_asked: bool


def crc_of(queues: Queues, row: Message) -> int:
    """Give the checksum over the immutable envelope: queue's name, id, headers, body."""
    return crc32(row.body, crc32(row.headers, crc32(row.id, queues.by_name[row.queue].seed)))


async def put_all(turn: Turn, messages: Sequence[Message], room: Room | None) -> list[Put]:
    """Put messages, one answer each. `room` None: no limits."""
    events = {message.event for message in messages if message.event}
    if not events:
        return await _Batch(turn, messages, room).put()
    told = await log.told(turn, messages)
    subscribed = await turn.subscriptions(events)
    rows: list[Message] = []
    spans: list[tuple[int, int]] = []
    for at, message in enumerate(messages):
        start = len(rows)
        if not message.event:
            rows.append(message)
        elif at not in told:
            rows += [_for_subscription(message, queue) for queue, one in subscribed[message.event].items() if one.live]
        spans.append((start, len(rows)))
    await turn.queues.make(turn.db, [row.queue for row in rows])
    batch = _Batch(turn, rows, room)
    batch.events = [span for span, message in zip(spans, messages, strict=True) if message.event]
    await batch.look_first()
    answers = await batch.put() if rows else []
    puts = [
        _of_event(message, told.get(at), answers[start:end]) if message.event else answers[start]
        for at, (message, (start, end)) in enumerate(zip(messages, spans, strict=True))
    ]
    new = [one for one, put in zip(messages, puts, strict=True) if one.event and not put.duplicate and not put.refused]
    await _note_new(turn, new, subscribed)
    for message, put in zip(messages, puts, strict=True):
        if message.event:
            put.receivers = sum(not one.suspended for one in subscribed[message.event].values())
    return puts


async def _note_new(
    turn: Turn, events: Sequence[Message], subscribed: Mapping[str, Mapping[str, Subscription]]
) -> None:
    """Keep events that came for the first time, and count them for who misses them."""
    live = {event: [queue for queue, one in found.items() if one.live] for event, found in subscribed.items()}
    places = await log.keep(turn, [event for event in events if event.log_s], live)
    for event in events:
        for queue, one in subscribed[event.event].items():
            if one.misses:
                turn.miss(event.event, queue, places.get(event.id, 0))


def _for_subscription(event: Message, queue: str) -> Message:
    """Make of an event the message for one subscription: identity, line and key are the subscription's own."""
    name = queue.encode()
    return msgspec.structs.replace(
        event,
        id=ids.delivery(event.id, queue),
        queue=queue,
        event="",
        line=None if event.line is None else ids.derived(event.line, name),
        dedup=None if event.dedup is None else ids.derived(event.dedup, name),
    )


def _of_event(event: Message, told: Put | None, parts: list[Put]) -> Put:
    """Answer for an event by what the log knows of it, or what became of its deliveries."""
    if told is not None:
        return told
    refusals: list[Refused] = [part.refused for part in parts if part.refused]
    if refusals and not all(part.refused or part.duplicate for part in parts):
        raise Again
    known = bool(parts) and all(part.duplicate for part in parts)
    refused: Refused = refusals[0] if refusals else ""
    return Put(event.id, duplicate=known and not refused, refused=refused)


class _Batch:
    """One batch on its way in. Answers are filled in step by step: what has none yet is still to be inserted."""

    def __init__(self, turn: Turn, rows: Sequence[Message], room: Room | None) -> None:
        self._turn = turn
        self._rows = rows
        self._room = room
        self.events: list[tuple[int, int]] = []  # stretches of rows that are stored all or none
        self._answers: list[Put | None] = [None] * len(rows)

    async def put(self) -> list[Put]:
        if any(row.dedup is not None for row in self._rows):
            await self._absorb_keyed()
        if self._room is not None:
            await self._refuse_beyond(self._room)
        for _ in range(_ROUNDS):
            rows = self._open()
            if not rows:
                return [answer for answer in self._answers if answer is not None]
            await self._insert(rows)
            if self._open():
                await self._sort_out()
        raise Again  # it was there and gone again, several times over

    def _open(self) -> list[int]:
        return [at for at, answer in enumerate(self._answers) if answer is None]

    # --- what is known already

    async def look_first(self) -> None:
        """Refuse an event whole if one of its deliveries is there with other content."""
        every = [at for start, end in self.events for at in range(start, end)]
        known = await self._known_ids(every)
        for start, end in self.events:
            told = [self._known(at, known[row.id]) for at in range(start, end) if (row := self._rows[at]).id in known]
            if any(put.refused for put in told):
                for at in range(start, end):
                    self._answers[at] = Put(self._rows[at].id, refused="mismatch")

    async def _known_ids(self, rows: Sequence[int]) -> dict[bytes, Known]:
        if not rows:
            return {}
        found = [Known(*row) for row in await self._turn.db.fetch(_KNOWN_IDS, [self._rows[at].id for at in rows])]
        return {known.id: known for known in found}

    def _known(self, at: int, known: Known) -> Put:
        """Answer for a message whose id is there."""
        row = self._rows[at]
        if crc_of(self._turn.queues, row) != known.crc:
            return Put(row.id, duplicate=True, state=State(known.state), refused="mismatch")
        reserve = row.reserve if self._turn.again and known.state == State.RUNNING else None
        if reserve is not None and signed(reserve.holder) == known.holder:  # an earlier try was committed after all
            return Put(row.id, delivery=_delivery(row, known))
        return Put(row.id, duplicate=True, state=State(known.state))

    async def _absorb_keyed(self) -> None:
        keyed = {at: row.dedup for at in self._open() if (row := self._rows[at]).dedup is not None}
        if not keyed:
            return
        found = [Known(*row) for row in await self._turn.db.fetch(_KNOWN_DEDUPS, list(set(keyed.values())))]
        known = {one.dedup: one for one in found}
        for at, dedup in keyed.items():
            if dedup in known:
                self._answers[at] = await self._known_key(at, known[dedup])

    async def _known_key(self, at: int, known: Known) -> Put:
        row, state = self._rows[at], State(known.state)
        if known.id == row.id:
            return self._known(at, known)
        if (known.digest or b"") != (row.digest or b""):
            return Put(known.id, duplicate=True, state=state, refused="key_reused")
        lapsed = known.kind == Kind.CALL and state is State.RUNNING and known.lapsed
        delivery = await self._overtake(row, known) if lapsed and row.reserve is not None else None
        return Put(known.id, duplicate=True, state=state, delivery=delivery)

    async def _overtake(self, row: Message, known: Known) -> Delivery | None:
        """Take the reservation of a holder that is gone."""
        assert row.reserve is not None
        reserve = row.reserve
        lease_ms = round(reserve.lease_s * 1000)
        fences = await self._turn.db.fetch(_OVERTAKE, known.seq, signed(reserve.holder), lease_ms)
        if not fences:
            return None
        known.fence, known.lapsed = fences[0][0], False
        known.losses += 1
        body = await self._turn.db.fetch("SELECT headers, body FROM ringpost.letter WHERE seq = $1", known.seq)
        stored = msgspec.structs.replace(row, id=known.id, headers=body[0][0], body=body[0][1])
        return _delivery(stored, known)

    # --- limits

    async def _refuse_beyond(self, room: Room) -> None:
        beyond: list[int] = []
        counts: dict[str, tuple[int, int]] = {}
        for at in self._open():
            row = self._rows[at]
            if row.kind is not Kind.MESSAGE:
                continue
            known = counts.get(row.queue)
            count, size = known or room.depths.get(self._turn.queues.by_name[row.queue].no, (0, 0))
            count, size = count + 1, size + len(row.headers) + len(row.body)
            if count > room.depth_max or size > room.depth_bytes_max:
                beyond.append(at)
            else:
                counts[row.queue] = (count, size)
        if beyond:
            await self._refuse(beyond)

    async def _refuse(self, rows: list[int]) -> None:
        """Refuse what isn't known; what is known is there and needs no room."""
        known = await self._known_ids(rows)
        for at in rows:
            id = self._rows[at].id
            self._answers[at] = self._known(at, known[id]) if id in known else Put(id, refused="full")
        for start, end in self.events:
            parts = [self._answers[at] for at in range(start, end)]
            if any(part is not None and part.refused for part in parts):
                for at in range(start, end):
                    if self._answers[at] is None:
                        self._answers[at] = Put(self._rows[at].id, refused="full")

    # --- inserting

    async def _insert(self, rows: list[int]) -> None:
        """Insert what has no answer yet, the first of each id and key."""
        leaders: dict[bytes, int] = {}
        keys: set[bytes] = set()
        for at in rows:
            row = self._rows[at]
            if row.id not in leaders and (row.dedup is None or row.dedup not in keys):
                leaders[row.id] = at
                if row.dedup is not None:
                    keys.add(row.dedup)
        states = await self._states([self._rows[at] for at in leaders.values()])
        given = [self._values(self._rows[at], state) for at, state in zip(leaders.values(), states, strict=True)]
        for id, seq, state, fence, created_ms, expires_ms in await self._turn.db.fetch(_INSERT, *columns(given)):
            at = leaders[id]
            row = self._rows[at]
            put = self._answers[at] = Put(id)
            if row.reserve is not None:
                put.delivery = _born(row, seq, fence, created_ms, expires_ms)
            elif state == State.READY:
                self._turn.rang.add(row.queue)

    async def _states(self, rows: list[Message]) -> list[State]:
        """Say as what rows are born; of those without a line the server says itself whether they are due."""
        states = [State.READY if row.reserve is None else State.RUNNING for row in rows]
        lines = {row.line for row in rows if row.line is not None}
        if not lines:
            return states
        await self._turn.lock(lines)
        occupied = await line.taken(self._turn, lines)
        now_ms: int = (await self._turn.db.fetch("SELECT ringpost.now_ms()"))[0][0]
        for at, row in enumerate(rows):
            if row.line is None:
                continue
            if states[at] is State.READY and (now_ms + 1 if row.delay_s > 0 else row.due_ms or 0) > now_ms:
                states[at] = State.SCHEDULED
                continue
            if states[at] is State.READY and row.line in occupied:
                states[at] = State.WAITING
            occupied.add(row.line)
        return states

    def _values(self, row: Message, state: State) -> tuple[object, ...]:
        reserve = row.reserve
        return (
            row.id,
            self._turn.queues.by_name[row.queue].no,
            row.kind,
            state,
            row.priority,
            round(row.delay_s * 1000),
            row.due_ms,
            None if row.ttl_s is None else round(row.ttl_s * 1000),
            row.keep_s,
            row.line,
            row.dedup,
            row.digest,
            row.caller,
            crc_of(self._turn.queues, row),
            row.headers,
            row.body,
            0 if reserve is None else signed(reserve.holder),
            0 if reserve is None else round(reserve.lease_s * 1000),
        )

    async def _sort_out(self) -> None:
        """Answer for those that were there already, or are in this batch twice."""
        known = await self._known_ids(self._open())
        for at in self._open():
            there = known.get(self._rows[at].id)
            if there is not None:
                self._answers[at] = self._known(at, there)
        await self._absorb_keyed()


def signed(number: int) -> int:
    """Give 64 bits as PostgreSQL's bigint has them."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >= 1 << 63 else number


def _born(row: Message, seq: int, fence: int, created_ms: int, expires_ms: int | None) -> Delivery:
    return Delivery(
        ref=seq,
        id=row.id,
        queue=row.queue,
        fence=fence,
        attempt=1,
        losses=0,
        generation=1,
        created_ms=created_ms,
        headers=row.headers,
        body=row.body,
        line=row.line,
        expires_ms=expires_ms,
        kind=row.kind,
        keep_s=row.keep_s,
    )


def _delivery(row: Message, known: Known) -> Delivery:
    """Give the delivery of a row that runs under a reservation."""
    return Delivery(
        ref=known.seq,
        id=row.id,
        queue=row.queue,
        fence=known.fence,
        attempt=known.attempts + 1,
        losses=known.losses,
        generation=known.generation,
        created_ms=known.created_ms,
        headers=row.headers,
        body=row.body,
        line=known.line,
        expires_ms=known.expires_ms,
        kind=Kind(known.kind),
        keep_s=known.keep_s,
        cancel_asked=known.cancel_asked,
    )
