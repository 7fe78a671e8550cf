"""The store in memory: the whole port, with nothing on a disk. Tests and the harness run on it.

It is the port's plainest reading: one lock, one row object a delivery, and the table of `core/life.py` at every step.
"""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from msgspec import Struct, structs

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core import farewell, ids, lease, life, notes
from ringpost.core.arrival import arrives
from ringpost.core.keep import KEEP_DEAD_S
from ringpost.core.life import Happening
from ringpost.core.message import (
    Answer,
    Cause,
    Kind,
    Message,
    Record,
    Settlement,
    State,
)
from ringpost.core.subscription import caught_up, missed, read_on, room
from ringpost.settings import Settings
from ringpost.store.log import delivery_of
from ringpost.store.memory.alarm import Alarm
from ringpost.store.memory.log import Kept, Log
from ringpost.store.memory.rows import Row, Rows, row_of
from ringpost.store.port import (
    AUDITED_MAX,
    Audited,
    Cancel,
    CaughtUp,
    Changed,
    Claimed,
    Conclude,
    Depth,
    Drop,
    Exported,
    Facts,
    Filter,
    Note,
    Order,
    Passage,
    Put,
    Refused,
    Renewed,
    Replay,
    Report,
    SqlTransaction,
    Tended,
    Woken,
    replay_detail,
    untouched,
)

