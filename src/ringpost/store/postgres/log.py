"""The logs of events in PostgreSQL: one table for all, written with the publish.

A place in it is given when an event is written, and may be committed long after later ones: who reads on from where it
was would pass over it. So whoever publishes holds the log of that event open until its commit, together with all
others; who reads its end closes it for a moment. While it is closed nobody is about to commit: all that is there, and
all of that for ever, is what has a place up to the last one.
"""

from collections.abc import Mapping, Sequence
from zlib import crc32

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.core import ids
from ringpost.core.message import Message
from ringpost.store.log import Entry
from ringpost.store.port import CATCH_UP_BYTES_MAX, Put
from ringpost.store.postgres.db import Again, Db
from ringpost.store.postgres.turn import Turn, columns

CLOSING_MS = 100  # so long those who come to publish may have to wait for one who reads the end

_OPEN = """
SELECT current_setting('transaction_isolation'), pg_advisory_xact_lock_shared(key) FROM unnest($1::bigint[]) AS key
"""
_CLOSE = "SELECT pg_advisory_xact_lock($1)"
_KNOWN = "SELECT id, crc FROM ringpost.log WHERE id = ANY($1::bytea[])"
_INSERT = """
WITH t AS MATERIALIZED (SELECT ringpost.now_ms() AS ms)
INSERT INTO ringpost.log (event, until_ms, keep_s, due_ms, expires_ms, caller, receivers, crc, id, line, headers, body)
SELECT event, t.ms + log_ms, keep_s, coalesce(due_ms, t.ms + delay_ms), t.ms + ttl_ms, caller, receivers::int[], crc,
  id, line, headers, body
FROM t, unnest($1::text[], $2::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
  $9::bigint[], $10::bytea[], $11::bytea[], $12::bytea[], $13::bytea[]) WITH ORDINALITY
  AS g(event, log_ms, keep_s, due_ms, delay_ms, ttl_ms, caller, receivers, crc, id, line, headers, body, place)
ORDER BY place ON CONFLICT DO NOTHING RETURNING id, pos
"""
# What it got already comes without its bytes. Bounded by bytes as well, but for the first.
_STEP = f"""
SELECT pos, got, keep_s, due_ms, expires_ms, caller, crc, id, line, CASE WHEN NOT got THEN headers END,
  CASE WHEN NOT got THEN body END
FROM (
  SELECT *, $3::int = ANY(receivers) AS got, sum(octet_length(headers) + octet_length(body)) OVER (ORDER BY pos)
    - octet_length(headers) - octet_length(body) AS before
  FROM (SELECT * FROM ringpost.log WHERE event = $1 AND pos > $2 AND pos <= $4 ORDER BY pos LIMIT $5) next
) counted WHERE before < {CATCH_UP_BYTES_MAX} ORDER BY pos
"""
_END = "SELECT coalesce(max(pos), 0) FROM ringpost.log WHERE event = $1"
_ANY = "SELECT EXISTS (SELECT 1 FROM ringpost.log WHERE event = $1)"
_PURGE = """
DELETE FROM ringpost.log WHERE pos = ANY(ARRAY(SELECT pos FROM ringpost.log WHERE until_ms < ringpost.now_ms()
  ORDER BY until_ms LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING pos
"""


class Stretch(Struct):
    """What a step reads. `entries`: what is to be given. `damaged`: ids of those whose bytes have changed."""

    read_at: int
    entries: list[Entry]
    damaged: list[bytes]


async def told(turn: Turn, messages: Sequence[Message]) -> dict[int, Put]:
    """Hold the logs of a batch's events open, and answer, by their places, for those that are known there or come
    twice. Who subscribes is to be read after this."""
    logged = [(at, message) for at, message in enumerate(messages) if message.event and message.log_s]
    if not logged:
        return {}
    await hold_open(turn, {message.event for _, message in logged})
    known: dict[bytes, int] = dict(
        [(row[0], row[1]) for row in await turn.db.fetch(_KNOWN, [message.id for _, message in logged])]
    )
    answers: dict[int, Put] = {}
    for at, message in logged:
        crc = crc_of(message.event, message.id, message.headers, message.body)
        if message.id not in known:
            known[message.id] = crc
            continue
        same = known[message.id] == crc
        answers[at] = Put(message.id, duplicate=same, refused="" if same else "mismatch")
    return answers


