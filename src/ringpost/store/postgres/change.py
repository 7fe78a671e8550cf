"""Orders on single rows: cancel, replay, drop, the progress of a running one, the outcome of a forwarded one."""

from ringpost.core.message import Cause, State
from ringpost.store.port import Cancel, Changed, Conclude, Drop, Order, Replay, Report, replay_detail
from ringpost.store.postgres import end, line, settle
from ringpost.store.postgres.db import Row
from ringpost.store.postgres.turn import Turn

_FIND = "SELECT m.seq, m.line FROM ringpost.letter l JOIN ringpost.message m ON m.seq = l.seq WHERE l.id = $1"
_ROW = (
    "SELECT m.seq, m.state, m.generation, m.queue, m.line, m.size FROM ringpost.message m WHERE m.seq = $1 FOR UPDATE"
)
_RUNNING = (
    "SELECT m.state, m.fence, m.cancel_ms, l.id FROM ringpost.message m JOIN ringpost.letter l ON l.seq = m.seq"
    " WHERE m.seq = $1 FOR UPDATE OF m"
)
_ASK_CANCEL = "UPDATE ringpost.message SET cancel_ms = ringpost.now_ms() WHERE seq = $1"
_REPLAY = (
    "WITH replayed AS (UPDATE ringpost.message SET state = $2, generation = generation + 1, attempts = 0, losses = 0,"
    f" cause = {Cause.NONE}, status = NULL, due_ms = ringpost.now_ms(), started_ms = NULL, settled_ms = NULL,"
    " purge_ms = NULL, cancel_ms = NULL, expires_ms = NULL WHERE seq = $1 RETURNING seq, queue, size),"
    " outcomes AS (DELETE FROM ringpost.outcome WHERE seq = $1),"
    " failures AS (DELETE FROM ringpost.failure WHERE seq = $1),"
    " progress AS (DELETE FROM ringpost.progress WHERE seq = $1)"
    " INSERT INTO ringpost.tally SELECT queue, 0, 0, 1, size, -size FROM replayed"
)
_PROGRESS = (
    "INSERT INTO ringpost.progress (seq, at_ms, share, note) VALUES ($1, ringpost.now_ms(), $2, $3)"
    " ON CONFLICT (seq) DO UPDATE SET at_ms = excluded.at_ms, share = excluded.share, note = excluded.note"
)
_CONCLUDED = "UPDATE ringpost.message SET status = $2 WHERE seq = $1 RETURNING attempts"
_FORGET_ANSWER = "DELETE FROM ringpost.outcome WHERE seq = $1"
_AUDIT = "INSERT INTO ringpost.audit (at_ms, who, what, id, detail) VALUES (ringpost.now_ms(), $1, $2, $3, $4)"


async def obey(turn: Turn, order: Order) -> Changed:
    """Carry out one order."""
    if isinstance(order, Report):
        return await _report(turn, order)
    found = await turn.db.fetch(_FIND, order.id)
    if not found:
        return Changed("unknown")
    if found[0][1] is not None:
        await turn.lock([found[0][1]])
    rows = await turn.db.fetch(_ROW, found[0][0])
    if not rows:
        return Changed("unknown")
    if isinstance(order, Cancel):
        return await _cancel(turn, order, rows[0])
    if isinstance(order, Conclude):
        return await _conclude(turn, order, rows[0])
    state = State(rows[0][1])
    if state is not State.DEAD:
        return Changed("too_late", state)
    if isinstance(order, Drop):
        await end.remove(turn, [rows[0][0]], "m.state = 14")
        await turn.db.fetch(_AUDIT, order.who, "drop", order.id, "")
        return Changed("done", State.DEAD)
    return await _replay(turn, order, rows[0])


async def _cancel(turn: Turn, order: Cancel, row: Row) -> Changed:
    seq, state = row[0], State(row[1])
    if state.terminal:
        return Changed("too_late", state)
    if state in (State.RUNNING, State.FORWARDED):
        await turn.db.fetch(_ASK_CANCEL, seq)
        turn.touched.add(order.id)
        return Changed("requested", state)
    await end.end(turn, [seq], State.CANCELLED, Cause.CANCELLED, end.WAITS)
    return Changed("done", State.CANCELLED)


async def _replay(turn: Turn, order: Replay, row: Row) -> Changed:
    seq, _, generation, queue, key, _ = row
    if generation != order.generation:
        return Changed("conflict", State.DEAD)
    state = State.READY if key is None or await line.is_head(turn, key, seq) else State.WAITING
    await turn.db.fetch(_REPLAY, seq, state)
    if state is State.READY:
        await turn.ring([queue])
    elif key is not None and await line.join(turn, [seq], [key]):
        state = State((await turn.db.fetch("SELECT state FROM ringpost.message WHERE seq = $1", seq))[0][0])
    turn.touched.add(order.id)
    await turn.db.fetch(_AUDIT, order.who, "replay", order.id, replay_detail(order))
    return Changed("done", state)


async def _conclude(turn: Turn, order: Conclude, row: Row) -> Changed:
    """End a row as it ended where it was forwarded to."""
    seq, state, generation = row[0], State(row[1]), row[2]
    if generation != order.generation:
        return Changed("conflict", state)
    if state is not State.FORWARDED:
        return Changed("too_late" if state.terminal else "conflict", state)
    answer, db = order.answer, turn.db
    if answer is None:
        await db.fetch(_FORGET_ANSWER, seq)
    else:
        await settle.keep_answer(db, seq, answer)
    attempts = (await db.fetch(_CONCLUDED, seq, None if answer is None else answer.status))[0][0]
    if order.failure is not None:
        await settle.keep_failure(db, seq, attempts % settle.FAILURES_KEPT, order.failure)
    await end.end(turn, [seq], order.to, order.cause, end.AWAY, answer=answer)
    return Changed("done", order.to)


async def _report(turn: Turn, order: Report) -> Changed:
    delivery, progress = order.delivery, order.progress
    found = await turn.db.fetch(_RUNNING, delivery.ref)
    if not found:
        return Changed("unknown")
    state, fence, cancel_ms, id = found[0]
    if state != State.RUNNING or fence != delivery.fence:
        return Changed("conflict", State(state))
    await turn.db.fetch(_PROGRESS, delivery.ref, progress.share, progress.note)
    turn.touched.add(id)
    return Changed("requested" if cancel_ms is not None else "done", State.RUNNING)
