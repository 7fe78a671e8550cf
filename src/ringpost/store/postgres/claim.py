"""Claiming: ready rows become deliveries under one new fence. What another holds at this moment is passed over."""

from collections.abc import Mapping, Sequence
from zlib import crc32

from ringpost.core import notes
from ringpost.core.message import Delivery, Kind
from ringpost.store.postgres.db import Row
from ringpost.store.postgres.turn import Queue, Turn

CLAIM_MAX = 1000

# Rows are found by where they stand: by `seq`, the planner may choose to read the whole index of what is ready.
# $1 and $2: queues and how many of each. $3 and $4: who holds, and the length of the lease. $5: how many suspects.
CLAIM = """
c AS MATERIALIZED (SELECT ringpost.now_ms() AS ms, nextval('ringpost.fence') AS fence),
wanted AS MATERIALIZED (
  SELECT w.queue, w.rows FROM unnest($1::int[], $2::bigint[]) AS w(queue, rows)
  WHERE NOT EXISTS (SELECT 1 FROM ringpost.note n WHERE n.name = ANY($6::text[])
    AND n.name = (SELECT 'pause/' || q.name FROM ringpost.queue q WHERE q.no = w.queue)
    AND (n.lease_ms IS NULL OR n.lease_ms > ringpost.now_ms()))
),
suspect AS MATERIALIZED (
  SELECT s.at, w.queue FROM wanted w CROSS JOIN LATERAL (
    SELECT m.ctid AS at FROM ringpost.message m WHERE m.queue = w.queue AND m.state = 4 AND m.losses >= 2
      AND (m.expires_ms IS NULL OR m.expires_ms > ringpost.now_ms())
    ORDER BY m.priority, m.seq LIMIT least(w.rows, $5) FOR NO KEY UPDATE SKIP LOCKED
  ) s LIMIT $5
),
sound AS MATERIALIZED (
  SELECT s.at FROM wanted w CROSS JOIN LATERAL (
    SELECT m.ctid AS at FROM ringpost.message m WHERE m.queue = w.queue AND m.state = 4 AND m.losses < 2
      AND (m.expires_ms IS NULL OR m.expires_ms > ringpost.now_ms())
    ORDER BY m.priority, m.seq LIMIT w.rows - (SELECT count(*) FROM suspect u WHERE u.queue = w.queue)
    FOR NO KEY UPDATE SKIP LOCKED
  ) s
),
taken AS (
  UPDATE ringpost.message m SET state = 5, fence = c.fence, holder = $3, lease_ms = c.ms + $4,
    started_ms = coalesce(m.started_ms, c.ms)
  FROM c WHERE m.ctid = ANY(ARRAY(SELECT at FROM suspect UNION ALL SELECT at FROM sound)) AND m.state = 4
  RETURNING m.seq, m.queue, m.fence, m.attempts, m.losses, m.generation, m.created_ms, m.line, m.expires_ms, m.kind,
    m.keep_s, m.cancel_ms, m.priority, m.started_ms
)
"""
_COLUMNS = (
    "k.seq, k.queue, k.fence, k.attempts, k.losses, k.generation, k.created_ms, k.line, k.expires_ms, k.kind,"
    " k.keep_s, k.cancel_ms, k.started_ms, l.id, l.headers, l.body, l.crc"
)
_TAKEN = f"SELECT {_COLUMNS} FROM taken k JOIN ringpost.letter l ON l.seq = k.seq ORDER BY k.priority, k.seq"
# The same with one more column and one more row, for a statement that also settles.
TAKEN_AND = f"SELECT * FROM ({_TAKEN}) claimed CROSS JOIN (SELECT NULL::bigint[]) won UNION ALL"
NOTHING = ", ".join(["NULL"] * (_COLUMNS.count(",") + 1))
_CLAIM = "WITH" + CLAIM + _TAKEN
NEXT_DUE = "SELECT min(due_ms) - ringpost.now_ms() FROM ringpost.message WHERE state = 2"


class Want:
    """What a claim asks for."""

    __slots__ = ("holder", "lease_s", "queues", "suspects")

    def __init__(self, queues: Mapping[str, int], holder: int, lease_s: float, suspects: int) -> None:
        self.queues = queues
        self.holder = holder
        self.lease_s = lease_s
        self.suspects = suspects

    def values(self, known: Mapping[str, Queue], holder: int) -> list[object]:
        """Give what `CLAIM` takes."""
        names = [name for name, wanted in self.queues.items() if wanted > 0 and name in known]
        share = max(CLAIM_MAX // max(len(names), 1), 1)
        return [
            [known[name].no for name in names],
            [min(self.queues[name], share) for name in names],
            holder,
            round(self.lease_s * 1000),
            max(self.suspects, 0),
            [notes.pause(name) for name in names],
        ]


async def claim(turn: Turn, want: Want, holder: int) -> Sequence[Row]:
    """Take at most as many of each queue as wanted, all under one new fence."""
    return await turn.db.fetch(_CLAIM, *want.values(turn.queues.by_name, holder))


def deliveries(turn: Turn, rows: Sequence[Row]) -> tuple[list[Delivery], list[int]]:
    """Make deliveries of claimed rows; gives beside them the refs of those whose bytes don't fit their checksums."""
    found: list[Delivery] = []
    damaged: list[int] = []
    known = turn.queues.by_no
    for row in rows:
        (seq, no, fence, attempts, losses, generation, created_ms, line, expires_ms, kind, keep_s) = row[:11]
        cancel_ms, started_ms, id, headers, body, crc = row[11:17]
        queue = known[no]
        if crc32(id + headers + body, queue.seed) != crc:
            damaged.append(seq)
            continue
        found.append(
            Delivery(
                seq,
                id,
                queue.name,
                fence,
                attempts + 1,
                losses,
                generation,
                created_ms,
                headers,
                body,
                line,
                expires_ms,
                _KINDS[kind],
                keep_s,
                cancel_ms is not None,
                started_ms,
            )
        )
    turn.touched.update([delivery.id for delivery in found])
    return found, damaged


_KINDS = {int(kind): kind for kind in Kind}


async def next_due_s(turn: Turn) -> float | None:
    """Give the seconds until something scheduled becomes due; None where nothing is."""
    left_ms = (await turn.db.fetch(NEXT_DUE))[0][0]
    return None if left_ms is None else max(left_ms, 0) / 1000
