"""The worker: one turn after the other, each a commit that settles what has ended and claims what there is room for.

While the store works handlers run, and what ends meanwhile goes with the next turn. A turn is taken when there is
something to settle or reason to believe that there is something to claim; else the worker listens. What it hears is a
hint only: it asks the store itself every few seconds.
"""

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from msgspec import Struct

from ringpost.client.world import REAL, World
from ringpost.contract.errors import LeaseLost
from ringpost.core import ids
from ringpost.core.handover import forwarded_contract
from ringpost.core.lease import suspect
from ringpost.core.maintenance import Drain
from ringpost.core.message import Delivery, Settled, Settlement, State
from ringpost.service.handler import Handler
from ringpost.service.lag import Lag
from ringpost.service.lane import Lane
from ringpost.service.leases import Leases
from ringpost.service.listener import Listener
from ringpost.service.runners import HandlesMessages, Runners
from ringpost.service.schedule import Scheduler, wall_ms
from ringpost.service.slots import Slots
from ringpost.service.upkeep import Upkeep
from ringpost.service.watchdog import Watchdog
from ringpost.store.logged import log_error
from ringpost.store.port import Claimed, Store, Woken

_LOG = logging.getLogger("ringpost.worker")
_POLL_S = 5.0
_TRICKLE_S = 0.1  # while the loop is late, messages still get on: a few claims a second
_PAUSE_S = 0.001
_GATHER_S = 0.005  # a claim of few waits for more, but no longer than this after the last one
_SHED_S = 0.005  # how long a queue without room may still be listened to
_BACKOFF_S_FIRST = 0.05
_BACKOFF_S_MAX = 1.0
_STOP_S = 2.0  # for what doesn't end when it is cancelled, and for the last commits
_SWITCH_INTERVAL_S = 0.0005


class Handlings(HandlesMessages, Protocol):
    """What the worker needs of the pipeline."""

    def slots(self, handler: Handler) -> Slots: ...
    def cancel(self, ref: int, reason: str) -> bool: ...
    def undone(self, handler: Handler, delivery: Delivery, error: Exception, *, charge: bool) -> Settlement: ...


class Working(Struct, frozen=True):
    """How a worker is doing. Counters only rise."""

    running: int
    claimed: int
    settled: int
    fences_lost: int
    stalled: bool  # ready messages, free slots, and nothing is claimed
    holding_back: tuple[str, ...]  # queues whose intake breaker is open: what their handlers need is broken


class _Turn(Struct, gc=False):
    """One commit: what is asked of the store, and what was so when it was asked."""

    want: dict[str, int]
    settlements: list[Settlement]
    suspects: int
    asked_s: float


