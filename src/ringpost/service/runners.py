"""The runners: tasks in which messages are handled, made as needed and kept, each taking one message after the other.

A task of its own for every message would cost more than everything else done for it. A runner that is woken wakes two
more while there is work left: handlers that never wait are run by a few runners, and those that do all start at once.
"""

import asyncio
import logging
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Protocol

from ringpost.core.message import Delivery, Settled, Settlement, State
from ringpost.service.handler import Handler
from ringpost.service.lane import Lane

_LOG = logging.getLogger("ringpost.worker")
_SLICE_S = 0.005  # how long runners hold the loop before others get their turn
_RETRY_S = 30.0


class HandlesMessages(Protocol):
    """What runners need of the pipeline."""

    async def handle_message(
        self, handler: Handler, delivery: Delivery, *, charge: bool = True
    ) -> Settlement | Settled: ...


class Runner:
    """One task and the message that it handles now, if any."""

    __slots__ = ("asked_s", "delivery", "task")

    def __init__(self) -> None:
        self.delivery: Delivery | None = None
        self.asked_s = 0.0  # when the claim was asked for: the lease can't have begun earlier
        self.task: asyncio.Task[None] | None = None


class Runners:
    """Handle what is fed, and collect the settlements. `finished` is called once per loop turn in which some ended."""

    def __init__(self, pipeline: HandlesMessages, finished: Callable[[], None], clock_s: Callable[[], float]) -> None:
        self._pipeline = pipeline
        self._clock_s = clock_s
        self._finished = finished
        self._finishing = False
        self._feed: deque[tuple[Lane, Delivery, float]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._runners: set[Runner] = set()
        self._context = copy_context()  # runners must not inherit what happens to be set where work comes in
        self._loop = asyncio.get_running_loop()
        self._done: list[Settlement] = []
        self._settled: list[Settled] = []
        self.held = 0  # fed and not yet ended

    def feed(self, work: Sequence[tuple[Lane, Delivery, float]]) -> None:
        """Start handling these: lane, delivery, and when its claim was asked for. Their slots have been taken."""
        self.held += len(work)
        self._feed.extend(work)
        self._rouse(min(len(work), 2))

    def take_done(self) -> list[Settlement]:
        """Give what has ended since the last time."""
        done, self._done = self._done, []
        return done

    def take_settled(self) -> list[Settled]:
        """Give what has ended since the last time and needs no commit any more."""
        settled, self._settled = self._settled, []
        return settled

    def put_back(self, settlements: list[Settlement]) -> None:
        """Take settlements back that could not be committed; they go with the next ones."""
        self._done[:0] = settlements

    def settle(self, settlement: Settlement) -> None:
        """Add a settlement of a delivery that was never fed."""
        self._done.append(settlement)
        self.tell()

    def running(self) -> Iterator[tuple[Delivery, float]]:
        """Give what is being handled now, each with the instant at which its claim was asked for."""
        for runner in list(self._runners):
            if runner.delivery is not None:
                yield runner.delivery, runner.asked_s

    async def close(self) -> None:
        """End the runners, also those that still handle something: their messages are released."""
        tasks = [runner.task for runner in self._runners if runner.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _rouse(self, count: int) -> None:
        for _ in range(count):
            if self._idle:
                waiting = self._idle.pop()
                if not waiting.done():
                    waiting.set_result(None)
            else:
                runner = Runner()
                self._runners.add(runner)
                runner.task = self._loop.create_task(
                    self._run(runner), name="ringpost-runner", context=self._context.copy()
                )

    async def _run(self, runner: Runner) -> None:
        try:
            while await self._work(runner):
                idle = self._loop.create_future()
                self._idle.append(idle)
                await idle
        finally:
            self._runners.discard(runner)

    async def _work(self, runner: Runner) -> bool:
        """Handle what is fed until nothing is left; False if this task has been cancelled and must be replaced.

        Every message passes here: what stands in the loop is paid a hundred thousand times a second.
        """
        feed, handle, clock_s, task = self._feed, self._pipeline.handle_message, self._clock_s, runner.task
        assert task is not None
        if len(feed) > 1:
            self._rouse(min(2, len(feed) - 1))
        slice_end_s = clock_s() + _SLICE_S
        while feed:
            lane, delivery, runner.asked_s = feed.popleft()
            runner.delivery = delivery
            try:
                if lane.intake.charging:
                    settlement = await handle(lane.handler, delivery)
                else:
                    settlement = await handle(lane.handler, delivery, charge=False)
            except CancelledError:
                self._end(runner, lane, Settlement(delivery, State.READY, charge=False))
                raise
            except Exception:  # noqa: BLE001 (a border: the pipeline answers for handlers, this is for the pipeline itself)
                _LOG.exception("message %s of %s could not be handled", delivery.id.hex(), delivery.queue)
                settlement = Settlement(delivery, State.SCHEDULED, delay_s=_RETRY_S)
            self._end(runner, lane, settlement)
            if task.cancelling():
                if feed:
                    self._rouse(1)
                return False
            if feed and clock_s() > slice_end_s:
                await asyncio.sleep(0)
                slice_end_s = clock_s() + _SLICE_S
        return True

    def _end(self, runner: Runner, lane: Lane, end: Settlement | Settled) -> None:
        runner.delivery = None
        self.held -= 1
        if isinstance(end, Settlement):
            lane.ended(end)
            self._done.append(end)
        else:
            lane.ended(end.settlement)
            self._settled.append(end)
        if not self._finishing:
            self._finishing = True
            self._loop.call_soon(self._finish)

    def tell(self) -> None:
        """Call `finished` in the next turn of the loop, though nothing may have ended."""
        if not self._finishing:
            self._finishing = True
            self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        self._finishing = False
        self._finished()
