"""Claiming: ready rows become deliveries under one new fence; what has expired or was damaged ends instead."""

import logging
from collections.abc import Mapping
from zlib import crc32

from ringpost.core import lease
from ringpost.core.message import Cause, Delivery, Kind, State
from ringpost.store.logged import log_damaged
from ringpost.store.sqlite import end
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import BASE, FETCH_READY, FETCH_SEQS, LEASE_SHIFT, Claimable, fetch, holder_code, seqs
from ringpost.store.sqlite.turn import Queue, Turn

_log = logging.getLogger("ringpost.store")
CLAIM_MAX = 1000
_ANY = 1 << 40
_ROUNDS = 4  # how often a claim looks again for rows in the place of those that had expired

_TAKE = (
    "UPDATE ringpost_message SET state = 5, fence = ?1, holder = ?2, lease_ms = ?3,"
    " started_ms = iif(started_ms < 0, ?4, started_ms) WHERE seq IN (SELECT value FROM carray(?5))"
)
_NEXT_DUE = "SELECT min(due_ms) FROM ringpost_message WHERE state = 2"
_QUEUE_OF = "SELECT queue, fence FROM ringpost_message WHERE seq = ?"


def claim(turn: Turn, want: Mapping[str, int], holder: int, lease_s: float, suspects: int) -> list[Delivery]:
    """Take at most as many of each queue as wanted, all under one new fence."""
    taken: list[Delivery] = []
    room = CLAIM_MAX
    for name, wanted in want.items():
        queue = turn.queues.named(name) if wanted > 0 and room > 0 else None
        if queue is not None:
            found = _take(turn, queue, min(wanted, room), suspects)
            suspects -= sum(delivery.losses >= lease.LOSSES_SUSPECT for delivery in found)
            turn.tally(queue.no).ready -= len(found)
            room -= len(found)
            taken += found
    if taken:
        fence = turn.next_fence()
        for delivery in taken:
            delivery.fence = fence
        lease_ms = turn.uptime_ms + round(lease_s * 1000) + LEASE_SHIFT
        rows = seqs([delivery.ref for delivery in taken])
        turn.db.execute(_TAKE, (fence, holder_code(holder), lease_ms, turn.now_ms, rows))
        if turn.watched:
            turn.ring([delivery.id for delivery in taken])
    return taken


def _take(turn: Turn, queue: Queue, wanted: int, suspects: int) -> list[Delivery]:
    """Find rows that can run. Suspects beyond their number are left where they are."""
    found: list[Delivery] = []
    refs: set[int] = set()
    below = _ANY if suspects > 0 else lease.LOSSES_SUSPECT + BASE
    for _ in range(_ROUNDS):
        asked = wanted - len(found) + (len(refs) if found else 0)
        rows, blob = fetch(turn.db, FETCH_READY, (queue.no, below, asked))
        ended = 0
        for delivery in _checked(turn, queue, rows, blob):
            if delivery is None:
                ended += 1
            elif delivery.ref not in refs and len(found) < wanted:
                if delivery.losses >= lease.LOSSES_SUSPECT:
                    if suspects <= 0:
                        below = lease.LOSSES_SUSPECT + BASE
                        continue
                    suspects -= 1
                refs.add(delivery.ref)
                found.append(delivery)
        if len(found) == wanted or len(rows) < asked or (not ended and below == _ANY):
            break
    return found


def _checked(turn: Turn, queue: Queue, rows: list[Claimable], blob: bytes) -> list[Delivery | None]:
    """Make deliveries of rows; None for one that ended here, because it had expired or its bytes don't fit its CRC."""
    deliveries: list[Delivery | None] = []
    expired: list[int] = []
    damaged: dict[int, bytes] = {}  # id by seq
    view = memoryview(blob)
    at = 0
    name, seed, now_ms = queue.name, queue.seed, turn.now_ms
    for row in rows:
        start = at + 4 + row.line_bytes
        headers = start + 16
        body = headers + row.headers_bytes
        stop = body + row.body_bytes
        if crc32(view[start:stop], seed) != int.from_bytes(view[at : at + 4], "little") or row.kind not in _KINDS:
            damaged[row.seq] = blob[start:headers]
            deliveries.append(None)
        elif row.expires_ms is not None and row.expires_ms <= now_ms:
            expired.append(row.seq)
            deliveries.append(None)
        else:
            deliveries.append(
                Delivery(
                    row.seq,
                    blob[start:headers],
                    name,
                    0,
                    row.attempts - 1,
                    row.losses - BASE,
                    row.generation - 1,
                    row.created_ms,
                    blob[headers:body],
                    blob[body:stop],
                    blob[at + 4 : start] if row.line_bytes else None,
                    row.expires_ms,
                    _KINDS[row.kind],
                    row.keep_s,
                    row.cancel_ms > 0,
                    row.started_ms if row.started_ms > 0 else now_ms,
                )
            )
        at = stop
    if expired:
        end.end(turn, expired, State.EXPIRED, Cause.EXPIRED)
    if damaged:
        end.end(turn, list(damaged), State.DEAD, Cause.CHECKSUM)
        log_damaged(_log, name, list(damaged.values()))
    return deliveries


_KINDS = {int(kind): kind for kind in Kind}


def deliver(turn: Turn, refs: list[int]) -> list[Delivery]:
    """Give deliveries of rows that are running already, with the fence that they have."""
    found: list[Delivery] = []
    for ref in refs:
        no, fence = turn.db.execute(_QUEUE_OF, (ref,)).fetchall()[0]
        for delivery in _checked(turn, turn.queues.numbered(no), *fetch(turn.db, FETCH_SEQS, (seqs([ref]),))):
            if delivery is not None:
                delivery.fence = fence
                found.append(delivery)
    return found


def next_due_s(turn: Turn) -> float | None:
    """Give the seconds until something scheduled becomes due; None where nothing is."""
    due_ms = first(turn.db, _NEXT_DUE)
    return None if due_ms is None else max(due_ms - turn.now_ms, 0) / 1000
