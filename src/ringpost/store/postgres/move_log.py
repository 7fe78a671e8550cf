"""Moving the log of an event: its entries as they are into another store, those of another store in here."""

import asyncio
from collections.abc import Sequence

from ringpost.contract.errors import StoreError
from ringpost.core import notes
from ringpost.store.log import Entry, Logged
from ringpost.store.port import CATCH_UP_BYTES_MAX, Note, Passage
from ringpost.store.postgres import log, read
from ringpost.store.postgres.db import Again, Db, Lost, Row, not_free
from ringpost.store.postgres.transaction import Pool
from ringpost.store.postgres.turn import Queues, Turn, columns

PATIENCE_S = 10.0  # for who publishes into a log that is to be read
_PAUSE_S = 0.05

# Bounded by bytes as well, but for the first.
_EXPORT = f"""
SELECT pos, id, keep_s, due_ms, expires_ms, line, caller, headers, body, until_ms, crc,
  ARRAY(SELECT q.name FROM ringpost.queue q WHERE q.no = ANY(receivers) ORDER BY q.name)
FROM (
  SELECT *, sum(octet_length(headers) + octet_length(body)) OVER (ORDER BY pos)
    - octet_length(headers) - octet_length(body) AS before
  FROM (SELECT * FROM ringpost.log WHERE event = $1 AND pos > $2 ORDER BY pos LIMIT $3) next
) counted WHERE before < {CATCH_UP_BYTES_MAX} ORDER BY pos
"""
_INSERT = """
INSERT INTO ringpost.log (event, until_ms, keep_s, due_ms, expires_ms, caller, receivers, crc, id, line, headers, body)
SELECT $1, until_ms, keep_s, due_ms, expires_ms, caller, receivers::int[], crc, id, line, headers, body
FROM unnest($2::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::bytea[],
  $10::bytea[], $11::bytea[], $12::bytea[]) WITH ORDINALITY
  AS g(until_ms, keep_s, due_ms, expires_ms, caller, receivers, crc, id, line, headers, body, place)
ORDER BY place ON CONFLICT DO NOTHING
"""
_LAST = "SELECT id FROM ringpost.log WHERE event = $1 ORDER BY pos DESC LIMIT 1"
_PLACES = "SELECT id, pos FROM ringpost.log WHERE id = ANY($1::bytea[])"
_NOTE = "SELECT value FROM ringpost.note WHERE name = $1"
_REMOVE = "DELETE FROM ringpost.log WHERE pos = ANY($1::bigint[])"


async def export(pool: Pool, event: str, after: int, limit: int) -> list[Logged]:
    """Give a page of a log, at an instant at which nobody is about to commit into it. Raises StoreError where there is
    none for long."""
    until_s = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        link, db = await pool.take()
        try:
            await db.begin()
            await log.close(Turn(db, Queues()), event)
            return [_logged(event, row) for row in await db.fetch(_EXPORT, event, after, limit)]
        except Lost as exc:
            raise StoreError(f"the store did not answer: {exc}") from exc
        except Exception as exc:
            if not (isinstance(exc, Again) or not_free(exc)):
                raise
            if asyncio.get_running_loop().time() >= until_s:
                raise StoreError(f"{event} is published all the time; its log can't be read to its end now") from exc
        finally:
            await db.roll_back()
            await pool.give(link)
        await asyncio.sleep(_PAUSE_S)


def _logged(event: str, row: Row) -> Logged:
    entry, (until_ms, crc, receivers) = Entry(*row[:9]), row[9:]
    return Logged(
        entry, until_ms, tuple(receivers), sound=crc == log.crc_of(event, entry.id, entry.headers, entry.body)
    )


async def take_in(turn: Turn, event: str, entries: Sequence[Logged], passage: Passage) -> list[int]:
    """Keep entries behind those that came before, and note the last."""
    await turn.queues.make(turn.db, [queue for logged in entries for queue in logged.receivers])
    await log.hold_open(turn, {event})
    name = notes.told(passage.source, event)
    found = await turn.db.fetch(_NOTE, name)
    came = notes.decode_told(found[0][0] if found else b"")
    last = await _last(turn.db, event)
    if last is not None and last.hex() != came.last:
        return []
    await turn.db.fetch(_INSERT, event, *columns([_values(turn, event, logged) for logged in entries]))
    last = await _last(turn.db, event)
    assert last is not None
    await read.note_put(turn, Note(name, notes.encode(notes.Told(last.hex()))), None)
    places: dict[bytes, int] = dict(
        [(row[0], row[1]) for row in await turn.db.fetch(_PLACES, [logged.entry.id for logged in entries])]
    )
    return [places[logged.entry.id] for logged in entries]


async def _last(db: Db, event: str) -> bytes | None:
    found = await db.fetch(_LAST, event)
    return bytes(found[0][0]) if found else None


def _values(turn: Turn, event: str, logged: Logged) -> tuple[object, ...]:
    entry = logged.entry
    return (
        logged.until_ms,
        entry.keep_s,
        entry.due_ms,
        entry.expires_ms,
        entry.caller,
        "{" + ",".join(str(turn.queues.by_name[queue].no) for queue in logged.receivers) + "}",
        log.crc_of(event, entry.id, entry.headers, entry.body),
        entry.id,
        entry.line,
        entry.headers,
        entry.body,
    )


async def take_out(turn: Turn, entries: Sequence[Logged]) -> None:
    """Remove entries."""
    await turn.db.fetch(_REMOVE, [logged.entry.pos for logged in entries])
