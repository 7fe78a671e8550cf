"""Rows to SQLite and back, a batch as one parameter and one step.

SQLite's driver gives the interpreter lock away at each step and gets it back after up to a switch interval if other
Python code runs. So the price of a batch is its number of steps. Measured for 100 rows, alone and beside a busy thread
(switch interval 0.5 ms): executemany 0.22 and 10.9 ms, one VALUES of 100 rows 0.31 and 0.83 ms, the packed form here
0.12 and 0.18 ms; reading 100 rows one by one 0.07 and 6.3 ms, as one aggregate 0.13 and 0.85 ms.

A batch is packed into one blob, a record after the other, and one array of 64-bit numbers that say where each is.
"""

import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zlib import crc32

import apsw
import msgspec

from ringpost.core.message import Kind, Message, State
from ringpost.store.sqlite.db import Db, first

ALIGN_BITS = 6  # records begin at multiples of 64 bytes
INDEX_BITS, OFFSET_BITS, HEADERS_BITS, BODY_BITS = 9, 17, 15, 22  # of the number that says where a record is
HEADERS_MAX = (1 << HEADERS_BITS) - 1
BODY_MAX = (1 << BODY_BITS) - 1
PACK_ROWS = 1 << INDEX_BITS
PACK_BYTES = 1 << (OFFSET_BITS + ALIGN_BITS)
_PADDING = bytes(1 << ALIGN_BITS)
NO_ANSWER = 999  # of the width of an HTTP status
BASE = 2  # of counters, which are never stored as 0 or 1
LEASE_SHIFT = 1 << 40  # uptime in ms plus this always takes six bytes
HOLDER_BITS = 1 << 46  # likewise a holder's number

HEADS, WAITS = 2, 3  # places in a line


_carray: Callable[[Any], Any] = getattr(apsw, "carray")  # noqa: B009 (its stub doesn't say what it takes)


def holder_code(holder: int) -> int:
    return (holder & (HOLDER_BITS - 1)) | HOLDER_BITS


def seqs(numbers: Iterable[int]) -> Any:
    """Give numbers as one parameter for `carray(?)`. There must be at least one."""
    return _carray(array.array("q", numbers))


def blobs(values: Iterable[bytes]) -> Any:
    return _carray(tuple(values))


def crc_seed(queue: str) -> int:
    return crc32(queue.encode())


def crc_of(seed: int, id: bytes, headers: bytes, body: bytes) -> bytes:
    """Give the checksum over the immutable envelope: id, queue's name (the seed), headers, body."""
    return crc32(body, crc32(headers, crc32(id, seed))).to_bytes(4, "little")


