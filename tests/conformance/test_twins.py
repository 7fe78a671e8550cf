"""Broken twins: stores that each break one promise. The suite is good for something only if it fails every one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest
from msgspec import structs

from ringpost.core import notes
from ringpost.core.message import Cause, Delivery, Message, Priority, Record, Settlement, State
from ringpost.core.subscription import caught_up
from ringpost.settings import Settings
from ringpost.store.memory.log import Kept
from ringpost.store.memory.rows import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import (
    CaughtUp,
    Changed,
    Claimed,
    Conclude,
    Drop,
    Exported,
    Filter,
    Note,
    Order,
    Passage,
    Put,
    Renewed,
    Replay,
    Store,
    Tended,
    Woken,
)
from ringpost.testing.conformance import CASES, Advance, Violation, check, reading

BEGIN_MS = 1_800_000_000_000


class LosesWhatItAcknowledged(MemoryStore):
    """Answers before the commit, which then fails now and then."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        kept = [message for number, message in enumerate(messages) if number % 7 != 6]
        done = iter(await super().put(kept))
        return [Put(message.id) if number % 7 == 6 else next(done) for number, message in enumerate(messages)]


class ChecksNoFence(MemoryStore):
    """Takes a settlement from whoever brings it."""

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        row = self._rows.get(settlement.delivery.ref)
        if row is not None and row.state is State.RUNNING:
            settlement = structs.replace(settlement, delivery=row.delivery())
        return super()._settle(settlement, now_ms)


class StagesWithoutSettling(MemoryStore):
    """Puts what was staged before it looks at the fence."""

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        for message in settlement.staged:
            self._put(message, now_ms, limited=False)
        return super()._settle(structs.replace(settlement, staged=()), now_ms)


class StagesLater(MemoryStore):
    """Settles in one commit and puts what was staged in another, which may not come."""

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        done = await super().settle([structs.replace(one, staged=()) for one in settlements])
        staged = [message for one in settlements for message in one.staged]
        self._later = asyncio.get_running_loop().call_later(0.01, self._put_all, staged)
        return done

    def _put_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._put(message, self._clock(), limited=False)


class StagesOnlyOnSuccess(MemoryStore):
    """Forgets what a failed handler staged on purpose."""

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        if settlement.to is not State.SUCCEEDED:
            settlement = structs.replace(settlement, staged=())
        return super()._settle(settlement, now_ms)


class LimitsWhatIsStaged(MemoryStore):
    """Refuses staged messages where a queue is full."""

    def _put(self, message: Message, now_ms: int, *, limited: bool) -> Put:
        return super()._put(message, now_ms, limited=True)


class AbsorbsNoFanOut(MemoryStore):
    """Gives the deliveries of a repeated event new ids."""

    def _fan_out(self, message: Message, now_ms: int, limited: bool) -> Put:
        self.published = getattr(self, "published", 0) + 1
        other = self.published.to_bytes(2, "big") + message.id[2:]
        done = super()._fan_out(structs.replace(message, id=other), now_ms, limited)
        return structs.replace(done, id=message.id)


class FansOutInParts(MemoryStore):
    """Keeps the deliveries of an event that fit, and says that it was refused."""

    def _fan_out(self, message: Message, now_ms: int, limited: bool) -> Put:
        done = super()._fan_out(message, now_ms, limited)
        if done.refused == "full":
            super()._fan_out(message, now_ms, False)
        return done


