"""Settling: how a worker's deliveries ended, a whole batch as one statement that compares each fence."""

import re
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.message import Answer, Cause, Failure, Kind, Settlement, State
from ringpost.store.postgres import claim, end, put
from ringpost.store.postgres.db import Db, Row, lost_fence
from ringpost.store.postgres.turn import Turn, columns

FAILURES_KEPT = 5
_JSON = "application/json"
_ANSWERED = (State.SUCCEEDED, State.FAILED)

# Arrays of one settlement a row. `state + 0`: by the row's own index, and not by that of all that run, in which those
# that ran a moment ago still stand.
_WON = f"""
t AS MATERIALIZED (SELECT ringpost.now_ms() AS ms),
won AS (
  UPDATE ringpost.message m SET state = g.goal, status = g.status, cause = g.cause, attempts = m.attempts + g.charge,
    holder = 0, settled_ms = CASE WHEN g.goal >= 10 THEN t.ms END,
    purge_ms = CASE WHEN g.goal = 14 THEN t.ms + 1000::bigint * greatest(m.keep_s, {KEEP_DEAD_S})
      WHEN g.goal >= 10 THEN t.ms + 1000::bigint * m.keep_s END,
    due_ms = CASE WHEN g.goal = 2 THEN greatest(m.due_ms, t.ms + g.delay_ms) ELSE m.due_ms END
  FROM t, unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::smallint[], $5::smallint[], $6::int[], $7::bigint[])
    AS g(seq, fence, goal, status, cause, charge, delay_ms)
  WHERE m.seq = g.seq AND m.fence = g.fence AND m.state + 0 = 5
  RETURNING m.seq, m.fence, m.queue, m.kind, m.size, m.state
),
tallied AS (
  INSERT INTO ringpost.tally SELECT queue, 0, count(*), -count(*), -sum(size), sum(size) FROM won
  WHERE kind = 2 AND state >= 10 GROUP BY queue
)
"""
# The answers that are more than a status, and the failures; of most batches there are none.
_MORE = """,
answered AS (
  INSERT INTO ringpost.outcome (seq, content_type, retry_after_s, processed, body)
  SELECT a.seq, a.content_type, a.retry_after_s, a.processed, a.body
  FROM unnest($8::bigint[], $9::bigint[], $10::text[], $11::float8[], $12::bool[], $13::bytea[])
    AS a(seq, fence, content_type, retry_after_s, processed, body)
    JOIN won ON won.seq = a.seq AND won.fence = a.fence
  ON CONFLICT (seq) DO UPDATE SET content_type = excluded.content_type, retry_after_s = excluded.retry_after_s,
    processed = excluded.processed, body = excluded.body
),
failed AS (
  INSERT INTO ringpost.failure (seq, slot, detail)
  SELECT f.seq, f.slot, f.detail FROM unnest($14::bigint[], $15::bigint[], $16::smallint[], $17::bytea[])
    AS f(seq, fence, slot, detail) JOIN won ON won.seq = f.seq AND won.fence = f.fence
  ON CONFLICT (seq, slot) DO UPDATE SET detail = excluded.detail
)
"""
_SETTLE, _SETTLE_MORE = f"WITH {_WON} SELECT seq, fence FROM won", f"WITH {_WON}{_MORE} SELECT seq, fence FROM won"


def _turn(won: str, used: int) -> str:
    """Put settling and claiming into one statement; the claim's parameters come after the others."""
    claiming = re.sub(r"\$(\d+)", lambda match: f"${int(match[1]) + used}", claim.CLAIM)
    return f"WITH {won}, {claiming} {claim.TAKEN_AND} SELECT {claim.NOTHING}, array_agg(seq) FROM won"


