"""`run` and `serve`: services as processes of their own, or in a loop that is there already."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict, cast

import uvloop
from typing_extensions import Unpack

from ringpost.client.client import Client
from ringpost.contract.errors import StoreError, UsageError
from ringpost.http.ports import Bound, bind
from ringpost.http.site import LAST_S, Site
from ringpost.http.supervise import CANT_START, NO_STORE, Supervisor, Tie
from ringpost.http.watch import Watch
from ringpost.service.register import Command
from ringpost.service.service import Service
from ringpost.service.worker import run_fast
from ringpost.settings import Given, Settings, find_file, load

LAME_DUCK_S = 5.0  # after SIGTERM what still comes is served: whoever sends it here has to notice first

Load = Callable[[], Sequence[Service]]

_log = logging.getLogger("ringpost")


class ServeOptions(TypedDict, total=False):
    """`store`: its URL. `outbox`: of the business database that is relayed from. `http`: the address to listen on;
    None: no door."""

    store: str
    outbox: str
    http: str | None


class RunOptions(ServeOptions, total=False):
    """`workers`: how many processes."""

    workers: int


def run(*services: Service, **options: Unpack[RunOptions]) -> None:
    """Serve over HTTP and work messages until SIGTERM or Ctrl-C: what `ringpost run` does.

    What is left out comes from `ringpost.toml` and `RINGPOST_*`. On SIGTERM the process is not ready at once, serves
    for 5 s more, lets what runs end until 25 s, and exits within 28 s; a second signal ends it now. Raises UsageError
    for a port that is taken, StoreError for a store that can't be opened.
    """
    run_loaded(lambda: services, load(cast(Given, options)))


@asynccontextmanager
async def serve(*services: Service, **options: Unpack[ServeOptions]) -> AsyncGenerator[Client, None]:
    """Run services in this event loop and give a client on them: `async with serve(accounts) as client`.

    They listen and work messages as in `run`; `http=None` opens no port. At the end what runs may finish for 25 s.
    Raises UsageError for a port that is taken or services that can't run, StoreError, and what a resource raises.
    """
    settings = load(cast(Given, options))
    bound = bind(settings)
    try:
        _say_moved(bound)
        site = Site(services, settings)
        await site.open(bound, work=True)
        try:
            async with site.client() as client:
                yield client
        finally:
            await site.close(_grace_s(settings))
    finally:
        if bound is not None:
            bound.close()


def run_loaded(load_services: Load, settings: Settings, *, reload: bool = False, accept_loss: bool = False) -> None:
    """Run what a function loads, by settings that are read. With `reload` it is called in each new process."""
    if settings.workers > 1 and settings.store is not None and settings.store.startswith("memory:"):
        raise UsageError("Each worker would have a store of its own in memory: use one worker, or sqlite:///FILE.")
    bound = bind(settings)
    working = Once("working without a door" if bound is None else "")
    try:
        command = Command(secrets.token_hex(8), os.getpid(), settings.workers)

        def work(services: Sequence[Service], tie: Tie | None) -> int:
            site = _Process(services, settings, bound, working, command, accept_loss=accept_loss)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(site.run(tie))

        _say_where(bound)
        if settings.workers == 1 and not reload:
            code = work(load_services(), None)
        else:
            code = _supervised(work, load_services, settings, reload=reload)
    finally:
        working.close()
        if bound is not None:
            bound.close()
    if code:
        raise SystemExit(code)


def _supervised(
    work: Callable[[Sequence[Service], Tie | None], int], load_services: Load, settings: Settings, *, reload: bool
) -> int:
    # With `reload` the parent must not import what may change: each child does, afresh.
    services = None if reload else load_services()
    gc.freeze()  # so that collections in the children don't copy what they share

    def child(tie: Tie) -> int:
        try:
            return work(load_services() if services is None else services, tie)
        except (UsageError, StoreError) as error:
            print(f"ringpost: {error}", file=sys.stderr)
            return CANT_START if isinstance(error, UsageError) else NO_STORE

    file = find_file(_folder())
    watch = Watch(_folder() if file is None else file.parent) if reload else None
    return Supervisor(settings.workers, child, stop_s=settings.shutdown_s, watch=watch).run()


class Once:
    """A line that is said once, by whichever of several processes comes to it first: a byte in a pipe lets one say it.
    Nothing is said where it is empty."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._token, given = os.pipe()
        os.write(given, b"1")
        os.close(given)

    def say(self) -> None:
        if self._line and os.read(self._token, 1):
            print(f"ringpost: {self._line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        os.close(self._token)


class _Process:
    """One worker process: from opening to the last signal."""

    def __init__(
        self,
        services: Sequence[Service],
        settings: Settings,
        bound: Bound | None,
        working: Once,
        command: Command,
        *,
        accept_loss: bool,
    ) -> None:
        self._settings = settings
        self._bound = bound
        self._working = working
        self._told: list[signal.Signals] = []
        self._news = asyncio.Event()
        self._code = 0
        self._site = Site(services, settings, accept_loss=accept_loss, command=command, give_up=self._give_up)

    async def run(self, tie: Tie | None) -> int:
        """Serve until told to stop, or until the parent has died."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell, number)
        if tie is not None:
            loop.add_reader(tie.parent, self._orphaned, tie.parent)
        run_fast()
        try:
            opening = loop.create_task(self._site.open(self._bound, work=True))
            await self._until(opening)
            if not opening.done():
                opening.cancel()
                await asyncio.wait((opening,))
                return self._code
            opening.result()
            if tie is not None:
                os.write(tie.serving, b".")
            self._working.say()
            gc.collect()
            gc.freeze()  # what is here now stays: no collection needs to look at it again
            await self._until()
            await self._stop()
            return self._code
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if tie is not None:
                loop.remove_reader(tie.parent)

    async def _until(self, task: "asyncio.Task[None] | None" = None) -> None:
        """Wait until told to stop, or until the task is done."""
        news = asyncio.ensure_future(self._news.wait())
        await asyncio.wait([news] if task is None else [news, task], return_when=asyncio.FIRST_COMPLETED)
        news.cancel()

    async def _stop(self) -> None:
        longest_s = self._settings.shutdown_s
        # Should the loop hang, the kernel ends the process all the same.
        signal.setitimer(signal.ITIMER_REAL, longest_s)
        grace_s = _grace_s(self._settings)
        if self._bound is not None and self._told[:1] == [signal.SIGTERM]:
            lame_duck_s = min(LAME_DUCK_S, longest_s * LAME_DUCK_S / 28)
            grace_s -= lame_duck_s
            self._site.retire()
            await asyncio.sleep(lame_duck_s)
        await self._site.close(max(0.0, grace_s))
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _tell(self, number: signal.Signals) -> None:
        if self._told:
            _log.warning("%s again: ending at once; what was running runs again when its lease ends", number.name)
            sys.stdout.flush()
            sys.stderr.flush()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._told.append(number)
        self._news.set()

    def _orphaned(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        _log.error("the parent process is gone: stopping")
        self._end(1)

    def _give_up(self, reason: str) -> None:
        _log.critical("%s: stopping, so that a new process takes over", reason)
        self._end(1)

    def _end(self, code: int) -> None:
        self._code = code
        self._news.set()


def _grace_s(settings: Settings) -> float:
    """Give how long what runs may go on, of the time that stopping may take in all."""
    return max(0.0, settings.shutdown_s - LAST_S)


def _folder() -> Path:
    return Path.cwd()


def _say_moved(bound: Bound | None) -> None:
    if bound is not None and bound.moved_from is not None:
        print(f"ringpost: port {bound.moved_from} is taken, the door is at {bound.url}", file=sys.stderr, flush=True)


def _say_where(bound: Bound | None) -> None:
    _say_moved(bound)
    if bound is not None and bound.moved_from is None:
        print(f"ringpost: the door is at {bound.url}", file=sys.stderr, flush=True)