# --- inserts


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What the messages of one insert have in common; only id, checksum, keys, headers and body differ."""

    queue: int
    kind: Kind
    state: State
    priority: int
    due_ms: int
    keep_s: int
    expires_ms: int | None
    caller: str | None
    fence: int
    holder: int
    lease_ms: int
    lined: bool
    keyed: bool


_OFFSET = f"(1 + (((value >> {HEADERS_BITS + BODY_BITS}) & {(1 << OFFSET_BITS) - 1}) << {ALIGN_BITS}))"
_HEADERS_SIZE = f"((value >> {BODY_BITS}) & {HEADERS_MAX})"


_HEAD, _LINE, _KEYS = 20, 17, 32  # bytes of the parts of a record: id and crc; line and first; dedup and digest


def _record_head(lined: bool, keyed: bool) -> int:
    return _HEAD + _LINE * lined + _KEYS * keyed


def _insert(lined: bool, keyed: bool) -> str:
    """Write the insert for one layout of the packed record: id, crc, [line, first], [dedup, digest], headers, body."""
    line = dedup = digest = "NULL"
    state = "?5"
    if lined:  # `first` says whether the line was free: then it is ready, else it waits
        line = f"substr(?1, {_OFFSET} + {_HEAD}, 16)"
        state = f"iif(?5 = 4 AND substr(?1, {_OFFSET} + {_HEAD + 16}, 1) = x'00', 3, ?5)"
    if keyed:
        at = _record_head(lined, False)
        dedup = f"substr(?1, {_OFFSET} + {at}, 16)"
        digest = f"substr(?1, {_OFFSET} + {at + 16}, 16)"
    return (
        "INSERT INTO ringpost_message(id, crc, line, dedup, digest, queue, kind, state, priority, due_ms, keep_s,"
        " expires_ms, caller, fence, holder, lease_ms, attempts, losses, generation, created_ms, started_ms,"
        " settled_ms, cancel_ms, cause, status)"
        f" SELECT substr(?1, {_OFFSET}, 16), substr(?1, {_OFFSET} + 16, 4), {line}, {dedup}, {digest},"
        f" ?3, ?4, {state}, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, {BASE}, {BASE}, {BASE},"
        " ?14, ?15, -?14, -?14, 2, 999 FROM carray(?2) WHERE true ON CONFLICT DO NOTHING"
    )


_INSERTS = {(lined, keyed): _insert(lined, keyed) for lined in (False, True) for keyed in (False, True)}
_PAYLOADS = (
    "INSERT INTO ringpost_payload(seq, headers, body)"
    f" SELECT ?3 + (value >> {OFFSET_BITS + HEADERS_BITS + BODY_BITS}), substr(?1, {_OFFSET} + ?4, {_HEADERS_SIZE}),"
    f" substr(?1, {_OFFSET} + ?4 + {_HEADERS_SIZE}, value & {BODY_MAX}) FROM carray(?2)"
)
_PAYLOAD = "INSERT INTO ringpost_payload(seq, headers, body) VALUES (?, ?, ?)"


class Pack:
    """Messages of one shape, on their way into one insert."""

    __slots__ = ("_at", "_numbers", "_parts", "_seed", "bytes", "firsts", "rows", "shape")

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self._seed = seed  # of the queue's checksums
        self._parts: list[bytes] = []
        self._numbers = array.array("q")
        self._at = 0
        self.bytes = 0
        self.firsts = 0  # how many come first in their lines
        self.rows: list[int] = []  # positions in the batch

    @property
    def full(self) -> bool:
        return len(self.rows) == PACK_ROWS or self._at >= PACK_BYTES

    def add(self, position: int, message: Message, first: bool) -> None:
        id, headers, body, shape, rows = message.id, message.headers, message.body, self.shape, self.rows
        headers_bytes, body_bytes = len(headers), len(body)
        size = _HEAD + headers_bytes + body_bytes
        after_id = crc32(id + headers + body, self._seed).to_bytes(4, "little")
        if shape.lined or shape.keyed:
            keys = b""
            if shape.lined:
                keys = (message.line or b"") + (b"\1" if first else b"\0")
                self.firsts += first
            if shape.keyed:
                keys += (message.dedup or b"") + (message.digest or bytes(16))
            size += len(keys)
            after_id += keys
        padding = -size % (1 << ALIGN_BITS)
        self._parts += (id, after_id, headers, body, _PADDING[:padding])
        self._numbers.append(
            ((len(rows) << OFFSET_BITS | self._at >> ALIGN_BITS) << HEADERS_BITS | headers_bytes) << BODY_BITS
            | body_bytes
        )
        self._at += size + padding
        self.bytes += headers_bytes + body_bytes
        rows.append(position)

    def insert(self, db: Db, now_ms: int) -> int:
        """Insert all, in two steps; gives how many were new. Unless all were, their payloads are still to be put."""
        shape = self.shape
        started_ms = now_ms if shape.state is State.RUNNING else -now_ms
        packed, numbers = b"".join(self._parts), _carray(self._numbers)
        db.execute(
            _INSERTS[shape.lined, shape.keyed],
            (
                packed, numbers, shape.queue, shape.kind, shape.state, shape.priority, shape.due_ms, shape.keep_s,
                shape.expires_ms, shape.caller, shape.fence, shape.holder, shape.lease_ms, now_ms, started_ms,
            ),
        )  # fmt: skip
        inserted = db.changes()
        if inserted == len(self.rows):
            first_seq = db.last_insert_rowid() - inserted + 1
            db.execute(_PAYLOADS, (packed, numbers, first_seq, _record_head(shape.lined, shape.keyed)))
        return inserted


def insert_payload(db: Db, seq: int, message: Message) -> None:
    """Put what a single row carries."""
    db.execute(_PAYLOAD, (seq, message.headers, message.body))


# --- reading


class Known(msgspec.Struct, array_like=True, gc=False):
    """What a put has to know of a row that is there already."""

    seq: int
    id: str
    state: int
    kind: int
    crc: str
    dedup: str
    digest: str
    lease_ms: int
    fence: int
    losses: int
    attempts: int
    generation: int
    whole: bool  # its payload is there too


_KNOWN = (
    "SELECT json_group_array(json_array(seq, hex(id), state, kind, hex(crc), hex(dedup), hex(digest), lease_ms, fence,"
    " losses, attempts, generation, json(iif(EXISTS (SELECT 1 FROM ringpost_payload p WHERE p.seq = m.seq), 'true',"
    " 'false')))) FROM ringpost_message m WHERE {column} IN (SELECT value FROM carray(?1)){more}"
)
_KNOWN_IDS = _KNOWN.format(column="id", more="")
_KNOWN_DEDUPS = _KNOWN.format(column="dedup", more=" AND dedup IS NOT NULL")
_decode_known = msgspec.json.Decoder(list[Known]).decode
decode_numbers = msgspec.json.Decoder(list[int]).decode
decode_pairs = msgspec.json.Decoder(list[tuple[int, int]]).decode


def known_by_id(db: Db, ids: Sequence[bytes]) -> dict[bytes, Known]:
    found = _decode_known(first(db, _KNOWN_IDS, (blobs(ids),)))
    return {bytes.fromhex(known.id): known for known in found}


def known_by_dedup(db: Db, dedups: Sequence[bytes]) -> dict[bytes, Known]:
    found = _decode_known(first(db, _KNOWN_DEDUPS, (blobs(dedups),)))
    return {bytes.fromhex(known.dedup): known for known in found}


class Astray(apsw.CorruptError):
    """An index names rows that aren't there or that say otherwise themselves; to SQLite it would be corruption too."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"an index names messages that are elsewhere: {', '.join(map(str, rows[:20]))}")
        self.extendedresult = apsw.SQLITE_CORRUPT_INDEX
        self.rows = rows


