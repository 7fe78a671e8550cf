"""Ends that the store itself makes: expired, cancelled, damaged, lost. Of these, and of every death, it tells the
others in the same commit."""

from collections.abc import Sequence
from typing import Any

import msgspec

from ringpost.core import farewell
from ringpost.core.message import Answer, Cause, Ended, Failure, Kind, State
from ringpost.store.sqlite import line
from ringpost.store.sqlite.rows import BASE, seqs
from ringpost.store.sqlite.turn import Turn

_ROWS = (
    "SELECT m.seq, id, queue, state, attempts, generation, headers, body, line, kind FROM ringpost_message m"
    " JOIN ringpost_payload p ON p.seq = m.seq WHERE m.seq IN (SELECT value FROM carray(?1)) ORDER BY m.seq"
)
_END = (
    "UPDATE ringpost_message SET state = ?1, cause = ?2, settled_ms = ?3, losses = losses + ?4"
    " WHERE seq IN (SELECT value FROM carray(?5))"
)
_FAILURES = "SELECT detail FROM ringpost_failure WHERE seq = ?"
_BESIDE = ("outcome", "failure", "progress")
_DELETE = {
    table: f"DELETE FROM ringpost_{table} WHERE seq IN (SELECT value FROM carray(?1))"
    for table in ("message", "payload", *_BESIDE)
}


def end(
    turn: Turn, rows: Sequence[int], to: State, cause: Cause, *, losses: int = 0, answer: Answer | None = None
) -> None:
    """End rows that were read in this turn, wake who stands behind them, and stage what tells others."""
    if not rows:
        return
    found = turn.db.execute(_ROWS, (seqs(rows),)).fetchall()
    turn.db.execute(_END, (to, cause, turn.now_ms, losses, seqs(rows)))
    _leave_lines(turn, found if to is not State.DEAD else [row for row in found if not _halts(turn, row)])
    for _, _, queue, state, _, _, headers, body, _, _ in found:
        tally = turn.tally(queue)
        tally.count(state, -1)
        tally.count(to, 1)
        tally.end(1, len(headers) + len(body))
    _tell(turn, found, to, cause, answer)
    turn.ring([row[1] for row in found])


def tell_deaths(turn: Turn, rows: Sequence[int], cause: Cause) -> None:
    """Stage what tells others that rows are dead, which a worker has settled so in this turn."""
    _tell(turn, turn.db.execute(_ROWS, (seqs(rows),)).fetchall(), State.DEAD, cause)


def _tell(turn: Turn, found: Sequence[tuple[Any, ...]], to: State, cause: Cause, answer: Answer | None = None) -> None:
    for seq, id, queue, _, attempts, generation, headers, body, _, _ in found:
        name = turn.queues.numbered(queue).name
        ended = Ended(
            id=id,
            queue=name,
            state=to,
            cause=cause,
            attempts=attempts - BASE,
            generation=generation - 1,
            headers=headers,
            body=body,
            answer=answer,
            failures=failures_of(turn, seq),
            failure_queue=turn.look().failure_queue(name),
        )
        turn.letters += farewell.letters(ended, turn.now_ms)


def remove(turn: Turn, rows: Sequence[int]) -> None:
    """Remove rows with all that hangs on them."""
    if not rows:
        return
    found = turn.db.execute(_ROWS, (seqs(rows),)).fetchall()
    _leave_lines(turn, found)
    delete(turn, rows)
    for _, _, queue, state, _, _, headers, body, _, kind in found:
        if kind == Kind.CALL:
            continue
        tally = turn.tally(queue)
        tally.count(state, -1)
        if State(state).terminal:
            tally.kept -= len(headers) + len(body)
        else:
            tally.ends += 1
            tally.bytes -= len(headers) + len(body)
    turn.ring([row[1] for row in found])


def remove_beside(turn: Turn, rows: Sequence[int]) -> None:
    """Remove what hangs on rows but for their payload."""
    for table in _BESIDE:
        turn.db.execute(_DELETE[table], (seqs(rows),))


def delete(turn: Turn, rows: Sequence[int]) -> None:
    """Delete rows that stand in no line, with all that hangs on them; whoever deletes them counts them."""
    for sql in _DELETE.values():
        turn.db.execute(sql, (seqs(rows),))


def failures_of(turn: Turn, seq: int) -> list[Failure]:
    """Give the last failures of a row, the oldest first."""
    found = turn.db.execute(_FAILURES, (seq,)).fetchall()
    failures = [msgspec.json.decode(row[0], type=Failure) for row in found]
    return sorted(failures, key=lambda failure: (failure.at_ms, failure.attempt))


def _halts(turn: Turn, row: tuple[Any, ...]) -> bool:
    return row[8] is not None and turn.look().halts(turn.queues.numbered(row[2]).name)


def leave_lines(turn: Turn, rows: Sequence[int]) -> None:
    """Take rows out of whatever lines they still stand in, and wake who stands behind them."""
    line.leave(turn, rows, line.lines_of(turn, rows))


def _leave_lines(turn: Turn, found: list[tuple[Any, ...]]) -> None:
    lined = [row for row in found if row[8] is not None]
    if lined:
        line.leave(turn, [row[0] for row in lined], [row[8] for row in lined])