class TwoHeads(MemoryStore):
    """Lets the second of a line go with the first."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        done = await super().put(messages)
        with self._turn():
            for row in self._rows:
                if row.state is State.WAITING and self._rows._heads.get(row.line or b"") == row.ref - 1:
                    self._rows.set_state(row, State.READY)
        return done


class LineSleeps(MemoryStore):
    """Forgets to wake the next of a line."""

    def _pass_on(self, row: Row) -> None:
        self._rows.leave_line(row)


class NeverHalts(MemoryStore):
    """Lets a line go on behind its dead head, whatever was said."""

    def _queue(self, name: str) -> notes.Queue:
        return structs.replace(super()._queue(name), halt=False)


class RetryLeavesTheLine(MemoryStore):
    """Lets the next of a line go while the head waits for its retry."""

    def _return(self, row: Row, settlement: Settlement, now_ms: int) -> None:
        super()._return(row, settlement, now_ms)
        if settlement.to is State.SCHEDULED:
            self._pass_on(row)


class DelayedHoldTheLine(MemoryStore):
    """Gives a delayed message its place in the line before it is due."""

    def _settle_in(self, row: Row, now_ms: int, happening: object) -> None:
        if row.due_ms > now_ms:
            self._rows.join_line(row)
        super()._settle_in(row, now_ms, happening)  # type: ignore[arg-type]


class NoExpiry(MemoryStore):
    """Ignores how long a message may wait."""

    def _new_row(self, message: Message, now_ms: int) -> Row:
        return super()._new_row(structs.replace(message, ttl_s=None), now_ms)


class ExpiresOnlyInUpkeep(MemoryStore):
    """Hands out what has expired, if it is asked before upkeep."""

    def _take(self, queue: str, wanted: int, suspects: int, now_ms: int) -> list[Row]:
        return super()._take(queue, wanted, suspects, 0)


class ExpiresWhatRuns(MemoryStore):
    """Takes a message that has expired from under its handler."""

    async def tend(self, limit: int = 1000) -> Tended:
        with self._turn() as now_ms:
            for row in self._rows.held():
                if row.overdue(now_ms):
                    self._drop_hold(row)
                    self._rows.set_state(row, State.READY)
        return await super().tend(limit)


class AcceptsDuplicates(MemoryStore):
    """Knows a message only while it is live."""

    def _known(self, message: Message, now_ms: int) -> Put | None:
        row = self._rows.with_id(message.id)
        if row is not None and row.state.terminal:
            self._remove(row)
        return super()._known(message, now_ms)


class AcceptsOtherContent(MemoryStore):
    """Takes any message of a known id for the same."""

    def _known(self, message: Message, now_ms: int) -> Put | None:
        put = super()._known(message, now_ms)
        return None if put is None else structs.replace(put, refused="")


class IgnoresKeys(MemoryStore):
    """Forgets idempotency keys."""

    def _new_row(self, message: Message, now_ms: int) -> Row:
        return super()._new_row(structs.replace(message, dedup=None), now_ms)


class NeverOvertakes(MemoryStore):
    """Keeps a reservation for ever, its holder alive or not."""

    def _lose(self, row: Row, now_ms: int) -> None:
        if row.dedup is None:
            super()._lose(row, now_ms)


class OvertakesTheLiving(MemoryStore):
    """Gives a key to the next caller while its holder still works."""

    def _known(self, message: Message, now_ms: int) -> Put | None:
        row = self._rows.with_dedup(message.dedup)
        if row is not None and message.reserve is not None:
            row.lease_ms = 0
        return super()._known(message, now_ms)


class GivesReservationsToWorkers(MemoryStore):
    """Puts the reservation of a holder that is lost into the queue."""

    def _lose(self, row: Row, now_ms: int) -> None:
        row.kind = type(row.kind)(2)
        super()._lose(row, now_ms)


class CountsNoLosses(MemoryStore):
    """Gives back what a lost worker held, again and again."""

    def _lose(self, row: Row, now_ms: int) -> None:
        row.losses = -1
        super()._lose(row, now_ms)


class NeverSweeps(MemoryStore):
    """Leaves a message with a worker that is gone."""

    def _lose(self, row: Row, now_ms: int) -> None:
        row.lease_ms = now_ms


class SweepsWhatIsRenewed(MemoryStore):
    """Renews in name only."""

    def renew(self, holder: int, lease_s: float) -> Renewed:
        return super().renew(holder, 0)


class RenewsForAll(MemoryStore):
    """Renews whatever runs."""

    def renew(self, holder: int, lease_s: float) -> Renewed:
        for row in self._rows.held():
            row.holder = holder
        return super().renew(holder, lease_s)


class OneFence(MemoryStore):
    """Gives every claim the same fence."""

    def _next_fence(self) -> int:
        return self._fence + 1


class ManySuspects(MemoryStore):
    """Hands out suspects with the rest."""

    def _take(self, queue: str, wanted: int, suspects: int, now_ms: int) -> list[Row]:
        return super()._take(queue, wanted, 1000, now_ms)


class GivesMoreThanWanted(MemoryStore):
    """Hands out one more."""

    def _take(self, queue: str, wanted: int, suspects: int, now_ms: int) -> list[Row]:
        return super()._take(queue, wanted + 1, suspects, now_ms)


class NoPriority(MemoryStore):
    """Hands out the oldest first, however urgent another is."""

    def _new_row(self, message: Message, now_ms: int) -> Row:
        return super()._new_row(structs.replace(message, priority=Priority.NORMAL), now_ms)


class LastInFirstOut(MemoryStore):
    """Hands out the newest of a batch first."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        return (await super().put(messages[::-1]))[::-1]


