"""Points at which a process of a test is killed, is stopped or falls asleep, put into the product from outside.

POINT names the point, and POINT_HOW what happens when the process comes to it for the first time: `kill` (if nothing is
said), `stop` (SIGSTOP), `sleep` (whatever came there waits for the file `awake`; nothing else does). Who sleeps has no
lease renewed, and looks at none.
"""

import asyncio
import inspect
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from ringpost.service.heartbeat import Heartbeat
from ringpost.service.leases import Leases

_wanted = os.environ.get("POINT", "")
_how = os.environ.get("POINT_HOW", "kill")


def say(**words: Any) -> None:
    """Write a line down, as `town.say`."""
    os.write(1, json.dumps({**words, "pid": os.getpid()}).encode() + b"\n")


def wanted() -> str:
    """Give the point for which this process was started, until it has come to it."""
    return _wanted


def want(point: str, how: str = "kill") -> None:
    """Do so from now on as if the environment had said it."""
    global _wanted, _how  # the process's own, as its environment is
    _wanted, _how = point, how


def end() -> None:
    """Kill or stop this process, if it has a point to come to."""
    if _taken():
        # To this thread: one that is told by another may get on by a whole COMMIT before it hears of it.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP if _how == "stop" else signal.SIGKILL)


async def come() -> None:
    """Kill or stop this process, or fall asleep."""
    if _how != "sleep":
        end()
    elif _taken():
        forget_leases()
        await until_told("awake")


async def until_told(name: str) -> None:
    """Wait for a file in the folder in which this process runs."""
    while not os.path.exists(name):  # noqa: ASYNC110, ASYNC240 (a file has no event)
        await asyncio.sleep(0.02)


def forget_leases() -> None:
    """Renew no lease, and cancel nothing because it was lost: what is left is the fence."""

    async def nothing(self: Leases, ids: frozenset[bytes]) -> None:
        """Look at nothing."""

    Heartbeat.beat = Leases.check = lambda self: None  # type: ignore[method-assign]
    Leases.look_at = nothing  # type: ignore[method-assign]


def _taken() -> str:
    global _wanted  # a process comes to its point once
    point, _wanted = _wanted, ""
    if point:
        say(point=point)
    return point


def _always(*_: Any) -> bool:
    return True


def before(owner: Any, name: str, if_so: Callable[..., bool] = _always, then: Callable[[], None] | None = None) -> None:
    """End where a function of a class or module is about to run; `if_so` is asked with its arguments (a
    method's begin with its object). `then`: what to do instead."""
    inner = getattr(owner, name)

    async def coming(*arguments: Any, **more: Any) -> Any:
        if if_so(*arguments):
            await come() if then is None else then()
        return await inner(*arguments, **more)

    def ending(*arguments: Any, **more: Any) -> Any:
        if if_so(*arguments):
            (then or end)()
        return inner(*arguments, **more)

    setattr(owner, name, coming if inspect.iscoroutinefunction(inner) else ending)


def after(owner: Any, name: str, if_so: Callable[..., bool] = _always, then: Callable[[], None] | None = None) -> None:
    """End where a function has run; `if_so` is asked with what it gave."""
    inner = getattr(owner, name)

    async def coming(*arguments: Any, **more: Any) -> Any:
        given = await inner(*arguments, **more)
        if if_so(given):
            await come() if then is None else then()
        return given

    def ending(*arguments: Any, **more: Any) -> Any:
        given = inner(*arguments, **more)
        if if_so(given):
            (then or end)()
        return given

    setattr(owner, name, coming if inspect.iscoroutinefunction(inner) else ending)
