"""Time that moves only while somebody waits for it."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from ringpost.contract.errors import UsageError
from ringpost.testing.virtual_time import VirtualLoop

T = TypeVar("T")


class Running:
    """A virtual loop in its thread."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(passing=frozenset({_housekeeping}))
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def do(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.loop.run(make, contextvars.copy_context()).result(20)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


def _housekeeping(loop: VirtualLoop, ran: list[float]) -> None:
    ran.append(loop.time())
    loop.call_later(0.001, _housekeeping, loop, ran)


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


def test_sleeping_costs_nothing(running: Running) -> None:
    async def sleep() -> float:
        await asyncio.sleep(30 * 24 * 3600)
        return asyncio.get_running_loop().time()

    assert running.do(sleep) == 30 * 24 * 3600


def test_time_stands_still_while_nobody_waits(running: Running) -> None:
    async def leave_a_timer() -> None:
        running.loop.call_later(5, fired.append, 1)

    fired: list[int] = []
    running.do(leave_a_timer)
    for _ in range(3):
        running.do(lambda: asyncio.sleep(0))
    assert running.loop.time() == 0
    assert not fired


def test_timers_run_in_order_and_at_their_time(running: Running) -> None:
    async def run() -> list[tuple[float, int]]:
        ran: list[tuple[float, int]] = []
        loop = asyncio.get_running_loop()
        for number, delay_s in enumerate([3.0, 1.0, 2.0, 1.0]):
            loop.call_later(delay_s, lambda number=number: ran.append((loop.time(), number)))
        await asyncio.sleep(3)
        return ran

    assert running.do(run) == [(1, 1), (1, 3), (2, 2), (3, 0)]


def test_advance_runs_what_falls_due_and_no_more(running: Running) -> None:
    async def set_timers() -> None:
        for at_s in (1.0, 5.0, 5.5):
            running.loop.call_later(at_s, fired.append, at_s)

    fired: list[float] = []
    running.do(set_timers)
    running.do(lambda: running.loop.advance(5))
    assert (running.loop.time(), fired) == (5, [1.0, 5.0])


def test_advance_ends_after_what_its_last_instant_set_off(running: Running) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        for _ in range(5):
            await asyncio.sleep(0)
        done.append(True)

    async def begin() -> None:
        tasks.append(running.loop.create_task(work()))

    done: list[bool] = []
    tasks: list[asyncio.Task[None]] = []
    running.do(begin)
    running.do(lambda: running.loop.advance(5))
    assert done


def test_only_one_advances_at_a_time(running: Running) -> None:
    async def both() -> None:
        first = asyncio.ensure_future(running.loop.advance(5))
        await asyncio.sleep(0)
        try:
            await running.loop.advance(5)
        finally:
            await first

    with pytest.raises(UsageError, match="advance"):
        running.do(both)


def test_time_passes_by_housekeeping(running: Running) -> None:
    async def begin() -> None:
        running.loop.call_later(0.001, _housekeeping, running.loop, ran)

    ran: list[float] = []
    running.do(begin)
    running.do(lambda: asyncio.sleep(3600))
    assert 1 <= len(ran) <= 3  # it ran as time passed, and not a million times


def test_time_stops_at_landmarks(running: Running) -> None:
    landmarks = [2.0, 4.0]
    seen: list[float] = []

    def reached() -> None:
        seen.append(running.loop.time())
        landmarks.pop(0)

    running.loop.landmark_s = lambda: landmarks[0] if landmarks else None
    running.loop.reached = reached
    running.do(lambda: asyncio.sleep(10))
    assert seen == [2.0, 4.0]


def test_a_landmark_that_stays_does_not_stop_time(running: Running) -> None:
    running.loop.landmark_s = lambda: 2.0
    running.do(lambda: asyncio.sleep(10))
    assert running.loop.time() == 10


def test_time_waits_for_threads(running: Running) -> None:
    release = threading.Event()

    async def work() -> float:
        thread = running.loop.run_in_executor(None, release.wait, 20)
        running.loop.call_later(1000, lambda: None)
        threading.Timer(0.02, release.set).start()
        await thread
        return running.loop.time()

    assert running.do(work) == 0


def test_a_quiet_loop_is_waited_for(running: Running) -> None:
    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(10)
            left.pop()

    async def begin() -> None:
        tasks.append(running.loop.create_task(work()))

    left = [1, 2, 3]
    tasks: list[asyncio.Task[None]] = []
    running.do(begin)
    running.do(lambda: running.loop.quiet(lambda: not left))
    assert running.loop.time() == 30


def test_what_fails_there_is_raised_here(running: Running) -> None:
    async def fail() -> None:
        raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        running.do(fail)


async def test_guests_are_heard_before_time_moves(running: Running) -> None:
    """Two verbs begun together in the test's loop run together, however the threads are scheduled."""

    async def verb(seconds: float) -> float:
        async def there() -> float:
            await asyncio.sleep(seconds)
            return running.loop.time()

        with running.loop.guest(asyncio.get_running_loop()):
            return await asyncio.wrap_future(running.loop.run(there, contextvars.copy_context()))

    for round_ in range(1, 51):
        assert await asyncio.gather(*(verb(2) for _ in range(4))) == [2.0 * round_] * 4


async def test_a_verb_that_is_given_up_is_cancelled_there(running: Running) -> None:
    cancelled = threading.Event()

    async def there() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    waiting = asyncio.wrap_future(running.loop.run(there, contextvars.copy_context()))
    running.do(lambda: asyncio.sleep(0))
    waiting.cancel()
    assert await asyncio.to_thread(cancelled.wait, 20)
