"""Orders on single rows: cancel, replay, drop, the progress of a running one, the outcome of a forwarded one."""

from typing import Any

from ringpost.core.message import Cause, State
from ringpost.store.port import Cancel, Changed, Conclude, Drop, Order, Replay, Report, replay_detail
from ringpost.store.sqlite import end, line, settle
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import BASE, NO_ANSWER
from ringpost.store.sqlite.turn import Turn

_ROW = (
    "SELECT m.seq, state, generation, queue, line, length(headers) + length(body) FROM ringpost_message m"
    " JOIN ringpost_payload p ON p.seq = m.seq WHERE id = ?"
)
_RUNNING = "SELECT state, fence, cancel_ms, id FROM ringpost_message WHERE seq = ?"
_ASK_CANCEL = "UPDATE ringpost_message SET cancel_ms = ? WHERE seq = ?"
_REPLAY = (
    f"UPDATE ringpost_message SET state = ?1, generation = generation + 1, attempts = {BASE}, losses = {BASE},"
    f" cause = {Cause.NONE}, status = {NO_ANSWER}, due_ms = ?2, started_ms = -created_ms, settled_ms = -created_ms,"
    " cancel_ms = -created_ms, expires_ms = NULL WHERE seq = ?3"
)
_CONCLUDED = "UPDATE ringpost_message SET status = ? WHERE seq = ?"
_FORGET_ANSWER = "DELETE FROM ringpost_outcome WHERE seq = ?"
_ATTEMPTS = "SELECT attempts FROM ringpost_message WHERE seq = ?"
_PROGRESS = "INSERT OR REPLACE INTO ringpost_progress(seq, at_ms, share, note) VALUES (?, ?, ?, ?)"
_AUDIT = "INSERT INTO ringpost_audit(at_ms, who, what, id, detail) VALUES (?, ?, ?, ?, ?)"


def obey(turn: Turn, order: Order) -> Changed:
    """Carry out one order."""
    if isinstance(order, Report):
        return _report(turn, order)
    found = turn.db.execute(_ROW, (order.id,)).fetchall()
    if not found:
        return Changed("unknown")
    if isinstance(order, Cancel):
        return _cancel(turn, order, found[0])
    if isinstance(order, Conclude):
        return _conclude(turn, order, found[0])
    state = State(found[0][1])
    if state is not State.DEAD:
        return Changed("too_late", state)
    if isinstance(order, Drop):
        end.remove(turn, [found[0][0]])
        _audit(turn, order, "drop")
        return Changed("done", State.DEAD)
    return _replay(turn, order, found[0])


def _cancel(turn: Turn, order: Cancel, row: tuple[Any, ...]) -> Changed:
    seq, state = row[0], State(row[1])
    if state.terminal:
        return Changed("too_late", state)
    if state in (State.RUNNING, State.FORWARDED):
        turn.db.execute(_ASK_CANCEL, (turn.now_ms, seq))
        turn.ring([order.id])
        return Changed("requested", state)
    end.end(turn, [seq], State.CANCELLED, Cause.CANCELLED)
    return Changed("done", State.CANCELLED)


def _conclude(turn: Turn, order: Conclude, row: tuple[Any, ...]) -> Changed:
    """End a row as it ended where it was forwarded to."""
    seq, state, generation = row[0], State(row[1]), row[2]
    if generation - 1 != order.generation:
        return Changed("conflict", state)
    if state is not State.FORWARDED:
        return Changed("too_late" if state.terminal else "conflict", state)
    answer, db = order.answer, turn.db
    if answer is None:
        db.execute(_FORGET_ANSWER, (seq,))
    else:
        settle.keep_answer(db, seq, answer)
    if order.failure is not None:
        attempts = first(db, _ATTEMPTS, (seq,))
        settle.keep_failure(db, seq, attempts % settle.FAILURES_KEPT, order.failure)
    db.execute(_CONCLUDED, (NO_ANSWER if answer is None else answer.status, seq))
    end.end(turn, [seq], order.to, order.cause, answer=answer)
    return Changed("done", order.to)


def _replay(turn: Turn, order: Replay, row: tuple[Any, ...]) -> Changed:
    seq, _, generation, queue, key, size = row
    if generation - 1 != order.generation:
        return Changed("conflict", State.DEAD)
    at_once = key is None or line.is_head(turn, key, seq)
    state = State.READY if at_once else State.WAITING
    turn.db.execute(_REPLAY, (state, turn.now_ms, seq))
    end.remove_beside(turn, [seq])
    tally = turn.tally(queue)
    tally.count(State.DEAD, -1)
    tally.count(state, 1)
    tally.bytes += size
    tally.kept -= size
    if at_once:
        turn.rang.add(queue)
    else:
        line.join(turn, [seq])
        state = State(first(turn.db, "SELECT state FROM ringpost_message WHERE seq = ?", (seq,)))
    turn.ring([order.id])
    _audit(turn, order, "replay")
    return Changed("done", state)


def _report(turn: Turn, order: Report) -> Changed:
    delivery, progress = order.delivery, order.progress
    found = turn.db.execute(_RUNNING, (delivery.ref,)).fetchall()
    if not found:
        return Changed("unknown")
    state, fence, cancel_ms, id = found[0]
    if state != State.RUNNING or fence != delivery.fence:
        return Changed("conflict", State(state))
    turn.db.execute(_PROGRESS, (delivery.ref, turn.now_ms, progress.share, progress.note))
    turn.progressed.add(delivery.ref)
    turn.ring([id])
    return Changed("requested" if cancel_ms > 0 else "done", State.RUNNING)


def _audit(turn: Turn, order: Replay | Drop, what: str) -> None:
    detail = replay_detail(order) if isinstance(order, Replay) else ""
    turn.db.execute(_AUDIT, (turn.now_ms, order.who, what, order.id, detail))