async def hold_open(turn: Turn, events: set[str]) -> None:
    """Let nobody close these logs until the commit."""
    for isolation, _ in await turn.db.fetch(_OPEN, sorted(_key(event) for event in events)):
        if isolation != "read committed":
            raise UsageError(
                f"{', '.join(sorted(events))} keeps a log, and this transaction is {isolation}: it may not see who has "
                "begun to read that log, who would miss the event then. Publish in a transaction that is READ "
                "COMMITTED, or with client.publish after the commit"
            )


async def close(turn: Turn, event: str) -> None:
    """Wait a moment until nobody is publishing, and let nobody until the commit. Raises the driver's error for a lock
    that isn't free."""
    await turn.db.execute(f"SET LOCAL lock_timeout = {CLOSING_MS}")
    await turn.db.fetch(_CLOSE, _key(event))
    await turn.db.execute("SET LOCAL lock_timeout TO DEFAULT")


async def keep(turn: Turn, events: Sequence[Message], receivers: Mapping[str, Sequence[str]]) -> dict[bytes, int]:
    """Keep events that the log doesn't have; gives their places by id. `receivers`: by event, the queues that got a
    delivery."""
    if not events:
        return {}
    rows = [
        (
            event.event,
            event.log_s * 1000,
            event.keep_s,
            event.due_ms,
            round(event.delay_s * 1000) if event.delay_s else None,
            None if event.ttl_s is None else round(event.ttl_s * 1000),
            event.caller,
            "{" + ",".join(str(turn.queues.by_name[queue].no) for queue in receivers[event.event]) + "}",
            crc_of(event.event, event.id, event.headers, event.body),
            event.id,
            event.line,
            event.headers,
            event.body,
        )
        for event in events
    ]
    places: dict[bytes, int] = dict([(row[0], row[1]) for row in await turn.db.fetch(_INSERT, *columns(rows))])
    if len(places) < len(events):
        raise Again  # another has published it at this very moment
    return places


async def stretch(turn: Turn, event: str, queue: int, after: int, until: int, limit: int) -> Stretch:
    """Read what comes next of an event, for a subscription, by its queue's number."""
    found = Stretch(after, [], [])
    for row in await turn.db.fetch(_STEP, event, after, queue, until, limit):
        pos, got, keep_s, due_ms, expires_ms, caller, crc, id, line, headers, body = row
        found.read_at = pos
        if got:
            continue
        if crc != crc_of(event, id, headers, body):
            found.damaged.append(id)
            continue
        found.entries.append(Entry(pos, id, keep_s, due_ms, expires_ms, line, caller, headers, body))
    return found


async def end(turn: Turn, event: str) -> int:
    """Give the last place of an event that is there; only while its log is closed is nothing before it to come."""
    return int((await turn.db.fetch(_END, event))[0][0])


async def has_any(db: Db, event: str) -> bool:
    """Say whether anything of an event is kept."""
    return bool((await db.fetch(_ANY, event))[0][0])


async def purge(turn: Turn, limit: int) -> int:
    """Remove what has been kept long enough; gives how many."""
    return len(await turn.db.fetch(_PURGE, limit))


def _key(event: str) -> int:
    """Give the key of an event's lock, as PostgreSQL's bigint has it."""
    return int.from_bytes(ids.hash128("log", event)[:8], "big", signed=True)


def crc_of(event: str, id: bytes, headers: bytes, body: bytes) -> int:
    """Give the checksum over what never changes: event, id, headers, body."""
    return crc32(body, crc32(headers, crc32(id, crc32(event.encode()))))