class Claimable(msgspec.Struct, array_like=True, gc=False):
    """A ready row as a claim sees it; its id, line, headers and body are in the blob beside."""

    seq: int
    attempts: int
    losses: int
    generation: int
    created_ms: int
    expires_ms: int | None
    kind: int
    keep_s: int
    cancel_ms: int
    started_ms: int
    line_bytes: int
    headers_bytes: int
    body_bytes: int


_FETCH = (
    "SELECT json_group_array(json_array(seq, attempts, losses, generation, created_ms, expires_ms, kind, keep_s,"
    " cancel_ms, started_ms, ifnull(length(line), 0), length(headers), length(body))) FILTER (WHERE crc IS NOT NULL),"
    " cast(group_concat(crc || ifnull(line, x'') || id || headers || body, '') AS BLOB),"
    " json_group_array(seq) FILTER (WHERE crc IS NULL) FROM ({rows})"
)
_COLUMNS = (
    " m.attempts, m.losses, m.generation, m.created_ms, m.expires_ms, m.kind, m.keep_s, m.cancel_ms, m.started_ms,"
    " m.line, m.id, p.headers, p.body"
)
# Which rows are ready an index says, and of a row that is found in it SQLite believes that: it doesn't look into the
# row, nor does it take a row that has changed since out of it again. So each is looked up by its number, as if it were
# another one, and asked itself: one that isn't there, isn't ready or has no body has no checksum here.
FETCH_READY = _FETCH.format(
    rows=f"SELECT i.seq, iif(m.state = 4 AND m.queue = ?1 AND p.seq IS NOT NULL, m.crc, NULL) AS crc,{_COLUMNS}"
    " FROM ringpost_message i LEFT JOIN ringpost_message m ON m.seq = i.seq"
    " LEFT JOIN ringpost_payload p ON p.seq = i.seq"
    " WHERE i.queue = ?1 AND i.state = 4 AND ifnull(m.losses < ?2, true) ORDER BY i.priority, i.seq LIMIT ?3"
)
FETCH_SEQS = _FETCH.format(
    rows=f"SELECT m.seq, m.crc,{_COLUMNS} FROM ringpost_message m JOIN ringpost_payload p ON p.seq = m.seq"
    " WHERE m.seq IN (SELECT value FROM carray(?1)) ORDER BY m.seq"
)
_decode_claimable = msgspec.json.Decoder(list[Claimable]).decode


def fetch(db: Db, sql: str, bindings: tuple[Any, ...]) -> tuple[list[Claimable], bytes]:
    """Read rows in one step; their variable parts come as one blob, in the same order. Raises Astray where an index
    names rows that say otherwise themselves."""
    numbers, blob, astray = db.execute(sql, bindings).fetchall()[0]
    if astray != "[]":
        raise Astray(decode_numbers(astray))
    return _decode_claimable(numbers), blob or b""