_TURN, _TURN_MORE = _turn(_WON, 7), _turn(_WON + _MORE, 17)
_ONE_OUTCOME = (
    "INSERT INTO ringpost.outcome (seq, content_type, retry_after_s, processed, body) VALUES ($1, $2, $3, $4, $5)"
    " ON CONFLICT (seq) DO UPDATE SET content_type = excluded.content_type, retry_after_s = excluded.retry_after_s,"
    " processed = excluded.processed, body = excluded.body"
)
_ONE_FAILURE = (
    "INSERT INTO ringpost.failure (seq, slot, detail) VALUES ($1, $2, $3)"
    " ON CONFLICT (seq, slot) DO UPDATE SET detail = excluded.detail"
)
_SETTLE_ONE = "SELECT ringpost.settle_one"
# What an earlier try has settled, whose answer didn't come: nobody else can have, as nobody else has this fence.
_SETTLED_BEFORE = (
    "SELECT m.seq, m.fence FROM ringpost.message m"
    " JOIN unnest($1::bigint[], $2::bigint[], $3::smallint[]) g(seq, fence, goal)"
    " ON m.seq = g.seq AND m.fence = g.fence AND m.state = g.goal"
)


async def settle_all(turn: Turn, settlements: Sequence[Settlement]) -> list[bool]:
    """Settle, and put what the winners staged; one answer each, False where the fence was lost."""
    if not settlements:
        return []
    await turn.queues.make(turn.db, [one.delivery.queue for one in settlements])
    await turn.lock(_lines(settlements))
    first = {(one.delivery.ref, one.delivery.fence): one for one in reversed(settlements)}
    unique = list(first.values())  # a row is settled once, whoever brings it twice
    won = await _settle_rows(turn, [one for one in unique if not removes(one)])
    won |= await _remove(turn, [one for one in unique if removes(one)])
    if turn.again and len(won) < len(unique):
        turn.settled_before |= await settled_before(turn, [one for key, one in first.items() if key not in won])
    done = won | turn.settled_before
    settled = [(key := (one.delivery.ref, one.delivery.fence)) in done and first[key] is one for one in settlements]
    winners = [one for key, one in first.items() if key in won]
    await _pass_on(turn, [one for one in winners if not removes(one)])
    await note(turn, winners)
    staged = [message for one in winners for message in one.staged]
    if staged:
        await turn.queues.make(turn.db, [message.queue for message in staged if not message.event])
        await put.put_all(turn, staged, None)
    return settled


def removes(one: Settlement) -> bool:
    """Say whether nothing of the row stays: a reservation that wasn't answered."""
    return one.remove or (one.delivery.kind is Kind.CALL and one.to not in _ANSWERED)


def _values(settlements: Sequence[Settlement]) -> list[list[object]]:
    """Give the arrays that settling takes."""
    rows: list[tuple[object, ...]] = []
    answers: list[tuple[object, ...]] = []
    failures: list[tuple[object, ...]] = []
    for one in settlements:
        delivery, answer = one.delivery, one.answer
        status = None if answer is None else answer.status
        rows.append((delivery.ref, delivery.fence, one.to, status, one.cause, _charge(one), round(one.delay_s * 1000)))
        if answer is not None and _says_more(answer):
            more = (answer.content_type, answer.retry_after_s, answer.processed, answer.body)
            answers.append((delivery.ref, delivery.fence, *more))
        if one.failure is not None:
            slot = delivery.attempt % FAILURES_KEPT
            failures.append((delivery.ref, delivery.fence, slot, msgspec.json.encode(one.failure)))
    if not answers and not failures:
        return columns(rows)
    return [
        *columns(rows),
        *(columns(answers) or [[] for _ in range(6)]),
        *(columns(failures) or [[] for _ in range(4)]),
    ]


def _charge(one: Settlement) -> int:
    return int(one.charge and one.to is not State.READY)


def _says_more(answer: Answer) -> bool:
    return bool(answer.body) or answer.retry_after_s is not None or answer.content_type != _JSON


def plain(one: Settlement) -> bool:
    """Say whether a settlement is one row's own affair, so that it can share a statement with a claim."""
    alone = one.delivery.line is None and not one.staged and not one.sql
    return alone and one.to is not State.DEAD and not removes(one)


async def settle_and_claim(turn: Turn, settlements: Sequence[Settlement], want: list[object]) -> Sequence[Row]:
    """Settle what is plain and claim, in one statement; what was claimed comes first, then the refs that were won."""
    values = _values(settlements)
    sql = _TURN if len(values) == 7 else _TURN_MORE
    rows = await turn.db.fetch(sql, *values, *want)
    await note(turn, settlements)
    return rows