class NeverPaused(MemoryStore):
    """Claims from paused queues."""

    def _paused(self, queue: str, now_ms: int) -> bool:
        return False


class DelaysNothing(MemoryStore):
    """Takes every delay for none."""

    def _new_row(self, message: Message, now_ms: int) -> Row:
        return super()._new_row(structs.replace(message, delay_s=0.0, due_ms=None), now_ms)


class ChargesReleases(MemoryStore):
    """Counts an attempt where a worker gave back what it hadn't done."""

    def _return(self, row: Row, settlement: Settlement, now_ms: int) -> None:
        row.attempts += settlement.to is State.READY
        super()._return(row, settlement, now_ms)


class KeepsOneFailure(MemoryStore):
    """Keeps the last failure only."""

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        done = super()._settle(settlement, now_ms)
        row = self._rows.get(settlement.delivery.ref)
        if row is not None:
            row.failures = row.failures[-1:]
        return done


class LosesAnswers(MemoryStore):
    """Keeps what became of a message, but not what was answered."""

    def _settle(self, settlement: Settlement, now_ms: int) -> bool:
        return super()._settle(structs.replace(settlement, answer=None), now_ms)


class CancelsWhatRuns(MemoryStore):
    """Ends a running message while its handler still works."""

    def _cancel(self, row: Row, now_ms: int) -> Changed:
        if row.state is State.RUNNING:
            self._rows.set_state(row, State.READY)
        return super()._cancel(row, now_ms)


class ReplaysAnyGeneration(MemoryStore):
    """Opens another generation each time it is asked."""

    def _replay(self, row: Row, order: Replay, now_ms: int) -> Changed:
        return super()._replay(row, structs.replace(order, generation=row.generation), now_ms)


class NotesWhatIsRefused(MemoryStore):
    """Says of a replay that came too late that it was done."""

    def _obey(self, order: Order, now_ms: int) -> Changed:
        done = super()._obey(order, now_ms)
        if isinstance(order, Replay) and done.result != "done":
            self._note_done(order, "replay", "", now_ms)
        return done


class ForgetsWhoDidIt(MemoryStore):
    """Notes what was done, not by whom."""

    def _note_done(self, order: Replay | Drop, what: str, detail: str, now_ms: int) -> None:
        super()._note_done(structs.replace(order, who=""), what, detail, now_ms)


class ReplaysWithoutGeneration(MemoryStore):
    """Replays within the same generation."""

    def _replay(self, row: Row, order: Replay, now_ms: int) -> Changed:
        done = super()._replay(row, order, now_ms)
        if done.result == "done":
            row.generation -= 1
        return done


