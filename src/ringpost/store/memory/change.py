"""Orders on single rows: cancel, replay, drop, the progress of a running one, the outcome of a forwarded one."""

from ringpost.core.life import Happening
from ringpost.core.message import Cause, State
from ringpost.store.memory import end, line
from ringpost.store.memory.row import Row
from ringpost.store.memory.settle import FAILURES_KEPT
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Cancel, Changed, Conclude, Drop, Order, Replay, Report, replay_detail


def obey(turn: Turn, order: Order) -> Changed:
    """Carry out one order."""
    if isinstance(order, Report):
        return _report(turn, order)
    row = turn.rows.with_id(order.id)
    if row is None:
        return Changed("unknown")
    if isinstance(order, Cancel):
        return _cancel(turn, row)
    if isinstance(order, Conclude):
        return _conclude(turn, row, order)
    if row.state is not State.DEAD:
        return Changed("too_late", row.state)
    if isinstance(order, Drop):
        end.remove(turn, row)
        turn.audit(order.id, order.who, "drop", "")
        return Changed("done", State.DEAD)
    return _replay(turn, row, order)


def _cancel(turn: Turn, row: Row) -> Changed:
    if row.state.terminal:
        return Changed("too_late", row.state)
    if row.state in (State.RUNNING, State.FORWARDED):
        row.cancel_asked = True
        turn.alarm.ring_id(row.id)
        return Changed("requested", row.state)
    end.end(turn, row, Happening.CANCEL, State.CANCELLED, Cause.CANCELLED)
    return Changed("done", State.CANCELLED)


def _conclude(turn: Turn, row: Row, order: Conclude) -> Changed:
    """End a row as it ended where it was forwarded to."""
    if row.generation != order.generation:
        return Changed("conflict", row.state)
    if row.state is not State.FORWARDED:
        return Changed("too_late" if row.state.terminal else "conflict", row.state)
    if order.failure is not None:
        row.failures = [*row.failures, order.failure][-FAILURES_KEPT:]
    end.end(turn, row, Happening.OUTCOME, order.to, order.cause, order.answer)
    return Changed("done", order.to)


def _replay(turn: Turn, row: Row, order: Replay) -> Changed:
    if row.generation != order.generation:
        return Changed("conflict", row.state)
    row.generation += 1
    row.attempts = row.losses = 0
    row.started_ms = row.settled_ms = row.expires_ms = None
    row.cancel_asked, row.cause, row.answer = False, Cause.NONE, None
    row.due_ms = turn.now_ms
    line.settle_in(turn, row, Happening.REPLAY)
    turn.audit(order.id, order.who, "replay", replay_detail(order))
    return Changed("done", row.state)


def _report(turn: Turn, order: Report) -> Changed:
    row = turn.rows.get(order.delivery.ref)
    if row is None:
        return Changed("unknown")
    if row.state is not State.RUNNING or row.fence != order.delivery.fence:
        return Changed("conflict", row.state)
    row.progress = order.progress
    row.progress.at_ms = turn.now_ms
    turn.alarm.ring_id(row.id)
    return Changed("requested" if row.cancel_asked else "done", row.state)
