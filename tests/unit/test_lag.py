"""How late the loop is, as the loop itself can tell."""

import asyncio
import time

from ringpost.service.lag import LAG_S_MAX, Lag


async def test_a_blocked_loop_is_late_and_recovers() -> None:
    told: list[bool] = []
    lag = Lag(lambda: True, lambda: told.append(lag.high))
    lag.watch()
    await asyncio.sleep(0)
    time.sleep(LAG_S_MAX * 4)  # noqa: ASYNC251 (what the test is about)
    async with asyncio.timeout(5):
        while not told or told[-1]:  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(0.001)
    assert told[0] is True
    lag.stop()


async def test_it_looks_only_while_somebody_is_busy() -> None:
    looks: list[int] = []

    def busy() -> bool:
        looks.append(1)
        return len(looks) < 3

    lag = Lag(busy, lambda: None)
    lag.watch()
    async with asyncio.timeout(5):
        while lag._timer is not None:  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(0.001)
    assert len(looks) == 3 or lag.high is False
