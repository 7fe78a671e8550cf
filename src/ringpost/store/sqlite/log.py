"""The logs of events in the file: one table for all, written with the publish, each batch in a fixed number of steps.

A place in it is given by the one writer in its commit, so what comes after a place is committed after it: who reads on
from where it was passes over nothing.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ringpost.core.message import Message
from ringpost.store import log
from ringpost.store.log import Entry
from ringpost.store.port import CATCH_UP_BYTES_MAX, Put
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import blobs, crc_of, crc_seed
from ringpost.store.sqlite.turn import Turn

_CRC, _ID, _LINE = 4, 16, 16

# One blob holds the bytes of all rows, one after the other: crc, id, line or nothing, headers, body.
_INSERT = """
INSERT INTO ringpost_log(event, at_ms, until_ms, keep_s, due_ms, expires_ms, caller, receivers, crc, id, line, headers,
  body)
SELECT value ->> 0, ?3, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
  substr(?1, value ->> 7, 4), substr(?1, (value ->> 7) + 4, 16),
  iif(value ->> 8, substr(?1, (value ->> 7) + 20, 16), NULL),
  substr(?1, (value ->> 7) + 20 + (value ->> 8), value ->> 9),
  substr(?1, (value ->> 7) + 20 + (value ->> 8) + (value ->> 9), value ->> 10)
FROM json_each(?2)
"""
_KNOWN = (
    "SELECT json_group_array(json_array(hex(id), hex(crc))) FROM ringpost_log"
    " WHERE id IN (SELECT value FROM carray(?1))"
)
# Bounded by bytes as well, but for the first.
_STEP = f"""
SELECT json_group_array(json_array(pos, got, keep_s, due_ms, expires_ms, caller, ifnull(length(line), 0),
    length(headers), length(body))),
  cast(group_concat(crc || id || ifnull(line, x'') || headers || body, '') AS BLOB)
FROM (
  SELECT *, instr(receivers, ?3) > 0 AS got FROM (
    SELECT *, sum(length(headers) + length(body)) OVER (ORDER BY pos) - length(headers) - length(body) AS before
    FROM (SELECT * FROM ringpost_log WHERE event = ?1 AND pos > ?2 ORDER BY pos LIMIT ?4)
  ) WHERE before < {CATCH_UP_BYTES_MAX} ORDER BY pos
)
"""
_END = "SELECT ifnull(max(pos), 0) FROM ringpost_log WHERE event = ?1"
_ANY = "SELECT EXISTS (SELECT 1 FROM ringpost_log WHERE event = ?)"
_PURGE = """
DELETE FROM ringpost_log WHERE pos IN
  (SELECT pos FROM ringpost_log WHERE until_ms < ?1 ORDER BY until_ms LIMIT ?2)
"""
_decode_known = msgspec.json.Decoder(list[tuple[str, str]]).decode
_encode = msgspec.json.Encoder().encode


class _Found(Struct, array_like=True, gc=False):
    """An entry of a step; crc, id, line, headers and body are in the blob beside."""

    pos: int
    got: bool
    keep_s: int
    due_ms: int | None
    expires_ms: int | None
    caller: str | None
    line_bytes: int
    headers_bytes: int
    body_bytes: int


_decode_found = msgspec.json.Decoder(list[_Found], strict=False).decode


class Stretch(Struct):
    """What a step reads. `entries`: what is to be given. `damaged`: ids of those whose bytes have changed."""

    read_at: int
    entries: list[Entry]
    damaged: list[bytes]
    ends: bool  # nothing comes after it


def told(turn: Turn, messages: Sequence[Message]) -> dict[int, Put]:
    """Answer, by their places, for events that the log has already, or that come twice in this batch."""
    logged = [(at, message) for at, message in enumerate(messages) if message.event and message.log_s]
    if not logged:
        return {}
    found = _decode_known(first(turn.db, _KNOWN, (blobs([message.id for _, message in logged]),)))
    known = {bytes.fromhex(id): bytes.fromhex(crc) for id, crc in found}
    answers: dict[int, Put] = {}
    for at, message in logged:
        crc = _crc(message)
        if message.id not in known:
            known[message.id] = crc
            continue
        same = known[message.id] == crc
        answers[at] = Put(message.id, duplicate=same, refused="" if same else "mismatch")
    return answers


def keep(turn: Turn, events: Sequence[Message]) -> dict[bytes, int]:
    """Keep events that the log doesn't have; gives their places by id."""
    if not events:
        return {}
    parts: list[bytes] = []
    rows: list[tuple[object, ...]] = []
    at = 1
    for event in events:
        line = event.line or b""
        receivers = [turn.queues.make(queue).no for queue in turn.look().subscribers(event.event)]
        parts += (_crc(event), event.id, line, event.headers, event.body)
        rows.append((
            event.event,
            turn.now_ms + event.log_s * 1000,
            event.keep_s,
            log.due_ms(event, turn.now_ms),
            log.expires_ms(event, turn.now_ms),
            event.caller,
            f",{','.join(map(str, receivers))},",
            at,
            len(line),
            len(event.headers),
            len(event.body),
        ))  # fmt: skip
        at += _CRC + _ID + len(line) + len(event.headers) + len(event.body)
    turn.db.execute(_INSERT, (b"".join(parts), _encode(rows).decode(), turn.now_ms))
    last = turn.db.last_insert_rowid()
    return {event.id: last - len(events) + 1 + nth for nth, event in enumerate(events)}


def stretch(turn: Turn, event: str, queue: str, after: int, limit: int) -> Stretch:
    """Read what comes next of an event, for a subscription."""
    no = turn.queues.make(queue).no
    numbers, blob = turn.db.execute(_STEP, (event, after, f",{no},", limit)).fetchall()[0]
    found = Stretch(after, [], [], ends=False)
    seed, at = crc_seed(event), 0
    for one in _decode_found(numbers):
        parts: list[bytes] = []
        for size in (_CRC, _ID, one.line_bytes, one.headers_bytes, one.body_bytes):
            parts.append(blob[at : at + size])
            at += size
        found.read_at = one.pos
        crc, id, line, headers, body = parts
        if one.got:
            continue
        if crc != crc_of(seed, id, headers, body):
            found.damaged.append(id)
            continue
        entry = Entry(one.pos, id, one.keep_s, one.due_ms, one.expires_ms, line or None, one.caller, headers, body)
        found.entries.append(entry)
    found.ends = found.read_at >= int(first(turn.db, _END, (event,)))
    return found


def has_any(turn: Turn, event: str) -> bool:
    """Say whether anything of an event is kept."""
    return bool(first(turn.db, _ANY, (event,)))


def purge(turn: Turn, limit: int) -> int:
    """Remove what has been kept long enough; gives how many."""
    turn.db.execute(_PURGE, (turn.now_ms, limit))
    return turn.db.changes()


def _crc(event: Message) -> bytes:
    return crc_of(crc_seed(event.event), event.id, event.headers, event.body)