def lone(one: Settlement) -> bool:
    """Say whether a settlement ends a row that stays, and concerns no other."""
    kept = one.to.terminal and one.to is not State.DEAD and not removes(one)
    return kept and one.delivery.line is None and one.failure is None


async def settle_and_commit(turn: Turn, one: Settlement) -> bool:
    """Settle what is `lone`, after all else of its transaction, and commit in the same round trip; False where the
    fence was lost: then nothing is committed."""
    delivery, answer = one.delivery, one.answer
    if answer is not None and _says_more(answer):
        await keep_answer(turn.db, delivery.ref, answer)
    await note(turn, [one])
    status = "NULL" if answer is None else int(answer.status)
    values = f"{delivery.ref:d}, {delivery.fence:d}, {one.to:d}, {status}, {one.cause:d}, {_charge(one)}"
    try:
        await turn.db.commit(f"{turn.db.text(_SETTLE_ONE)}({values})")
    except Exception as exc:
        if not lost_fence(exc):
            raise
        return False
    return True


async def _settle_rows(turn: Turn, settlements: Sequence[Settlement]) -> set[tuple[int, int]]:
    """Settle rows that stay; gives ref and fence of each that was won."""
    if not settlements:
        return set()
    values = _values(settlements)
    sql = _SETTLE if len(values) == 7 else _SETTLE_MORE
    return {(row[0], row[1]) for row in await turn.db.fetch(sql, *values)}


async def settled_before(turn: Turn, settlements: Sequence[Settlement]) -> set[tuple[int, int]]:
    """Give row and fence of those that stand as settled, for who doesn't know whether its commit took place."""
    goals = [(one.delivery.ref, one.delivery.fence, one.to) for one in settlements if not removes(one)]
    return {(row[0], row[1]) for row in await turn.db.fetch(_SETTLED_BEFORE, *columns(goals))} if goals else set()


async def _remove(turn: Turn, settlements: Sequence[Settlement]) -> set[tuple[int, int]]:
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for one in settlements:
        groups[one.delivery.fence].append(one.delivery.ref)
    won: set[tuple[int, int]] = set()
    for fence, refs in groups.items():
        gone = await end.remove(turn, refs, f"m.state = 5 AND m.fence = {int(fence)}")
        won |= {(row[0], fence) for row in gone}
    return won


async def _pass_on(turn: Turn, winners: Sequence[Settlement]) -> None:
    """Let the next of each line go, and tell of the dead."""
    gone = [one for one in winners if one.to.terminal or one.to is State.FORWARDED]
    ended = [one for one in gone if one.delivery.line is not None]
    for dead in (False, True):
        rows = [
            (one.delivery.ref, b"", turn.queues.by_name[one.delivery.queue].no, 0, 0, b"", b"", one.delivery.line)
            for one in ended
            if (one.to is State.DEAD) is dead
        ]
        if rows:
            await end.leave_lines(turn, rows, State.DEAD if dead else State.SUCCEEDED)
    deaths: defaultdict[Cause, list[int]] = defaultdict(list)
    for one in winners:
        if one.to is State.DEAD:
            deaths[one.cause].append(one.delivery.ref)
    for cause, refs in deaths.items():
        await end.tell_deaths(turn, refs, cause)


async def keep_answer(db: Db, seq: int, answer: Answer) -> None:
    """Keep what a row was answered, in the place of what it was answered before."""
    more = (answer.content_type, answer.retry_after_s, answer.processed, answer.body)
    await db.fetch(_ONE_OUTCOME, seq, *more)


async def keep_failure(db: Db, seq: int, slot: int, failure: Failure) -> None:
    """Keep how a row failed, among its last failures."""
    await db.fetch(_ONE_FAILURE, seq, slot, msgspec.json.encode(failure))


async def note(turn: Turn, winners: Sequence[Settlement]) -> None:
    """Remember what waits for it: ids that changed, queues to which something came back."""
    turn.touched.update([one.delivery.id for one in winners])
    turn.rang.update([one.delivery.queue for one in winners if one.to is State.READY])


def _lines(settlements: Sequence[Settlement]) -> set[bytes]:
    lines = {one.delivery.line for one in settlements if one.delivery.line is not None}
    return lines | {message.line for one in settlements for message in one.staged if message.line is not None}
