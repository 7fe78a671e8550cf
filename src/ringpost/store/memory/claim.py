"""Claiming: ready rows become deliveries under one new fence; what has expired ends instead."""

from collections.abc import Mapping

from ringpost.core.life import Happening
from ringpost.core.message import Cause, Delivery, State
from ringpost.store.memory import end, notes
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn


def claim(turn: Turn, want: Mapping[str, int], holder: int, lease_s: float, suspects: int) -> list[Delivery]:
    """Take at most as many of each queue as wanted, all under one new fence."""
    taken: list[Row] = []
    for queue, wanted in want.items():
        if _stopped(turn, queue):
            turn.alarm.clear(queue)
            continue
        rows = _take(turn, queue, wanted, suspects)
        suspects -= sum(row.suspect for row in rows)
        taken += rows
        if len(rows) < wanted:
            turn.alarm.clear(queue)
    fence = turn.place.next_fence() if taken else 0
    for row in taken:
        row.hold(holder, fence, lease_s, turn.now_ms)
        turn.step(row, row.state, Happening.CLAIM, State.RUNNING)
    return [row.delivery() for row in taken]


def _stopped(turn: Turn, queue: str) -> bool:
    return (turn.watcher is not None and turn.watcher.stops(queue)) or notes.paused(turn, queue)


def _take(turn: Turn, queue: str, wanted: int, suspects: int) -> list[Row]:
    """Find rows that can run. Suspects beyond their number are left where they are."""
    rows: list[Row] = []
    while len(rows) < wanted:
        row = turn.rows.pop_ready(queue, suspects > sum(row.suspect for row in rows))
        if row is None:
            break
        if row.overdue(turn.now_ms):
            end.end(turn, row, Happening.EXPIRE, State.EXPIRED, Cause.EXPIRED)
        else:
            rows.append(row)
    return rows


def next_due_s(turn: Turn) -> float | None:
    """Give the seconds until something scheduled becomes due; None where nothing is."""
    due_ms = turn.rows.next_due_ms()
    return None if due_ms is None else max(due_ms - turn.now_ms, 0) / 1000
