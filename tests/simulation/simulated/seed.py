"""One run of a seed."""

import asyncio
import gc
import logging

from simulated.checks import violations
from simulated.history import History
from simulated.machine import Loop, Stuck, inside, machine
from simulated.town import CALM_S, Town, Users, faults
from simulated.watching import watched


def simulate(seed: int, *, trace: bool = False) -> tuple[list[str], list[str]]:
    """Run a seed; gives what was broken, and the trace."""
    lines: list[str] = []
    logging.disable(logging.CRITICAL)
    gc.disable()  # what was killed is left to the end of the run, and then all at once
    try:
        with machine(seed) as (loop, chance):
            say = lambda text: lines.append(f"{loop.now_s:9.3f} {text}")  # noqa: E731
            history = History(say if trace else lambda text: None)
            town = Town(loop, chance, history)
            broken = []
            with watched(history, loop):
                try:
                    loop.run_until_complete(_run(town))
                except (TimeoutError, Stuck) as error:
                    broken.append(f"not everything came to its end: {error!r}")
            broken += violations(town, history)
            _bury(loop, town)
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
    return broken, lines


async def _run(town: Town) -> None:
    for name in ("front", "back-1", "back-2"):
        await town.start(name)
    users = Users(town)
    asking = inside(town.people, users.act)
    await faults(town)
    async with asyncio.timeout(CALM_S):
        await asking
        await _settled(town)
        await inside(town.people, users.all_once)
        await _settled(town)


async def _settled(town: Town) -> None:
    """Wait until nothing is left to do in either store."""
    while not town.settled():  # noqa: ASYNC110 (virtual time)
        await asyncio.sleep(0.25)


def _bury(loop: Loop, town: Town) -> None:
    """Let what was killed and what still runs come to an end that nobody hears of."""
    for process in town.processes:
        process.alive, process.buried = False, True
    loop.set_exception_handler(lambda loop, context: None)
    tasks = asyncio.all_tasks(loop)
    for _ in range(5):
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        loop.run_until_complete(asyncio.wait(tasks, timeout=5))
        tasks = {task for task in asyncio.all_tasks(loop) if not task.done()}