class TellsNobody(MemoryStore):
    """Ends messages in silence."""

    def _end(self, *arguments: object, **options: object) -> None:
        options["told"] = True
        super()._end(*arguments, **options)  # type: ignore[arg-type]


class TellsTwice(MemoryStore):
    """Tells of ends that the worker tells of."""

    def _end(self, *arguments: object, **options: object) -> None:
        options["told"] = False
        super()._end(*arguments, **options)  # type: ignore[arg-type]


class PurgesNothing(MemoryStore):
    """Keeps everything."""

    def _purge(self, now_ms: int) -> bool:
        return False


class PurgesTheDead(MemoryStore):
    """Takes dead messages for any others."""

    def _end(
        self, row: Row, happening: object, to: State, cause: Cause, now_ms: int, *rest: object, **more: object
    ) -> None:
        super()._end(row, happening, to, cause, now_ms, *rest, **more)  # type: ignore[arg-type]
        if to is State.DEAD:
            self._rows.set_ended(row, to, now_ms + row.keep_s * 1000)


class PurgesEarly(MemoryStore):
    """Removes what has ended at once."""

    def _end(self, row: Row, *arguments: object, **options: object) -> None:
        super()._end(row, *arguments, **options)  # type: ignore[arg-type]
        self._remove(row)


class FullForEver(MemoryStore):
    """Counts what came, not what is there."""

    def _full(self, message: Message) -> bool:
        return self._rows.counts[message.queue].puts >= self._settings.depth_max


class NeverFull(MemoryStore):
    """Takes whatever comes."""

    def _full(self, message: Message) -> bool:
        return False


class WritesNotesBlindly(MemoryStore):
    """Overwrites a note whatever version was expected."""

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        return await super().note_put(note)


class NotesWithoutLease(MemoryStore):
    """Keeps a leased note for ever."""

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        return await super().note_put(structs.replace(note, lease_s=None), expect=expect)


class NeverWakes(MemoryStore):
    """Lets who waits sleep to the end."""

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        await asyncio.sleep(timeout_s)
        return Woken()


class MissesWhatCameBefore(MemoryStore):
    """Hears only what comes while somebody listens."""

    async def wait(self, queues: frozenset[str], ids: frozenset[bytes], timeout_s: float) -> Woken:
        for queue in queues:
            self._alarm.clear(queue)
        return await self._alarm.wait(queues, ids, timeout_s)


class FindsAllAtOnce(MemoryStore):
    """Takes no notice of where a page begins."""

    async def find(self, filter: Filter, /) -> list[Record]:
        return await super().find(structs.replace(filter, after=0))


class CountsWrong(MemoryStore):
    """Counts what runs as ready."""

    async def depths(self) -> list:  # type: ignore[type-arg]
        return [structs.replace(one, ready=one.ready + one.running, running=0) for one in await super().depths()]


class AnswersOutOfOrder(MemoryStore):
    """Answers a batch of reads in the order of the rows."""

    async def read(self, ids: Sequence[bytes], *, bodies: bool = False) -> list[Record | None]:
        found = await super().read(ids, bodies=bodies)
        return sorted(found, key=lambda record: (record is None, record.ref if record else 0))


class ReportsForLosers(MemoryStore):
    """Takes progress from whoever brings it."""

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        orders = [
            structs.replace(one, delivery=self._current(one.delivery)) if hasattr(one, "delivery") else one
            for one in orders
        ]
        return await super().change(orders)

    def _current(self, delivery: Delivery) -> Delivery:
        row = self._rows.get(delivery.ref)
        return delivery if row is None else row.delivery()