FIRST_FENCE = 1 << 24
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
_AUDITS_MAX = 10_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryStore:
    """Keep messages in this process only: level `buffered`, gone when the process ends.

    `clock` gives Unix milliseconds. Whoever opens it has asked for it by name (`memory:`), so it opens whatever
    durability the settings ask for; its receipts say `buffered`. One event loop may use it; `renew` any thread.
    """

    def __init__(self, settings: Settings | None = None, clock: Callable[[], int] = wall_ms) -> None:
        self._settings = settings or Settings()
        self._clock = clock
        self._lock = threading.Lock()
        self._rows = Rows()
        self._log = Log()
        self._notes: dict[str, _KeptNote] = {}
        self._audits: deque[tuple[bytes, Audited]] = deque(maxlen=_AUDITS_MAX)
        self._fence = FIRST_FENCE
        self._alarm = Alarm()
        self._closed = False
        self.facts = Facts(
            store_id=secrets.token_hex(8),
            level="buffered",
            capabilities=frozenset({"lines", "priority", "find", "delay", "move"}),
            url="memory:",
        )

    async def open(self, *, create: bool = False, accept_loss: bool = False) -> Facts:
        """Give the facts. There is nothing to create or to lose; repeating it is harmless."""
        return self.facts

    async def close(self) -> None:
        """Wake every waiter and refuse whatever comes after; the rows are gone. Repeating it is harmless."""
        self._closed = True
        self._alarm.ring_all()

    # --- putting

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        with self._turn() as now_ms:
            return [self._put(message, now_ms, limited=True) for message in messages]

    def _put(self, message: Message, now_ms: int, *, limited: bool) -> Put:
        if message.event:
            return self._fan_out(message, now_ms, limited)
        known = self._known(message, now_ms)
        if known is not None:
            return known
        if limited and self._full(message):
            return Put(message.id, refused="full")
        row = self._new_row(message, now_ms)
        self._rows.add(row)
        if message.reserve is not None:
            self._reserve(row, message, now_ms, Happening.RESERVE)
            return Put(row.id, delivery=row.delivery())
        self._settle_in(row, now_ms, Happening.PUT)
        return Put(row.id)

    def _known(self, message: Message, now_ms: int) -> Put | None:
        """Answer for a message whose id or dedup key is there already."""
        row = self._rows.with_id(message.id)
        if row is not None:
            if not row.same_content(message):
                return Put(row.id, duplicate=True, state=row.state, refused="mismatch")
            return Put(row.id, duplicate=True, state=row.state)
        row = self._rows.with_dedup(message.dedup)
        if row is None:
            return None
        if row.digest != message.digest:
            return Put(row.id, duplicate=True, state=row.state, refused="key_reused")
        if row.kind is Kind.CALL and row.state is State.RUNNING and row.lease_ms < now_ms and message.reserve:
            row.losses += 1
            self._reserve(row, message, now_ms, Happening.OVERTAKE)
            return Put(row.id, duplicate=True, state=row.state, delivery=row.delivery())
        return Put(row.id, duplicate=True, state=row.state)

    def _fan_out(self, message: Message, now_ms: int, limited: bool) -> Put:
        """Make one delivery a subscription, all or none; ids derive from the event's, so a repetition is absorbed."""
        subscriptions = self._subscriptions(message.event, now_ms)
        told = self._told(message, subscriptions) if message.log_s else None
        if told is not None:
            return told
        live = [queue for queue, one in subscriptions.items() if one.live]
        deliveries = [_delivery_of_event(message, queue) for queue in live]
        known = [self._known(delivery, now_ms) for delivery in deliveries]
        refusals: list[Refused] = [put.refused for put in known if put is not None and put.refused]
        refused: Refused = refusals[0] if refusals else ""
        fresh = [delivery for delivery, put in zip(deliveries, known, strict=True) if put is None]
        if not refused and limited and any(self._full(delivery) for delivery in fresh):
            refused = "full"
        if refused:
            return Put(message.id, receivers=len(deliveries), refused=refused)
        for delivery in fresh:
            self._put(delivery, now_ms, limited=False)
        duplicate = bool(deliveries) and not fresh
        if not duplicate:
            at = self._keep(message, frozenset(live), now_ms) if message.log_s else 0
            self._count_gaps(message.event, subscriptions, at, now_ms)
        return Put(message.id, duplicate=duplicate, receivers=_receivers(subscriptions))

    def _keep(self, message: Message, receivers: frozenset[str], now_ms: int) -> int:
        """Keep an event in its log; gives its place."""
        return self._log.append(message, receivers, now_ms)

    def _count_gaps(self, event: str, subscriptions: Mapping[str, notes.Subscription], at: int, now_ms: int) -> None:
        """Write down what suspended subscriptions missed."""
        for queue, one in subscriptions.items():
            if one.misses:
                self._rewrite(notes.subscription(event, queue), missed(one, 1, at, now_ms))

    def _told(self, message: Message, subscriptions: Mapping[str, notes.Subscription]) -> Put | None:
        """Answer for an event that its log has already."""
        entry = self._log.known(message.id)
        if entry is None:
            return None
        same = (entry.headers, entry.body) == (message.headers, message.body)
        return Put(message.id, duplicate=same, receivers=_receivers(subscriptions), refused="" if same else "mismatch")

    def _subscriptions(self, event: str, now_ms: int) -> dict[str, notes.Subscription]:
        prefix = notes.subscription(event, "")
        return {
            name.removeprefix(prefix): notes.decode_subscription(note.value)
            for name, note in sorted(self._notes.items())
            if name.startswith(prefix) and note.alive(now_ms)
        }

    def _rewrite(self, name: str, subscription: notes.Subscription) -> None:
        note = self._notes[name]
        note.value, note.version = notes.encode(subscription), note.version + 1

    def _full(self, message: Message) -> bool:
        if message.kind is Kind.CALL:
            return False
        counts = self._rows.counts[message.queue]
        size = len(message.headers) + len(message.body)
        return counts.live >= self._settings.depth_max or counts.live_bytes + size > self._settings.depth_bytes_max

    def _new_row(self, message: Message, now_ms: int) -> Row:
        due_ms = message.due_ms if message.due_ms is not None else now_ms + round(message.delay_s * 1000)
        return Row(
            ref=self._rows.next_ref(),
            id=message.id,
            queue=message.queue,
            headers=message.headers,
            body=message.body,
            kind=message.kind,
            priority=message.priority,
            created_ms=now_ms,
            due_ms=max(due_ms, now_ms),
            expires_ms=None if message.ttl_s is None else now_ms + round(message.ttl_s * 1000),
            line=message.line,
            dedup=message.dedup,
            digest=message.digest,
            keep_s=message.keep_s,
            state=State.SCHEDULED,
            fence=self._fence,
            caller=message.caller,
        )

    def _settle_in(self, row: Row, now_ms: int, happening: Happening) -> None:
        """Put a row where it waits: until it is due, behind its line, or ready."""
        before = None if happening is Happening.PUT else row.state
        if row.due_ms > now_ms:
            self._move(row, before, happening, State.SCHEDULED)
        else:
            ahead = self._rows.join_line(row)
            self._move(row, before, happening, State.READY if ahead else State.WAITING)

    def _reserve(self, row: Row, message: Message, now_ms: int, happening: Happening) -> None:
        assert message.reserve is not None
        before = None if happening is Happening.RESERVE else row.state
        self._rows.join_line(row)
        self._hold(row, message.reserve.holder, self._next_fence(), message.reserve.lease_s, now_ms)
        self._move(row, before, happening, State.RUNNING)

    # --- claiming and settling

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        with self._turn() as now_ms:
            settled = [self._settle(settlement, now_ms) for settlement in settlements]
            taken: list[Row] = []
            for queue, wanted in want.items():
                if self._paused(queue, now_ms):
                    self._alarm.clear(queue)
                    continue
                rows = self._take(queue, wanted, suspects, now_ms)
                suspects -= sum(row.suspect for row in rows)
                taken += rows
                if len(rows) < wanted:
                    self._alarm.clear(queue)
            fence = self._next_fence() if taken else 0
            for row in taken:
                self._hold(row, holder, fence, lease_s, now_ms)
                self._move(row, row.state, Happening.CLAIM, State.RUNNING)
            return Claimed([row.delivery() for row in taken], settled, self._next_due_s(now_ms))

    def _take(self, queue: str, wanted: int, suspects: int, now_ms: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < wanted:
            row = self._rows.pop_ready(queue, suspects > sum(row.suspect for row in rows))
            if row is None:
                break
            if row.overdue(now_ms):
                self._end(row, Happening.EXPIRE, State.EXPIRED, Cause.EXPIRED, now_ms)
            else:
                rows.append(row)
        return rows

    def _hold(self, row: Row, holder: int, fence: int, lease_s: float, now_ms: int) -> None:
        row.holder, row.fence = holder, fence
        row.lease_ms = now_ms + round(lease_s * 1000)
        row.started_ms = now_ms if row.started_ms is None else row.started_ms

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._turn() as now_ms:
            return [self._settle(settlement, now_ms) for settlement in settlements]

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        """Apply all of a settlement, or nothing where its fence is lost."""
        row = self._rows.get(settlement.delivery.ref)
        if row is None or row.state is not State.RUNNING or row.fence != settlement.delivery.fence:
            return False
        for message in settlement.staged:
            self._put(message, now_ms, limited=False)
        row.attempts += settlement.charge and settlement.to is not State.READY
        if settlement.failure is not None:
            row.failures = [*row.failures, settlement.failure][-FAILURES_KEPT:]
        if settlement.remove or (row.kind is Kind.CALL and settlement.to not in (State.SUCCEEDED, State.FAILED)):
            self._remove(row)
        elif settlement.to.terminal:
            happening = _HAPPENINGS[settlement.to]
            told = settlement.to is not State.DEAD
            self._end(row, happening, settlement.to, settlement.cause, now_ms, settlement.answer, told=told)
        elif settlement.to is State.FORWARDED:
            self._hand_over(row, settlement)
        else:
            self._return(row, settlement, now_ms)
        return True

    def _hand_over(self, row: Row, settlement: Settlement) -> None:
        """Let another store have a row: here nothing is to be done but to wait for its outcome."""
        row.cause, row.answer = settlement.cause, settlement.answer
        self._drop_hold(row)
        self._move(row, row.state, Happening.HAND_OVER, State.FORWARDED)
        self._pass_on(row)

    def _return(self, row: Row, settlement: Settlement, now_ms: int) -> None:
        """Give a row back, at once or after a delay; in its line it stays the head."""
        row.due_ms = now_ms + round(settlement.delay_s * 1000) if settlement.to is State.SCHEDULED else row.due_ms
        row.cause = settlement.cause
        self._drop_hold(row)
        self._rows.watch_expiry(row)
        self._move(row, row.state, _HAPPENINGS[settlement.to], settlement.to)

    def begin(self, where: Callable[[], str]) -> SqlTransaction:
        raise UsageError("the memory store runs no SQL: use a store with tables, as sqlite:///ringpost.db")

    def renew(self, holder: int, lease_s: float) -> Renewed:
        with self._turn() as now_ms:
            rows = [row for row in self._rows.held() if row.holder == holder]
            for row in rows:
                row.lease_ms = now_ms + round(lease_s * 1000)
            return Renewed([row.ref for row in rows if row.cancel_asked], len(rows))

    # --- orders

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        with self._turn() as now_ms:
            return [self._obey(order, now_ms) for order in orders]

    def _obey(self, order: Order, now_ms: int) -> Changed:
        if isinstance(order, Report):
            return self._report(order, now_ms)
        row = self._rows.with_id(order.id)
        if row is None:
            return Changed("unknown")
        if isinstance(order, Cancel):
            return self._cancel(row, now_ms)
        if isinstance(order, Conclude):
            return self._conclude(row, order, now_ms)
        if row.state is not State.DEAD:
            return Changed("too_late", row.state)
        if isinstance(order, Drop):
            self._remove(row)
            self._note_done(order, "drop", "", now_ms)
            return Changed("done", State.DEAD)
        return self._replay(row, order, now_ms)

    def _cancel(self, row: Row, now_ms: int) -> Changed:
        if row.state.terminal:
            return Changed("too_late", row.state)
        if row.state in (State.RUNNING, State.FORWARDED):
            row.cancel_asked = True
            self._alarm.ring_id(row.id)
            return Changed("requested", row.state)
        self._end(row, Happening.CANCEL, State.CANCELLED, Cause.CANCELLED, now_ms)
        return Changed("done", State.CANCELLED)

    def _conclude(self, row: Row, order: Conclude, now_ms: int) -> Changed:
        if row.generation != order.generation:
            return Changed("conflict", row.state)
        if row.state is not State.FORWARDED:
            return Changed("too_late" if row.state.terminal else "conflict", row.state)
        if order.failure is not None:
            row.failures = [*row.failures, order.failure][-FAILURES_KEPT:]
        self._end(row, Happening.OUTCOME, order.to, order.cause, now_ms, order.answer)
        return Changed("done", order.to)

    def _replay(self, row: Row, order: Replay, now_ms: int) -> Changed:
        if row.generation != order.generation:
            return Changed("conflict", row.state)
        row.generation += 1
        row.attempts = row.losses = 0
        row.started_ms = row.settled_ms = row.expires_ms = None
        row.cancel_asked, row.cause, row.answer = False, Cause.NONE, None
        row.due_ms = now_ms
        self._settle_in(row, now_ms, Happening.REPLAY)
        self._note_done(order, "replay", replay_detail(order), now_ms)
        return Changed("done", row.state)

    def _note_done(self, order: Replay | Drop, what: str, detail: str, now_ms: int) -> None:
        self._audits.append((order.id, Audited(now_ms, order.who, what, detail)))

    def _report(self, order: Report, now_ms: int) -> Changed:
        row = self._rows.get(order.delivery.ref)
        if row is None:
            return Changed("unknown")
        if row.state is not State.RUNNING or row.fence != order.delivery.fence:
            return Changed("conflict", row.state)
        row.progress = order.progress
        row.progress.at_ms = now_ms
        self._alarm.ring_id(row.id)
        return Changed("requested" if row.cancel_asked else "done", row.state)

    # --- reading

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        with self._turn() as now_ms:
            return [self._read(self._rows.with_id(id), bodies, now_ms) for id in ids]

    def _read(self, row: Row | None, bodies: bool, now_ms: int) -> Record | None:
        """Show a row; what is overdue expires first, so that nobody waits for what nobody will do."""
        if row is None:
            return None
        if row.state < State.RUNNING and row.overdue(now_ms):
            self._end(row, Happening.EXPIRE, State.EXPIRED, Cause.EXPIRED, now_ms)
        return row.record(bodies)

    async def find(self, filter: Filter, /) -> list[Record]:
        with self._turn():
            rows = (row for row in self._rows if row.fits(filter))
            return [row.record(filter.bodies) for row in islice(rows, filter.limit)]

    async def audit(self, id: bytes) -> list[Audited]:
        with self._turn():
            return [audited for about, audited in self._audits if about == id][-AUDITED_MAX:]

    async def depths(self) -> list[Depth]:
        with self._turn():
            found = {
                queue: Depth(queue, 0, 0, 0, 0, 0, None, counts.puts, counts.ends)
                for queue, counts in self._rows.counts.items()
                if counts.puts
            }
            for row in self._rows:
                if row.kind is Kind.MESSAGE:
                    _count(found[row.queue], row)
            return [found[queue] for queue in sorted(found)]

    # --- moving

    async def export(self, states: tuple[State, ...], after: int, limit: int) -> list[Exported]:
        with self._turn():
            rows = (row for row in self._rows if row.ref > after and row.state in states and not self._held(row))
            return [row.exported(self._rows.is_head(row)) for row in islice(rows, limit)]

    def _held(self, row: Row) -> bool:
        """Say whether a row runs, or waits behind one that does."""
        head = self._rows.head_of(row.line) if row.state in life.QUEUED else row
        return head is not None and head.state is State.RUNNING

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        with self._turn() as now_ms:
            name = notes.arrived(passage.source)
            kept = self._notes.get(name)
            before = notes.decode_arrived(b"" if kept is None else kept.value).of(passage.move)
            answers = [self._take_in(row, before, passage, now_ms) for row in rows]
            came = notes.came(passage.move, [put.id for put in answers if not put.refused], before)
            self._notes[name] = _KeptNote(notes.encode(came), 1 if kept is None else kept.version + 1, None)
            return answers

    def _take_in(self, exported: Exported, before: frozenset[str], passage: Passage, now_ms: int) -> Put:
        record = exported.record
        known = self._rows.with_id(record.id)
        if known is not None:
            refused: Refused = "" if known.same_content(record) else "mismatch"
            return Put(record.id, duplicate=True, state=known.state, refused=refused)
        if record.id.hex() in before:
            return Put(record.id, duplicate=True)
        if not exported.sound:
            return Put(record.id, refused="mismatch")
        taken = self._rows.with_dedup(exported.dedup)
        if taken is not None:
            return Put(taken.id, duplicate=True, state=taken.state, refused="key_reused")
        row = row_of(exported, self._rows.next_ref(), self._fence)
        self._rows.add(row)
        self._arrive(row, exported)
        if row.state is State.DEAD:
            self._audits.append((row.id, Audited(now_ms, passage.who, "move", f"from store {passage.source}")))
        return Put(row.id)

    def _arrive(self, row: Row, exported: Exported) -> None:
        state = exported.record.state
        if row.line is not None:
            free = self._rows.head_of(row.line) is None
            state, stands = arrives(state, heads=exported.heads, free=free)
            if stands:
                self._rows.join_line(row)
        if state.terminal:
            assert row.settled_ms is not None
            self._rows.set_ended(row, state, row.settled_ms + 1000 * _keep_s(row, state))
        else:
            self._move(row, None, Happening.TAKE_IN, state)

    async def take_out(self, rows: Sequence[Exported], passage: Passage) -> list[bool]:
        with self._turn() as now_ms:
            return [self._take_out(exported.record, passage, now_ms) for exported in rows]

    def _take_out(self, record: Record, passage: Passage, now_ms: int) -> bool:
        row = self._rows.get(record.ref)
        if row is None:
            return True
        if not untouched(record, row.state, row.fence, row.generation):
            return False
        if row.state is State.DEAD:
            self._audits.append((row.id, Audited(now_ms, passage.who, "move", f"to store {passage.target}")))
        self._remove(row)
        return True

    # --- upkeep

    async def tend(self, limit: int = 1000) -> Tended:
        with self._turn() as now_ms:
            done = Tended()
            lapsed = [row for row in self._rows.held() if row.lease_ms < now_ms][:limit]
            for row in lapsed:
                self._lose(row, now_ms)
            done.lost = len(lapsed)
            done.due = _up_to(limit - done.lost, lambda: self._make_due(now_ms))
            done.expired = _up_to(limit - done.lost - done.due, lambda: self._expire(now_ms))
            done.purged = _up_to(limit - done.lost - done.due - done.expired, lambda: self._purge(now_ms))
            _up_to(limit, lambda: self._log.purge(now_ms))
            done.more = done.lost + done.due + done.expired + done.purged >= limit
            done.next_due_s = self._next_due_s(now_ms)
            return done

    def _lose(self, row: Row, now_ms: int) -> None:
        """Take a row from a worker that is lost."""
        row.losses += 1
        match lease.after_loss(row.losses, cancel_asked=row.cancel_asked, kind=row.kind):
            case None:
                self._remove(row)
            case State.CANCELLED:
                self._end(row, Happening.LEASE_END, State.CANCELLED, Cause.CANCELLED, now_ms)
            case State.DEAD:
                self._end(row, Happening.LEASE_END, State.DEAD, Cause.WORKER_LOST, now_ms)
            case back:
                self._drop_hold(row)
                self._rows.watch_expiry(row)
                self._move(row, row.state, Happening.LEASE_END, back)

    def _make_due(self, now_ms: int) -> bool:
        row = self._rows.pop_due(now_ms)
        if row is None:
            return False
        ahead = row.in_line or self._rows.join_line(row)
        self._move(row, row.state, Happening.DUE, State.READY if ahead else State.WAITING)
        return True

    def _expire(self, now_ms: int) -> bool:
        row = self._rows.pop_expired(now_ms)
        if row is not None:
            self._end(row, Happening.EXPIRE, State.EXPIRED, Cause.EXPIRED, now_ms)
        return row is not None

    def _purge(self, now_ms: int) -> bool:
        row = self._rows.pop_purgeable(now_ms)
        if row is None and self._rows.ended_bytes > self._settings.keep_bytes:
            row = self._rows.oldest_ended()
        if row is not None:
            self._remove(row)
        return row is not None

    def _next_due_s(self, now_ms: int) -> float | None:
        due_ms = self._rows.next_due_ms()
        return None if due_ms is None else max(due_ms - now_ms, 0) / 1000

    # --- moves

    def _move(self, row: Row, before: State | None, happening: Happening, to: State) -> None:
        assert to in life.allowed(before, happening, row.kind), f"{before} -{happening}-> {to}"
        self._rows.set_state(row, to)
        if to is State.READY:
            self._alarm.ring_queue(row.queue)
        self._alarm.ring_id(row.id)

    def _end(
        self,
        row: Row,
        happening: Happening,
        to: State,
        cause: Cause,
        now_ms: int,
        answer: Answer | None = None,
        *,
        told: bool = False,
    ) -> None:
        """Bring a row to its end and wake the next of its line. `told`: whoever ends it tells the others himself."""
        assert to in life.allowed(row.state, happening, row.kind), f"{row.state} -{happening}-> {to}"
        self._drop_hold(row)
        row.cause, row.answer, row.progress, row.settled_ms = cause, answer, None, now_ms
        self._rows.set_ended(row, to, now_ms + 1000 * _keep_s(row, to))
        self._alarm.ring_id(row.id)
        if to is not State.DEAD or not self._queue(row.queue).halt:
            self._pass_on(row)
        if not told:
            for letter in farewell.letters(row.ended(self._queue(row.queue).on_failure), now_ms):
                self._put(letter, now_ms, limited=False)

    def _pass_on(self, row: Row) -> None:
        following = self._rows.leave_line(row)
        if following is not None:
            self._move(following, following.state, Happening.TURN, State.READY)

    def _remove(self, row: Row) -> None:
        self._pass_on(row)
        self._rows.remove(row)
        self._alarm.ring_id(row.id)

    def _drop_hold(self, row: Row) -> None:
        row.holder = row.lease_ms = 0

    def _next_fence(self) -> int:
        self._fence += 1
        return self._fence

    @contextmanager
    def _turn(self) -> Generator[int]:
        """Hold the store for one turn; gives its instant."""
        with self._lock:
            if self._closed:
                raise StoreError("the memory store is closed; what was in it is gone")
            yield self._clock()

    def _queue(self, name: str) -> notes.Queue:
        note = self._notes.get(notes.queue(name))
        return notes.Queue() if note is None else notes.decode_queue(note.value)

    # --- notes

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        with self._turn() as now_ms:
            kept = self._notes.get(note.name)
            version = kept.version if kept is not None and kept.alive(now_ms) else 0
            if expect is not None and expect != version:
                return False
            until_ms = None if note.lease_s is None else now_ms + round(note.lease_s * 1000)
            last = 0 if kept is None else kept.version
            self._notes[note.name] = _KeptNote(note.value, last + 1, until_ms)
            return True

    async def note_drop(self, name: str) -> bool:
        with self._turn() as now_ms:
            kept = self._notes.pop(name, None)
            paused = name.removeprefix(notes.pause(""))
            if paused != name:
                self._alarm.ring_queue(paused)
            return kept is not None and kept.alive(now_ms)

    async def notes(self, prefix: str = "") -> list[Note]:
        with self._turn() as now_ms:
            return [
                Note(name, kept.value, kept.version, kept.left_s(now_ms))
                for name, kept in sorted(self._notes.items())
                if name.startswith(prefix) and kept.alive(now_ms)
            ]

    def _paused(self, queue: str, now_ms: int) -> bool:
        note = self._notes.get(notes.pause(queue))
        return note is not None and note.alive(now_ms)

    # --- catching up

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        name = notes.subscription(event, queue)
        with self._turn() as now_ms:
            note = self._notes.get(name)
            before = None if note is None else notes.decode_subscription(note.value)
            if before is None or not before.behind:
                return CaughtUp()
            count = min(limit, room(self._rows.counts[queue].live, self._settings.depth_max))
            if before.suspended or count <= 0:
                return CaughtUp(behind=True)
            found = self._log.step(event, before.read_at, count)
            given = sum(self._give(kept, queue, now_ms) for kept in found)
            read_at = found[-1].entry.pos if found else before.read_at
            behind = not self._log.ends_at(event, read_at)
            self._rewrite(name, read_on(before, read_at, given) if behind else caught_up(before, given))
            return CaughtUp(given, behind, more=behind)

    def _give(self, kept: Kept, queue: str, now_ms: int) -> bool:
        """Give a subscription what it did not get with the publish."""
        delivery = None if queue in kept.receivers else delivery_of(kept.entry, queue, now_ms)
        return delivery is not None and not self._put(delivery, now_ms, limited=False).duplicate

    # --- waiting

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        """Wait for work in the queues or a change of the ids. Returns at once if a queue has work that its last claim
        left behind, or an id has ended already: nothing is missed between a claim or a read and this."""
        with self._turn():
            ended = frozenset(id for id in ids if self._has_ended(id))
        return Woken(ids=ended) if ended else await self._alarm.wait(queues, ids, timeout_s)

    def _has_ended(self, id: bytes) -> bool:
        row = self._rows.with_id(id)
        return row is not None and row.state.terminal


class _KeptNote(Struct):
    """A note as it is kept. One whose lease has ended is as good as gone, but its version still counts on."""

    value: bytes
    version: int
    until_ms: int | None

    def alive(self, now_ms: int) -> bool:
        return self.until_ms is None or self.until_ms > now_ms

    def left_s(self, now_ms: int) -> float | None:
        return None if self.until_ms is None else (self.until_ms - now_ms) / 1000


def _keep_s(row: Row, ended: State) -> int:
    return KEEP_DEAD_S if ended is State.DEAD else row.keep_s


def _delivery_of_event(message: Message, queue: str) -> Message:
    """Make of an event the message for one subscription: identity, line and key are the subscription's own."""
    name = queue.encode()
    return structs.replace(
        message,
        id=ids.delivery(message.id, queue),
        queue=queue,
        event="",
        line=None if message.line is None else ids.derived(message.line, name),
        dedup=None if message.dedup is None else ids.derived(message.dedup, name),
    )


def _receivers(subscriptions: Mapping[str, notes.Subscription]) -> int:
    """Count who gets an event, with the publish or, where it is behind, out of the log."""
    return sum(not one.suspended for one in subscriptions.values())


def _count(depth: Depth, row: Row) -> None:
    match row.state:
        case State.READY:
            depth.ready += 1
            depth.oldest_ms = row.created_ms if depth.oldest_ms is None else min(depth.oldest_ms, row.created_ms)
        case State.RUNNING:
            depth.running += 1
        case State.SCHEDULED:
            depth.scheduled += 1
        case State.WAITING:
            depth.waiting += 1
        case State.DEAD:
            depth.dead += 1
        case _:
            pass


def _up_to(limit: int, step: Callable[[], bool]) -> int:
    """Repeat a step until it finds nothing more to do; gives how often it did something, at most `limit`."""
    return next((done for done in range(max(limit, 0)) if not step()), max(limit, 0))
