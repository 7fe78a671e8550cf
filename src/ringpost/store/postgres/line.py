"""Lines: of the messages with one ordering key exactly one is ready, running or in retry, the others wait behind it.

`ringpost.line` has a row for each that stands in a line; the first by (place, seq) says whether there is a head (place
2), and if not, who is next. Whoever puts into a line or ends its head holds the line's advisory lock: else a put that
still sees the head and an end that doesn't see the put would leave the line asleep.
"""

from collections.abc import Iterable, Sequence

from ringpost.store.postgres.turn import Turn

_LINES_OF = "SELECT DISTINCT line FROM ringpost.message WHERE seq = ANY($1::bigint[]) AND line IS NOT NULL"
_TAKEN = "SELECT DISTINCT line FROM ringpost.line WHERE line = ANY($1::bytea[])"
_JOIN = (
    "INSERT INTO ringpost.line (line, place, seq) SELECT line, 3, seq FROM ringpost.message"
    " WHERE seq = ANY($1::bigint[]) ON CONFLICT DO NOTHING"
)
_IS_HEAD = "SELECT 1 FROM ringpost.line WHERE line = $1 AND place = 2 AND seq = $2"
_LEAVE = "DELETE FROM ringpost.line WHERE line = ANY($1::bytea[]) AND seq = ANY($2::bigint[])"
_WAKE = (
    "WITH following AS (SELECT f.* FROM unnest($1::bytea[]) given(line) CROSS JOIN LATERAL"
    " (SELECT l.line, l.place, l.seq FROM ringpost.line l WHERE l.line = given.line ORDER BY l.place, l.seq LIMIT 1) f"
    " WHERE f.place = 3),"
    " heads AS (UPDATE ringpost.line l SET place = 2 FROM following f WHERE l.line = f.line AND l.seq = f.seq)"
    " UPDATE ringpost.message m SET state = 4 FROM following f WHERE m.seq = f.seq AND m.state = 3 RETURNING m.queue"
)
# The first of each of so many lines, in their order: from one to the next by the index, however many stand in it.
_FIRSTS = (
    "WITH RECURSIVE walk AS ("
    "(SELECT l.line, l.place, 1 AS step FROM ringpost.line l WHERE l.line > $1 ORDER BY l.line, l.place, l.seq LIMIT 1)"
    " UNION ALL SELECT f.line, f.place, w.step + 1 FROM walk w CROSS JOIN LATERAL (SELECT l.line, l.place"
    " FROM ringpost.line l WHERE l.line > w.line ORDER BY l.line, l.place, l.seq LIMIT 1) f WHERE w.step < $2)"
    " SELECT line, place FROM walk ORDER BY line"
)


async def lines_of(turn: Turn, rows: Sequence[int]) -> list[bytes]:
    """Give the lines that rows belong to, whether or not they stand in them."""
    return [row[0] for row in await turn.db.fetch(_LINES_OF, rows)] if rows else []


async def taken(turn: Turn, lines: Iterable[bytes]) -> set[bytes]:
    """Say in which of the lines somebody stands."""
    return {row[0] for row in await turn.db.fetch(_TAKEN, list(lines))}


async def join(turn: Turn, rows: Sequence[int], lines: Iterable[bytes]) -> int:
    """Enter waiting rows at the end of their lines, and wake those that come first; gives how many."""
    await turn.db.fetch(_JOIN, rows)
    return await wake(turn, lines)


async def is_head(turn: Turn, line: bytes, row: int) -> bool:
    """Say whether a row stands first in its line, as one that is dead does where its queue halts."""
    return bool(await turn.db.fetch(_IS_HEAD, line, row))


async def leave(turn: Turn, rows: Sequence[int], lines: Iterable[bytes]) -> None:
    """Take rows that have ended or are removed out of their lines; the next of each becomes ready."""
    wanted = list(set(lines))
    if wanted:
        await turn.db.fetch(_LEAVE, wanted, rows)
        await wake(turn, wanted)


async def wake(turn: Turn, lines: Iterable[bytes]) -> int:
    """Make the first of each line ready if the line has no head; gives how many were woken."""
    wanted = list(set(lines))
    if not wanted:
        return 0
    queues = [row[0] for row in await turn.db.fetch(_WAKE, wanted)]
    await turn.ring(queues)
    return len(queues)


async def repair(turn: Turn, after: bytes, limit: int) -> tuple[int, bytes]:
    """Wake lines that have fallen asleep, a bounded stretch of them; gives how many, and where to go on."""
    firsts = await turn.db.fetch(_FIRSTS, after, limit)
    asleep = [row[0] for row in firsts if row[1] == 3]
    await turn.lock(asleep)
    return await wake(turn, asleep), firsts[-1][0] if len(firsts) == limit else b""