class ClaimsTwice(MemoryStore):
    """Looks and takes in two steps, so that two workers get the same message."""

    async def claim(
        self,
        want: Mapping[str, int],
        holder: int,
        lease_s: float,
        settlements: Sequence[Settlement] = (),
        *,
        suspects: int = 1,
    ) -> Claimed:
        seen = [row for row in self._rows if row.state is State.READY and row.queue in want]
        await asyncio.sleep(0)
        for row in seen:
            if row.state is State.RUNNING:
                self._rows.set_state(row, State.READY)
        return await super().claim(want, holder, lease_s, settlements, suspects=suspects)


class ConcludesAnything(MemoryStore):
    """Takes the outcome of a message that isn't away."""

    def _conclude(self, row: Row, order: Conclude, now_ms: int) -> Changed:
        if row.state is State.RUNNING:
            self._rows.set_state(row, State.FORWARDED)
        return super()._conclude(row, order, now_ms)


class ConcludesAnyGeneration(MemoryStore):
    """Takes the outcome of an earlier generation for this one's."""

    def _conclude(self, row: Row, order: Conclude, now_ms: int) -> Changed:
        return super()._conclude(row, structs.replace(order, generation=row.generation), now_ms)


class ConcludesInSilence(MemoryStore):
    """Tells nobody of the outcome that came from elsewhere."""

    def _conclude(self, row: Row, order: Conclude, now_ms: int) -> Changed:
        kept, row.headers = row.headers, b"{}"
        done = super()._conclude(row, order, now_ms)
        row.headers = kept
        return done


class ForgetsTheReceipt(MemoryStore):
    """Hands over without keeping what the other store said."""

    def _hand_over(self, row: Row, settlement: Settlement) -> None:
        super()._hand_over(row, structs.replace(settlement, answer=None))


class HandsOverInLine(MemoryStore):
    """Keeps the line waiting until the outcome is there."""

    def _hand_over(self, row: Row, settlement: Settlement) -> None:
        passing, self._pass_on = self._pass_on, lambda row: None  # type: ignore[method-assign]
        super()._hand_over(row, settlement)
        self._pass_on = passing  # type: ignore[method-assign]


class LosesWhatIsAway(MemoryStore):
    """Keeps a message that is away under its lease."""

    def _hand_over(self, row: Row, settlement: Settlement) -> None:
        lease_ms = row.lease_ms
        super()._hand_over(row, settlement)
        row.lease_ms, self._rows._held[row.ref] = lease_ms, row

    def _lose(self, row: Row, now_ms: int) -> None:
        self._rows.set_state(row, State.READY)


class CancelsNothingAway(MemoryStore):
    """Forgets to tell the forwarder."""

    def _cancel(self, row: Row, now_ms: int) -> Changed:
        done = super()._cancel(row, now_ms)
        if row.state is State.FORWARDED:
            row.cancel_asked = False
        return done


class ForgetsWhatTheSuspendedMiss(MemoryStore):
    """Leaves a suspended subscription out and doesn't write down that it did."""

    def _count_gaps(self, *given: object) -> None:
        pass


class CountsEveryRepeatAsMissed(MemoryStore):
    """Writes down that a suspended subscription missed an event as often as that is published."""

    def _told(self, message: Message, subscriptions: Mapping[str, notes.Subscription]) -> Put | None:
        told = super()._told(message, subscriptions)
        if told is not None:
            self._count_gaps(message.event, subscriptions, 0, self._clock())
        return told


class LogsNothing(MemoryStore):
    """Has forgotten what was told."""

    def _keep(self, *given: object) -> int:
        return 0


class LogsEverything(MemoryStore):
    """Keeps events that nobody asked to be kept."""

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        return await super().put([structs.replace(one, log_s=one.log_s or 60) for one in messages])


class LogsForEver(MemoryStore):
    """Keeps events longer than was asked for."""

    def _keep(self, message: Message, receivers: frozenset[str], now_ms: int) -> int:
        return super()._keep(structs.replace(message, log_s=1_000_000), receivers, now_ms)


