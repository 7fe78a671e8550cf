"""Settling: how a worker's deliveries ended, each guarded by its fence."""

from collections.abc import Sequence

from ringpost.core.life import Happening
from ringpost.core.message import Kind, Settlement, State
from ringpost.store.memory import end, line, put
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn

FAILURES_KEPT = 5

# What a settlement is in the table of life, by the state that it asks for and whether it charges an attempt.
_HAPPENINGS = {
    State.SUCCEEDED: Happening.SUCCEED,
    State.FAILED: Happening.SUCCEED,
    State.SCHEDULED: Happening.RETRY,
    State.READY: Happening.RELEASE,
    State.DEAD: Happening.REJECT,
    State.CANCELLED: Happening.STOPPED,
    State.FORWARDED: Happening.HAND_OVER,
}


def settle_all(turn: Turn, settlements: Sequence[Settlement]) -> list[bool]:
    """Settle one after the other, so that a second settlement of a row has lost to the first."""
    return [settle(turn, settlement) for settlement in settlements]


def settle(turn: Turn, settlement: Settlement) -> bool:
    """Apply all of a settlement, or nothing where its fence is lost."""
    row = turn.rows.get(settlement.delivery.ref)
    if row is None or row.state is not State.RUNNING or row.fence != settlement.delivery.fence:
        return False
    if turn.watcher is not None and turn.watcher.loses(turn, row):
        return False
    for message in settlement.staged:
        put.put(turn, message, limited=False)
    row.attempts += settlement.charge and settlement.to is not State.READY
    if settlement.failure is not None:
        row.failures = [*row.failures, settlement.failure][-FAILURES_KEPT:]
    if settlement.remove or (row.kind is Kind.CALL and settlement.to not in (State.SUCCEEDED, State.FAILED)):
        end.remove(turn, row)
    elif settlement.to.terminal:
        told = settlement.to is not State.DEAD
        happening = _HAPPENINGS[settlement.to]
        end.end(turn, row, happening, settlement.to, settlement.cause, settlement.answer, told=told)
    elif settlement.to is State.FORWARDED:
        _hand_over(turn, row, settlement)
    else:
        _give_back(turn, row, settlement)
    return True


def _hand_over(turn: Turn, row: Row, settlement: Settlement) -> None:
    """Let another store have a row: here nothing is to be done but to wait for its outcome."""
    row.cause, row.answer = settlement.cause, settlement.answer
    row.drop_hold()
    turn.step(row, row.state, Happening.HAND_OVER, State.FORWARDED)
    line.pass_on(turn, row)


def _give_back(turn: Turn, row: Row, settlement: Settlement) -> None:
    """Give a row back, at once or after a delay; in its line it stays the head."""
    row.due_ms = turn.now_ms + round(settlement.delay_s * 1000) if settlement.to is State.SCHEDULED else row.due_ms
    row.cause = settlement.cause
    row.drop_hold()
    turn.rows.watch_expiry(row)
    turn.step(row, row.state, _HAPPENINGS[settlement.to], settlement.to)
