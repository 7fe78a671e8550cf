"""Damage to an index: it names rows that say otherwise themselves, or misses some. An index holds nothing that the rows
don't have, so all of them are made anew from the rows.

What a row says of itself is believed where it goes on from there: one that waits comes to its turn, one that runs has a
lease, one that is over stays so. Else its state is what was damaged, and like one whose body is gone it ends dead, for
people to look at.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import apsw

from ringpost.core.message import Cause, State
from ringpost.store.sqlite import end
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import Astray, decode_numbers, seqs
from ringpost.store.sqlite.turn import Turn

_REBUILD = "REINDEX ringpost_log; REINDEX ringpost_message"  # 2.4 s of CPU for a million rows
_ELSEWHERE = (
    "SELECT json_group_array(c.value) FROM carray(?1) c LEFT JOIN ringpost_message m ON m.seq = c.value"
    " WHERE m.seq IS NULL OR m.state NOT IN (SELECT value FROM carray(?2))"
)
_BODILESS = (
    "INSERT INTO ringpost_payload(seq, headers, body) SELECT seq, x'', x'' FROM ringpost_message m"
    " WHERE seq IN (SELECT value FROM carray(?1))"
    " AND NOT EXISTS (SELECT 1 FROM ringpost_payload p WHERE p.seq = m.seq) RETURNING seq"
)
_STRANDED = (
    "SELECT seq FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1))"
    " AND state NOT IN (2, 3, 4, 5) AND NOT (state BETWEEN 10 AND 14 AND settled_ms > 0)"
)
_COUNT = (
    "UPDATE ringpost_queue SET ready = ifnull(m.ready, 0), waiting = ifnull(m.waiting, 0),"
    " scheduled = ifnull(m.scheduled, 0), dead = ifnull(m.dead, 0) FROM ringpost_queue q LEFT JOIN"
    " (SELECT queue, count(*) FILTER (WHERE state = 4) AS ready, count(*) FILTER (WHERE state = 3) AS waiting,"
    " count(*) FILTER (WHERE state = 2) AS scheduled, count(*) FILTER (WHERE state = 14) AS dead"
    " FROM ringpost_message GROUP BY queue) m ON m.queue = q.no WHERE q.no = ringpost_queue.no"
)
_AUDIT = "INSERT INTO ringpost_audit(at_ms, who, what, detail) VALUES (?, 'store', 'reindex', ?)"
_LAST = "SELECT max(at_ms) FROM ringpost_audit WHERE what = 'reindex'"
_ALARM_MS = 30 * 86_400_000

_log = logging.getLogger("ringpost.store")


def is_of_an_index(error: apsw.CorruptError) -> bool:
    """Say whether all that is wrong is that an index doesn't fit its rows."""
    return getattr(error, "extendedresult", 0) == apsw.SQLITE_CORRUPT_INDEX


def agree(turn: Turn, rows: Sequence[int], *states: State) -> None:
    """Ask rows that an index has named whether they are in a state that it names. Raises Astray."""
    if rows:
        found = decode_numbers(first(turn.db, _ELSEWHERE, (seqs(rows), seqs(states))))
        if found:
            raise Astray(found)


def mend(turn: Turn, damage: apsw.CorruptError) -> None:
    """Make the indexes anew, and set aside what can't go on. Raises `damage` where the rows don't make an index."""
    try:
        turn.db.execute(_REBUILD)
    except (apsw.ConstraintError, apsw.CorruptError) as error:  # two rows have one id
        raise damage from error
    turn.db.execute(_COUNT)
    rows: Sequence[int] = damage.rows if isinstance(damage, Astray) else ()
    aside: list[int] = []
    for sql in (_BODILESS, _STRANDED) if rows else ():
        aside += [row[0] for row in turn.db.execute(sql, (seqs(rows),)).fetchall()]
    end.end(turn, aside, State.DEAD, Cause.CHECKSUM)
    said = f"{damage}; set aside as dead (checksum): {len(aside)}"
    turn.db.execute(_AUDIT, (turn.now_ms, said))
    _log.error("indexes of the store were damaged and are made anew from its messages: %s. Look at the disk", said)


def alarms(turn: Turn) -> list[str]:
    """Say, for thirty days, that damage was met, and what to do; nothing where there was none."""
    at_ms = first(turn.db, _LAST)
    if at_ms is None or turn.now_ms - at_ms > _ALARM_MS:
        return []
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return [
        f"indexes were damaged, and made anew from the messages on {at:%Y-%m-%d %H:%M} UTC: look at the disk (its SMART"
        " values, the kernel's log); what couldn't go on is dead with the cause checksum, see `ringpost dead list`"
    ]