class LogsWhatItRefuses(MemoryStore):
    """Keeps an event for which there was no room."""

    def _fan_out(self, message: Message, now_ms: int, limited: bool) -> Put:
        done = super()._fan_out(message, now_ms, limited)
        if done.refused == "full":
            self._keep(message, frozenset(), now_ms)
        return done


class KnowsRepeatsByTheirDeliveries(MemoryStore):
    """Tells an event again once its deliveries are gone."""

    def _told(self, *given: object) -> None:
        return None


class GivesAllOfTheLog(MemoryStore):
    """Gives a subscription again what it got with the publish."""

    def _give(self, kept: Kept, queue: str, now_ms: int) -> bool:
        return super()._give(structs.replace(kept, receivers=frozenset()), queue, now_ms)


class GivesWithNewIds(MemoryStore):
    """Gives what is in the log under ids that nobody knows."""

    def _give(self, kept: Kept, queue: str, now_ms: int) -> bool:
        entry = structs.replace(kept.entry, id=kept.entry.id[:-1] + b"?")
        return super()._give(structs.replace(kept, entry=entry), queue, now_ms)


class TellsThoseBehindAtOnce(MemoryStore):
    """Lets a subscription that catches up have the new as well as the old."""

    def _subscriptions(self, event: str, now_ms: int) -> dict[str, notes.Subscription]:
        found = super()._subscriptions(event, now_ms)
        return {queue: structs.replace(one, behind=False) for queue, one in found.items()}


class LiveTooSoon(MemoryStore):
    """Takes a subscription for live after one step."""

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        done = await super().catch_up(event, queue, limit)
        name = notes.subscription(event, queue)
        if done.given:
            self._rewrite(name, caught_up(notes.decode_subscription(self._notes[name].value), 0))
        return structs.replace(done, behind=False)


class NeverLive(MemoryStore):
    """Leaves a subscription behind for ever."""

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        name = notes.subscription(event, queue)
        done = await super().catch_up(event, queue, limit)
        if done.given and not done.behind:
            before = notes.decode_subscription(self._notes[name].value)
            self._rewrite(name, structs.replace(before, behind=True, read_at=1_000_000))
        return done


class GivesMoreThanAsked(MemoryStore):
    """Gives all of the log in one step."""

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        return await super().catch_up(event, queue, 1_000)


class FillsQueuesFromTheLog(MemoryStore):
    """Fills the queue of who catches up, so that nobody can publish."""

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        kept, self._settings = self._settings, structs.replace(self._settings, depth_max=1_000_000)
        try:
            return await super().catch_up(event, queue, limit)
        finally:
            self._settings = kept


class GivesToTheSuspended(MemoryStore):
    """Lets the log flow where nobody takes it."""

    async def catch_up(self, event: str, queue: str, limit: int = 1000) -> CaughtUp:
        name = notes.subscription(event, queue)
        if name in self._notes:
            before = notes.decode_subscription(self._notes[name].value)
            self._rewrite(name, structs.replace(before, suspended=False))
        return await super().catch_up(event, queue, limit)


class GivesWhatHasExpired(MemoryStore):
    """Forgets when an event was to expire."""

    def _give(self, kept: Kept, queue: str, now_ms: int) -> bool:
        return super()._give(structs.replace(kept, entry=structs.replace(kept.entry, expires_ms=None)), queue, now_ms)


class GivesBeforeItsTime(MemoryStore):
    """Forgets when an event was to be due."""

    def _give(self, kept: Kept, queue: str, now_ms: int) -> bool:
        return super()._give(structs.replace(kept, entry=structs.replace(kept.entry, due_ms=None)), queue, now_ms)


class TakesOutWhatWasTouched(MemoryStore):
    """Removes a row that somebody has claimed, cancelled or replayed since it was exported."""

    def _take_out(self, record: Record, passage: Passage, now_ms: int) -> bool:
        row = self._rows.get(record.ref)
        now = record if row is None else structs.replace(record, state=row.state, fence=row.fence)
        return super()._take_out(structs.replace(now, generation=row.generation if row else 1), passage, now_ms)