class Worker:
    """Work the queues of some handlers: claim, hand to runners, settle, renew leases, tend the store.

    With `claiming=False` it only runs what is given to `accept`. Everything is for the event loop that made it.
    `give_up` is called with the reason when the process should exit non-zero.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Handlings,
        handlers: Iterable[Handler],
        *,
        lease_s: float,
        claiming: bool = True,
        give_up: Callable[[str], None] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = wall_ms,
        world: World = REAL,
    ) -> None:
        handlers = list(handlers)
        self._store = store
        self._lease_s = lease_s
        self._claiming = claiming
        self._clock_s = clock_s
        self._world = world
        self._lanes = {handler.queue: Lane(handler, pipeline.slots(handler)) for handler in handlers}
        self._held_max = 2 * sum(lane.slots.total for lane in self._lanes.values())
        self._held = 0  # claimed or asked for, and not yet settled
        self._turn: asyncio.Task[None] | None = None
        self._suspects: set[int] = set()
        self._failures = 0
        self._resting: asyncio.TimerHandle | None = None
        self._turn_given_up = False
        self._shedding = False
        self._pausing = False
        self._gathering = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._quiet = asyncio.Event()
        self._trickled_s = 0.0
        self._real_time = True  # virtual time leaps, and whatever it leaps over looks like a stall
        self._claimed = self._settled = self._fences_lost = 0
        self._pipeline = pipeline
        self._runners = Runners(pipeline, self._kick, clock_s)
        self._leases = Leases(store, pipeline, self._runners, lease_s, clock_s)
        self._listener = Listener(store, self._heard)
        self._lag = Lag(lambda: self._runners.held > 0 or self._serving(), self._kick)
        self._upkeep = Upkeep(store, lease_s, self.look, world)
        self._scheduler = Scheduler(store, handlers if claiming else (), clock_ms)
        self._watchdog = Watchdog(store, self._claimable, self._start_afresh, give_up or _only_log, clock_s=clock_s)

    @property
    def holder(self) -> int:
        """The number under which this process holds leases now; for reservations too. It may change."""
        return self._leases.holder

    # --- life

    async def start(self, *, thread: bool = True) -> None:
        """Begin to work. `thread=False` renews leases on the loop, for virtual time."""
        self._leases.start(thread=thread)
        self._real_time = thread
        now_s = self._clock_s()
        for lane in self._lanes.values():
            lane.claimed_s = now_s
            lane.slots.freed = self._runners.tell
        self._spawn(self._upkeep.run())
        self._spawn(self._leases.run(self._look_around))
        if self._claiming:
            self._spawn(self._scheduler.run())
            if self._real_time:
                self._spawn(self._watchdog.run())
            self._kick()

    def drain(self) -> None:
        """Claim no more; what runs, and what is given to `accept`, goes on."""
        self._claiming = False
        self._listener.stop()  # wake-ups are for those who claim

    async def stop(self, grace_s: float) -> None:
        """Claim no more; let what runs end for `grace_s` seconds, then cancel it; release, and commit the last
        settlements. What can't be committed is taken over by others when its lease ends."""
        self._stopping = True
        self._listener.stop()
        for task in self._tasks:
            task.cancel()
        for timer in self._timers:
            timer.cancel()
        await self._settled_down(grace_s)
        self._leases.cancel_all("shutdown")
        await self._settled_down(_STOP_S)
        await self._runners.close()
        await self._settled_down(_STOP_S)
        if self._held:
            _LOG.warning("%d messages could not be settled; they run again when their leases end", self._held)
        if self._resting is not None:
            self._resting.cancel()
        self._lag.stop()
        self._leases.stop()

    def accept(self, delivery: Delivery) -> None:
        """Run a message that was born running here, under `holder`. Its slot has been taken; it is given back."""
        self._held += 1
        lane = self._lanes[delivery.queue]
        lane.slots.begun()
        self._runners.feed([(lane, delivery, self._clock_s())])

    def look(self) -> None:
        """Claim from every queue soon, as there may be something new."""
        for lane in self._lanes.values():
            lane.hungry = True
        self._kick()

    def slow_down(self, queue: str, drain: Drain) -> None:
        """Claim from a queue no faster than that, until nothing waits there any more."""
        self._lanes[queue].drain = drain

    def go_on(self) -> bool:
        """Claim again where something may be claimed by now; says whether a queue is drained slowly."""
        slow = any(lane.drain is not None for lane in self._lanes.values())
        if slow:
            self._kick()
        return slow

    def working(self) -> Working:
        """Say how it is doing."""
        held_back = tuple(lane.queue for lane in self._lanes.values() if lane.intake.open)
        return Working(
            self._runners.held, self._claimed, self._settled, self._fences_lost, self._watchdog.stalled, held_back
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a part of the worker failed", exc_info=task.exception())

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            call()

        timer = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(timer)

    async def _settled_down(self, timeout_s: float) -> None:
        """Wait until everything claimed is settled, or the time is over."""
        self._quiet.clear()
        if self._held:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._quiet.wait()
            except TimeoutError:
                pass

    # --- turns

    def _kick(self) -> None:
        """Take a turn if there is a reason to and none is under way; else listen."""
        if self._turn is not None or self._resting is not None:
            return
        now_s = self._clock_s()
        settlements, settled = self._runners.take_done(), self._runners.take_settled()
        if settlements or settled:
            self._look_at([*settlements, *(one.settlement for one in settled)] if settled else settlements, now_s)
            if settled:
                self._count_ended(settled)
        want = self._wanted(now_s, bool(settlements or settled)) if self._may_claim(now_s) else {}
        if want and not settlements and self._gathers(want, now_s):
            want = {}
        if want or settlements:
            self._reserve(want, now_s)
            turn = _Turn(want, settlements, self._ask_suspects(want), now_s)
            self._turn = asyncio.get_running_loop().create_task(self._take(turn), name="ringpost-turn")
        else:
            self._idle()

    def _may_claim(self, now_s: float) -> bool:
        if self._stopping or not self._claiming:
            return False
        if self._lag.high:
            if now_s - self._trickled_s < _TRICKLE_S:
                return False
            self._trickled_s = now_s
        return True

    def _serving(self) -> bool:
        """Say whether calls run here, to which claims must yield."""
        return any(lane.slots.calls for lane in self._lanes.values())

    def _wanted(self, now_s: float, settling: bool) -> dict[str, int]:
        """Say what is to be claimed: at most as many as slots are free, and not if too much is unsettled."""
        want: dict[str, int] = {}
        left = self._held_max - self._held
        for lane in self._lanes.values():
            if lane.hungry or (settling and lane.worth_a_look(now_s)):
                count = min(lane.room(now_s), left)
                if count > 0:
                    want[lane.queue] = count
                    left -= count
        return want

    def _gathers(self, want: Mapping[str, int], now_s: float) -> bool:
        """Say whether a claim waits for more slots to become free, as where handlers commit one by one: then a turn
        has nothing to settle, and would be taken for each of them."""
        if any(not self._lanes[queue].few(count, now_s, _GATHER_S) for queue, count in want.items()):
            return False
        if not self._gathering:
            self._gathering = True
            self._later(_GATHER_S, self._gathered)
        return True

    def _gathered(self) -> None:
        self._gathering = False
        self._kick()

    def _reserve(self, want: Mapping[str, int], now_s: float) -> None:
        for queue, count in want.items():
            self._lanes[queue].reserve(count, now_s)
            self._held += count

    def _look_at(self, settlements: list[Settlement], now_s: float) -> None:
        """Take note of what has ended before it is committed."""
        if self._suspects:
            self._suspects.difference_update([settlement.delivery.ref for settlement in settlements])
            if not self._suspects:
                for lane in self._lanes.values():  # the next one may have been left lying
                    lane.hungry = True
        for lane in self._lanes.values():
            if lane.look_at_outcomes(now_s):
                word = "is broken: one message at a time, none is charged" if lane.intake.open else "is well again"
                _LOG.warning("what %s depends on %s", _worked_by(lane.queue), word)
            pause_s = lane.new_pause_s(now_s)
            if pause_s > 0:
                self._later(pause_s, partial(self._wake, lane))

    def _ask_suspects(self, want: Mapping[str, int]) -> int:
        """Say how many suspects the claim may take: one at a time in this process."""
        return 0 if self._suspects or not want else 1

    async def _take(self, turn: _Turn) -> None:
        try:
            claimed = await self._store.claim(
                turn.want, self._leases.holder, self._lease_s, turn.settlements, suspects=turn.suspects
            )
        except asyncio.CancelledError as error:
            if not self._turn_given_up:
                raise
            self._turn_failed(turn, error)
        except Exception as error:  # noqa: BLE001 (a border: whatever a store raises, nothing may be lost)
            self._turn_failed(turn, error)
        else:
            self._book(turn, claimed)
        finally:
            self._turn = None
            self._turn_given_up = False
        self._kick()
        if not self._held:
            self._quiet.set()

    def _book(self, turn: _Turn, claimed: Claimed) -> None:
        """Take note of what a turn gave, and hand the messages to the runners."""
        self._failures = 0
        settlements, settled = turn.settlements, claimed.settled
        if claimed.unsettled:
            settlements, settled = self._leave_undone(settlements, claimed)
        self._count_settled(settlements, settled)
        deliveries, lanes = claimed.deliveries, self._lanes
        got = Counter([delivery.queue for delivery in deliveries]) if len(turn.want) > 1 else None
        now_s = self._clock_s()
        excess: dict[str, int] = {}
        for queue, asked in turn.want.items():
            count = len(deliveries) if got is None else got[queue]
            over = self._returned(lanes[queue], asked, count, now_s)
            if over:
                excess[queue] = over
        if excess:
            deliveries = self._within_slots(deliveries, excess)
        if turn.suspects:
            self._suspects.update([delivery.ref for delivery in deliveries if suspect(delivery.losses)])
        if claimed.next_due_s is not None:
            self._upkeep.due_in(claimed.next_due_s)
        if deliveries:
            self._claimed += len(deliveries)
            if self._stopping:
                self._release(deliveries)
            else:
                self._runners.feed([(lanes[delivery.queue], delivery, turn.asked_s) for delivery in deliveries])
                if self._real_time:
                    self._lag.watch()

    def _returned(self, lane: Lane, asked: int, got: int, now_s: float) -> int:
        self._held -= asked - got
        excess = lane.returned(asked, got, now_s)
        hush_s = lane.hush_s(now_s)
        if hush_s > 0:
            self._later(hush_s, partial(self._wake, lane))
        return excess

    def _within_slots(self, deliveries: list[Delivery], excess: dict[str, int]) -> list[Delivery]:
        """Release the last of what was claimed where calls have taken the slots meanwhile; gives the others."""
        kept: list[Delivery] = []
        for delivery in reversed(deliveries):
            if excess.get(delivery.queue):
                excess[delivery.queue] -= 1
                self._runners.settle(Settlement(delivery, State.READY, charge=False))
            else:
                kept.append(delivery)
        kept.reverse()
        return kept

    def _count_settled(self, settlements: list[Settlement], settled: list[bool]) -> None:
        self._held -= len(settlements)
        self._settled += len(settlements)
        if not all(settled):
            for settlement, done in zip(settlements, settled, strict=True):
                if not done:
                    self._lost_fence(settlement.delivery)

    def _count_ended(self, settled: list[Settled]) -> None:
        """Take note of what handlers have committed themselves."""
        self._count_settled([one.settlement for one in settled], [one.done for one in settled])
        if not self._held:
            self._quiet.set()

    def _leave_undone(self, settlements: list[Settlement], claimed: Claimed) -> tuple[list[Settlement], list[bool]]:
        """Settle anew what its deferred SQL kept from being settled: as a failure, or as before where there was no
        time for it. Gives the others."""
        for place, error in claimed.unsettled.items():
            settlement = settlements[place]
            if error is not None:
                lane = self._lanes[settlement.delivery.queue]
                settlement = self._pipeline.undone(
                    lane.handler, settlement.delivery, error, charge=lane.intake.charging
                )
            self._runners.put_back([settlement])
        others = [place for place in range(len(settlements)) if place not in claimed.unsettled]
        return [settlements[place] for place in others], [claimed.settled[place] for place in others]

    def _lost_fence(self, delivery: Delivery) -> None:
        self._settled -= 1
        self._fences_lost += 1
        lost = LeaseLost(f"{ids.text(delivery.id)} of {delivery.queue} was taken over by another worker")
        _LOG.warning("%s: %s; nothing of attempt %d was committed", type(lost).__name__, lost, delivery.attempt)

    def _release(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            settlement = Settlement(delivery, State.READY, charge=False)
            self._lanes[delivery.queue].ended(settlement)
            self._runners.settle(settlement)

    def _turn_failed(self, turn: _Turn, error: BaseException) -> None:
        """Keep the settlements for the next turn (the fence makes a repetition harmless), and rest a little."""
        if turn.want and not self._failures:
            self._leases.change_holder()
        for queue, asked in turn.want.items():
            self._lanes[queue].failed_claim(asked)
            self._held -= asked
        self._runners.put_back(turn.settlements)
        self._failures += 1
        pause_s = min(_BACKOFF_S_FIRST * 2 ** min(self._failures, 10), _BACKOFF_S_MAX)
        log_error(_LOG, logging.WARNING, error, "a turn at the store failed; the next in %g s", pause_s)
        if self._resting is None:
            self._resting = asyncio.get_running_loop().call_later(pause_s, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._kick()

    # --- listening

    def _idle(self) -> None:
        """Listen; while something runs only a little later, as its settlement may bring the next turn at once."""
        if self._stopping or not self._claiming:
            return
        if not self._runners.held:
            self._listen()
        elif not self._pausing and not self._listener.listening:
            self._pausing = True
            self._later(_PAUSE_S, self._paused)

    def _paused(self) -> None:
        self._pausing = False
        if self._turn is None:
            self._listen()

    def _listen(self) -> None:
        """See that the queues with room are listened to. What has come meanwhile is heard at once."""
        wanted = self._audible()
        if self._listener.listening and wanted <= self._listener.queues:
            if len(wanted) < len(self._listener.queues) and not self._shedding:
                self._shedding = True
                self._later(_SHED_S, self._shed)
            return
        if wanted:
            self._listener.listen(wanted, self._leases.long_running(), self._poll_s())

    def _poll_s(self) -> float:
        return _POLL_S * (0.75 + self._world.chance() / 4)

    def _look_around(self) -> None:
        """Once a second: see whether calls make the loop late, as claims yield to them; go on where a timer came too
        early; and see to messages that run long, as somebody may want them ended: listen for them, and look, as who
        asked before that isn't heard."""
        if self._real_time and self._serving():
            self._lag.watch()
        self._kick()
        ids = self._leases.long_running()
        if self._stopping or not ids:
            return
        if ids - self._listener.ids:
            self._listener.listen(self._listener.queues, ids, self._poll_s())
        self._spawn(self._leases.look_at(ids))

    def _audible(self) -> frozenset[str]:
        """Give the queues to listen to: with room, and without a reason to claim from them anyway."""
        now_s = self._clock_s()
        lanes = [lane for lane in self._lanes.values() if not lane.hungry and lane.room(now_s) > 0]
        return frozenset([lane.queue for lane in lanes if not lane.hush_s(now_s)])

    def _shed(self) -> None:
        """Stop listening to queues that have had no room for a while: others should be woken instead."""
        self._shedding = False
        missed = self._listener.queues - self._audible()
        if missed:
            for queue in missed:
                self._lanes[queue].hungry = True
            self._listener.listen(self._listener.queues - missed, self._leases.long_running(), _POLL_S)

    def _heard(self, woken: Woken) -> None:
        now_s = self._clock_s()
        for queue in woken.queues:
            self._lanes[queue].wake(now_s)
        if woken.ids:
            self._spawn(self._leases.look_at(woken.ids))
        if not woken.queues and not woken.ids:
            self.look()
        else:
            self._kick()

    def _wake(self, lane: Lane) -> None:
        lane.wake(self._clock_s())
        self._kick()

    # --- the watchdog

    def _claimable(self) -> dict[str, float]:
        """Give the queues with free slots, each with the instant of the last claim that gave something."""
        if self._stopping:
            return {}
        now_s = self._clock_s()
        return {
            lane.queue: lane.claimed_s for lane in self._lanes.values() if lane.room(now_s) > 0 and not lane.intake.open
        }

    async def _start_afresh(self) -> None:
        """Give turns that hang up, and begin anew. Their settlements go again, guarded by the fence."""
        if self._turn is not None:
            self._turn_given_up = self._turn.cancel()
        self._listener.stop()
        self.look()


def _worked_by(queue: str) -> str:
    contract = forwarded_contract(queue)
    return f"forwarding to {contract}" if contract else f"the handler of {queue}"


def run_fast() -> None:
    """Let threads change places sooner, for processes that work: a store's thread must not wait 5 ms for each step."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def _only_log(reason: str) -> None:
    _LOG.critical("%s; this process should be restarted", reason)
