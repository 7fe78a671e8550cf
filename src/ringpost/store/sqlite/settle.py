"""Settling: how a worker's deliveries ended, grouped so that a batch is a few statements, each guarded by its fence.

All are taken to hold their fence. Where a statement changes fewer rows than it names, the whole turn is rolled back and
taken again with a look at each row first: losing a lease is rare, and so it costs only those that lost.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from ringpost.core.message import Answer, Cause, Delivery, Failure, Kind, Settlement, State
from ringpost.store.sqlite import end, line
from ringpost.store.sqlite.db import Db, first
from ringpost.store.sqlite.rows import NO_ANSWER, decode_pairs, seqs
from ringpost.store.sqlite.turn import Turn

FAILURES_KEPT = 5
_JSON = "application/json"

_SETTLE = (
    "UPDATE ringpost_message SET state = ?1, settled_ms = ?2, status = ?3, cause = ?4, attempts = attempts + ?5"
    " WHERE seq IN (SELECT value FROM carray(?6)) AND fence = ?7 AND state = 5"
)
_RETURN = (
    "UPDATE ringpost_message SET state = ?1, due_ms = max(due_ms, d.due), cause = ?2, attempts = attempts + ?3"
    " FROM (SELECT value ->> 0 AS s, value ->> 1 AS due FROM json_each(?4)) d"
    " WHERE seq = d.s AND fence = ?5 AND state = 5"
)
_HAND_OVER = (
    "UPDATE ringpost_message SET state = 6, status = ?1, cause = ?2, attempts = attempts + ?3"
    " WHERE seq IN (SELECT value FROM carray(?4)) AND fence = ?5 AND state = 5"
)
_REMOVE = "DELETE FROM ringpost_message WHERE seq IN (SELECT value FROM carray(?1)) AND fence = ?2 AND state = 5"
_RUNNING = (
    "SELECT json_group_array(json_array(seq, fence)) FROM ringpost_message"
    " WHERE seq IN (SELECT value FROM carray(?1)) AND state = 5"
)
_OUTCOME_BITS, _OUTCOME_BYTES_MAX = 30, (1 << 30) - 1
_OUTCOME = (
    "INSERT OR REPLACE INTO ringpost_outcome(seq, content_type, retry_after_s, processed, body)"
    f" SELECT cast(substr(?1, 1 + (value >> {_OUTCOME_BITS}), 19) AS INTEGER), ?3, ?4, ?5,"
    f" substr(?1, 20 + (value >> {_OUTCOME_BITS}), value & {_OUTCOME_BYTES_MAX}) FROM carray(?2)"
)
_ONE_OUTCOME = (
    "INSERT OR REPLACE INTO ringpost_outcome(seq, content_type, retry_after_s, processed, body) VALUES (?, ?, ?, ?, ?)"
)
_FAILURE = (
    "INSERT OR REPLACE INTO ringpost_failure(seq, slot, detail)"
    " SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)"
)
_FORGET_PROGRESS = "DELETE FROM ringpost_progress WHERE seq IN (SELECT value FROM carray(?1))"


class FenceLost(Exception):
    """A settlement's row is no longer its holder's: take the turn again, and look first."""


class _Way(msgspec.Struct, frozen=True, gc=False):
    """What the rows of one statement have in common."""

    fence: int
    to: State
    status: int
    cause: Cause
    charge: bool
    removed: bool


def held(turn: Turn, settlements: Sequence[Settlement]) -> list[bool]:
    """Look which of the rows still are their holders'. A second settlement of a row has lost to the first."""
    found = first(turn.db, _RUNNING, (seqs([one.delivery.ref for one in settlements]),))
    running = dict(decode_pairs(found))
    held: list[bool] = []
    for one in settlements:
        held.append(running.get(one.delivery.ref) == one.delivery.fence)
        if held[-1]:
            del running[one.delivery.ref]
    return held


def settle(turn: Turn, settlements: Sequence[Settlement]) -> None:
    """Apply settlements. Raises FenceLost if one is no longer its holder's: then the turn must be rolled back."""
    ways: defaultdict[_Way, list[Settlement]] = defaultdict(list)
    key = (0, State.SUCCEEDED, 0, Cause.NONE, True, False)
    group: list[Settlement] = []
    for one in settlements:  # mostly they are all of one way: compare before making a key
        delivery, answer = one.delivery, one.answer
        removed = one.remove or (delivery.kind is Kind.CALL and one.to not in _ANSWERED)
        this = (delivery.fence, one.to, NO_ANSWER if answer is None else answer.status, one.cause, one.charge, removed)
        if this != key:
            key = this
            group = ways[_Way(*this)]
        group.append(one)
    for way, rows in ways.items():
        _settle_way(turn, way, rows)
    _after(turn, settlements)
    for way, rows in ways.items():
        if way.to is State.DEAD and not way.removed:
            end.tell_deaths(turn, [one.delivery.ref for one in rows], way.cause)


_ANSWERED = (State.SUCCEEDED, State.FAILED)