class EndsWhatItTakesOut(MemoryStore):
    """Takes a row out as if it were cancelled: those who wait for its outcome are told of one."""

    def _take_out(self, record: Record, passage: Passage, now_ms: int) -> bool:
        row = self._rows.get(record.ref)
        if row is not None and row.state < State.RUNNING:
            self._cancel(row, now_ms)
            return super()._take_out(structs.replace(record, state=State.CANCELLED), passage, now_ms)
        return super()._take_out(record, passage, now_ms)


class ForgetsWhatCame(MemoryStore):
    """Takes a row in again that has been handled and purged since it came."""

    def _take_in(self, exported: Exported, before: frozenset[str], passage: Passage, now_ms: int) -> Put:
        return super()._take_in(exported, frozenset(), passage, now_ms)


class RemembersWhatItRefused(MemoryStore):
    """Takes what it once refused for something that came."""

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        puts = await super().take_in(rows, passage)
        came = notes.came(passage.move, [row.record.id for row in rows], frozenset())
        await self.note_put(Note(notes.arrived(passage.source), notes.encode(came)))
        return puts


class MakesDamageLookSound(MemoryStore):
    """Gives what was damaged a checksum that fits."""

    def _take_in(self, exported: Exported, before: frozenset[str], passage: Passage, now_ms: int) -> Put:
        return super()._take_in(structs.replace(exported, sound=True), before, passage, now_ms)


class LetsOthersPassWhoComes(MemoryStore):
    """Forgets that a row was the first of its line."""

    def _arrive(self, row: Row, exported: Exported) -> None:
        super()._arrive(row, structs.replace(exported, heads=False))


class ExportsWhoStandsBehindWhatRuns(MemoryStore):
    """Gives away a row whose turn hasn't come, as the one before it still runs."""

    def _held(self, row: Row) -> bool:
        return row.state is State.RUNNING


class BringsKeysTwice(MemoryStore):
    """Takes a request in though its key is here."""

    def _take_in(self, exported: Exported, before: frozenset[str], passage: Passage, now_ms: int) -> Put:
        return super()._take_in(structs.replace(exported, dedup=None), before, passage, now_ms)


TWINS: Sequence[type[MemoryStore]] = [
    one
    for one in list(vars().values())
    if isinstance(one, type) and issubclass(one, MemoryStore) and one is not MemoryStore
]


class Twin:
    """Makes one kind of broken store."""

    def __init__(self, kind: type[MemoryStore]) -> None:
        self._kind = kind
        self._passed_ms = 0

    def __call__(self, settings: Settings) -> tuple[Store, Advance]:
        self._passed_ms = 0
        return self._kind(settings, lambda: BEGIN_MS + self._passed_ms), self._advance

    def _advance(self, seconds: float) -> None:
        self._passed_ms += round(seconds * 1000)


async def first_broken(make: Callable[[Settings], tuple[Store, Advance]]) -> str:
    """Give the first promise that a store breaks."""
    for case in CASES:
        try:
            await check(case, make)
        except Violation as violation:
            return f"{case.name}: {violation}"
        except AssertionError:  # the store's own: it noticed that it does what can't be
            continue
    return ""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what never comes."""
    monkeypatch.setattr(reading, "SOON_S", 0.7)


@pytest.mark.parametrize("kind", TWINS, ids=lambda kind: kind.__name__)
async def test_the_suite_fails_a_store_that_breaks_a_promise(kind: type[MemoryStore]) -> None:
    assert await first_broken(Twin(kind)), f"no case noticed: {kind.__doc__}"


async def test_the_suite_fails_nothing_but_broken_stores() -> None:
    assert await first_broken(Twin(MemoryStore)) == ""