def _settle_way(turn: Turn, way: _Way, rows: list[Settlement]) -> None:
    refs = seqs([one.delivery.ref for one in rows])
    charge = way.charge and way.to is not State.READY
    execute = turn.db.execute
    if way.removed:
        _leave_lines(turn, rows)
        execute(_REMOVE, (refs, way.fence))
    elif way.to.terminal:
        execute(_SETTLE, (way.to, turn.now_ms, way.status, way.cause, charge, refs, way.fence))
    elif way.to is State.FORWARDED:
        execute(_HAND_OVER, (way.status, way.cause, charge, refs, way.fence))
    else:
        dues = [[one.delivery.ref, turn.now_ms + round(one.delay_s * 1000)] for one in rows]
        if way.to is State.READY:
            dues = [[ref, 0] for ref, _ in dues]
        execute(_RETURN, (way.to, way.cause, charge, msgspec.json.encode(dues).decode(), way.fence))
    if turn.db.changes() != len(rows):
        raise FenceLost
    if way.removed:
        end.delete(turn, [one.delivery.ref for one in rows])
    if (way.to.terminal or way.to is State.FORWARDED) and not way.removed:
        _leave_lines(turn, rows if way.to is not State.DEAD else _not_halting(turn, rows))
    _count(turn, way, rows)


def _not_halting(turn: Turn, rows: list[Settlement]) -> list[Settlement]:
    """Leave out what keeps its line waiting although it is dead."""
    return [one for one in rows if one.delivery.line is None or not turn.look().halts(one.delivery.queue)]


def _leave_lines(turn: Turn, rows: list[Settlement]) -> None:
    lined = [one.delivery for one in rows if one.delivery.line is not None]
    if lined:
        line.leave_as_heads(turn, [one.ref for one in lined], [one.line for one in lined if one.line is not None])


def _count(turn: Turn, way: _Way, rows: list[Settlement]) -> None:
    counts: defaultdict[str, int] = defaultdict(int)
    sizes: defaultdict[str, int] = defaultdict(int)
    for one in rows:
        delivery = one.delivery
        if delivery.kind is Kind.CALL:  # a reservation is no message: nobody counts it
            continue
        counts[delivery.queue] += 1
        sizes[delivery.queue] += len(delivery.headers) + len(delivery.body)
    for name, count in counts.items():
        no = turn.queues.make(name).no
        tally = turn.tally(no)
        if way.removed:
            tally.ends += count
            tally.bytes -= sizes[name]
        elif way.to.terminal:
            tally.end(count, sizes[name])
        if not way.removed:
            tally.count(way.to, count)
            if way.to is State.READY:
                turn.rang.add(no)


def _after(turn: Turn, settlements: Sequence[Settlement]) -> None:
    """Keep what comes with the ends: answers, failures; forget progress."""
    answered: list[tuple[Delivery, Answer]] = []
    failed: list[tuple[Delivery, Failure]] = []
    for one in settlements:
        answer = one.answer
        if answer is not None and (answer.body or answer.retry_after_s is not None or answer.content_type != _JSON):
            answered.append((one.delivery, answer))
        if one.failure is not None:
            failed.append((one.delivery, one.failure))
    if answered:
        _keep_answers(turn.db, answered)
    if failed:
        details = [
            [delivery.ref, delivery.attempt % FAILURES_KEPT, msgspec.json.encode(failure).decode()]
            for delivery, failure in failed
        ]
        turn.db.execute(_FAILURE, (msgspec.json.encode(details).decode(),))
    if turn.progressed:
        over = turn.progressed.intersection([one.delivery.ref for one in settlements if one.to.terminal or one.remove])
        if over:
            turn.db.execute(_FORGET_PROGRESS, (seqs(over),))
            turn.over |= over
    if turn.watched:
        turn.ring([one.delivery.id for one in settlements])


def keep_answer(db: Db, seq: int, answer: Answer) -> None:
    """Keep what a row was answered, in the place of what it was answered before."""
    bindings = (seq, answer.content_type, answer.retry_after_s, answer.processed, answer.body)
    db.execute(_ONE_OUTCOME, bindings)


def keep_failure(db: Db, seq: int, slot: int, failure: Failure) -> None:
    """Keep how a row failed, among its last failures."""
    db.execute(_FAILURE, (msgspec.json.encode([[seq, slot, msgspec.json.encode(failure).decode()]]).decode(),))


def _keep_answers(db: Db, answered: list[tuple[Delivery, Answer]]) -> None:
    groups: defaultdict[tuple[str, float | None, bool], list[tuple[int, bytes]]] = defaultdict(list)
    for delivery, answer in answered:
        groups[answer.content_type, answer.retry_after_s, answer.processed].append((delivery.ref, answer.body))
    for (content_type, retry_after_s, processed), rows in groups.items():
        parts: list[bytes] = []
        numbers: list[int] = []
        at = 0
        for ref, body in rows:
            parts += (b"%019d" % ref, body)
            numbers.append(at << _OUTCOME_BITS | len(body))
            at += 19 + len(body)
        bindings: tuple[Any, ...] = (b"".join(parts), seqs(numbers), content_type, retry_after_s, processed)
        db.execute(_OUTCOME, bindings)
