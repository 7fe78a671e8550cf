"""A town of services for tests with real processes: what they do, they write down as lines of JSON on standard output.

As a script it is one of their processes: `town.py ROLE [COUNT]`, with the roles of ROLES. The store, the lease and the
address come from RINGPOST_*.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ringpost import (
    Client,
    Context,
    Contract,
    DeadLetter,
    Event,
    Operation,
    Outcome,
    Problem,
    Reject,
    Retry,
    RetryLater,
    Service,
    Tick,
    Unavailable,
    run,
)
from ringpost.blocking import Context as BlockingContext
from ringpost.core.message import Settlement
from ringpost.http import site
from ringpost.service import upkeep, worker
from ringpost.service.heartbeat import Heartbeat
from ringpost.service.pipeline import Pipeline
from ringpost.service.upkeep import Upkeep
from ringpost.store.port import Claimed
from ringpost.store.sqlite import waiting as sqlite_waiting
from ringpost.store.sqlite.store import SqliteStore

BATCH = 10


def say(**words: Any) -> None:
    """Write a line down. One write of so few bytes is never mixed with another's, and outlives a kill at once."""
    os.write(1, json.dumps({**words, "pid": os.getpid()}).encode() + b"\n")


class Job(Struct):
    number: int
    how: str = ""
    key: str = ""
    length_s: float = 0.0


class Done(Struct):
    number: int
    by: int = 0


class Twice(Problem, status=409):
    """It was there before."""

    number: int


class Stray(Problem, status=418):
    """Nobody declares it."""


class Town(Contract):
    """What is done in the town."""

    work = Operation(Job, Done, raises=[Twice])
    work_def = Operation(Job, Done, raises=[Twice])
    noted = Operation(Done)
    ended = Operation(Outcome[Job, Done])
    keyed = Operation(Job, ordering_key=lambda job: job.key)
    keyless = Operation(Job)
    patient = Operation(Job)
    one_by_one = Operation(Job)
    ask = Operation(Job, Done, timeout=10)
    happened = Event(Done)


class Suburb(Contract):
    """What the town asks elsewhere."""

    deeper = Operation(Job, Done, raises=[Twice])


class Flaky(Exception):
    """Tried again at once."""


class Hopeless(Exception):
    """Tried once."""


async def _until_told(name: str) -> None:
    """Wait for a file: a handler can be told so by a test, whichever process it runs in."""
    path = os.path.join(os.environ["TOWN_FOLDER"], name)
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 (a file has no event)
        await asyncio.sleep(0.01)


def _block_until_told(name: str) -> None:
    """Wait for a file without ever giving the loop a chance."""
    while not os.path.exists(os.path.join(os.environ["TOWN_FOLDER"], name)):
        time.sleep(0.01)


def _spin(length_s: float) -> int:
    """Compute without ever giving the loop a chance."""
    end_s, rounds = time.monotonic() + length_s, 0
    while time.monotonic() < end_s:
        rounds += 1
    return rounds


town = Service(Town)
quick = Retry(attempts=3, first=0.05, longest=0.1)
rules = {Flaky: quick, Hopeless: Retry(attempts=1), Stray: Retry(attempts=1), Unavailable: Retry(attempts=1)}


def _fail(job: Job, attempt: int) -> None:
    """End as the job says, if it shall end badly."""
    match job.how:
        case "raise problem":
            raise Twice(job.number)
        case "raise stray":
            raise Stray()
        case "raise error":
            raise Hopeless("no hope")
        case "raise unavailable":
            raise Unavailable("nobody is behind it")
        case "flaky" if attempt < 3:
            raise Flaky(f"attempt {attempt}")
        case "always flaky":
            raise Flaky(f"attempt {attempt}")
        case "reject":
            raise Reject("not like that")
        case "later" if attempt == 1:
            raise RetryLater(0.05)
        case _:
            pass


@town.implements(Town.work, retry=rules)
async def work(job: Job, ctx: Context) -> Done | Twice:
    say(began=job.number, id=ctx.message_id, fence=ctx.fence, attempt=ctx.attempt, how=job.how)
    await ctx.send(Town.noted, Done(job.number, os.getpid()))
    try:
        match job.how.partition(":"):
            case ("wait", _, name):
                await _until_told(name)
            case ("block", _, name):
                _block_until_told(name)
            case ("die", _, _):
                os._exit(9)
            case ("spin", _, _):
                _spin(job.length_s)
            case ("sleep", _, _):
                await asyncio.sleep(job.length_s)
            case ("progress", _, name):
                await ctx.progress(0.5, "half")
                await _until_told(name)
                await ctx.progress(1, "all")
            case ("return problem", _, _):
                return Twice(job.number)
            case _:
                _fail(job, ctx.attempt)
    except asyncio.CancelledError:
        say(cancelled=job.number, why=ctx.cancelled)
        raise
    say(effect=job.number, id=ctx.message_id, fence=ctx.fence)
    return Done(job.number, os.getpid())


@town.implements(Town.work_def, retry=rules, concurrency=32)
def work_def(job: Job, ctx: BlockingContext) -> Done | Twice:
    ctx.send(Town.noted, Done(job.number, os.getpid()))
    if job.how == "return problem":
        return Twice(job.number)
    _fail(job, ctx.attempt)
    return Done(job.number, os.getpid())


@town.implements(Town.noted)
async def noted(done: Done, ctx: Context) -> None:
    say(noted=done.number, by=done.by, id=ctx.message_id)


@town.implements(Town.ended)
async def ended(outcome: Outcome[Job, Done]) -> None:
    error = outcome.error
    say(
        outcome=outcome.request.number,
        id=outcome.message_id,
        error=type(error).__name__ if error is not None else None,
        cause=getattr(error, "cause", None),
    )


@town.implements(Town.keyed, concurrency=4, retry=quick)
async def keyed(job: Job, ctx: Context) -> None:
    say(key=job.key, step="begin", number=job.number, attempt=ctx.attempt)
    await asyncio.sleep(job.length_s)
    say(key=job.key, step="end", number=job.number, attempt=ctx.attempt)
    _fail(job, ctx.attempt)


@town.implements(Town.keyless, concurrency=4, retry=quick)
async def keyless(job: Job, ctx: Context) -> None:
    await keyed(job, ctx)


@town.implements(Town.patient)
def patient(job: Job, ctx: BlockingContext) -> None:
    """Work in a thread until cancelled."""
    while True:
        ctx.progress(0.5)
        say(patient=job.number)
        time.sleep(0.05)


@town.implements(Town.one_by_one, concurrency=1)
async def one_by_one(job: Job) -> None:
    say(one=job.number)
    if job.how:
        await _until_told(job.how)


@town.implements(Town.ask)
async def ask(job: Job, ctx: Context) -> Done:
    """Ask the suburb, and say how long it had."""
    say(asked=job.number, remaining_s=ctx.remaining)
    done = await ctx.call(Suburb.deeper, job)
    return Done(done.number + 1, done.by)


@town.on(Town.happened)
async def heard_here(done: Done, ctx: Context) -> None:
    say(heard="town", number=done.number, id=ctx.message_id)


@town.on_failure
async def on_failure(letter: DeadLetter) -> None:
    say(letter=letter.operation, id=letter.message_id, cause=letter.cause, attempts=letter.attempts)


suburb = Service(Suburb, name="suburb")


@suburb.implements(Suburb.deeper)
async def deeper(job: Job, ctx: Context) -> Done:
    say(deeper=job.number, remaining_s=ctx.remaining)
    if job.how == "back":
        await ctx.call(Town.ask, job)
    if job.how.startswith("wait:"):
        await _until_told(job.how.removeprefix("wait:"))
    _fail(job, ctx.attempt)
    return Done(job.number, os.getpid())


@suburb.on(Town.happened)
async def heard_there(done: Done, ctx: Context) -> None:
    say(heard="suburb", number=done.number, id=ctx.message_id)


clock = Service(name="clock")


@clock.schedule(every=0.5)
async def ticking(tick: Tick) -> None:
    say(tick=tick.due_at.isoformat())


# --- senders


async def _send(client: Client, numbers: list[int]) -> None:
    tickets = await client.send_all(Town.work, [Job(number, "sleep", length_s=0.01) for number in numbers])
    for number, ticket in zip(numbers, tickets, strict=True):
        say(receipt=number, id=ticket.id)


async def _send_hastily(client: Client, numbers: list[int]) -> None:
    """Acknowledge first and commit then: what a sender that trusts a buffer does."""
    for number in numbers:
        say(receipt=number, id="")
    await asyncio.sleep(0.2)
    await client.send_all(Town.work, [Job(number) for number in numbers])


async def sending(first: int, send: Callable[..., Any], pause_s: float = 0.01) -> None:
    """Send until killed, or told to end by the end of standard input."""
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with Client() as client:
        while not ended.done():
            numbers = list(range(first, first + BATCH))
            await send(client, numbers)
            say(sent=first)
            first += BATCH
            await asyncio.sleep(pause_s)


# --- twins that break a promise


class Unfenced(SqliteStore):
    """A store that settles whatever it is given: each settlement gets the fence that the row has now."""

    async def claim(
        self, want: Any, holder: int, lease_s: float, settlements: Any = (), *, suspects: int = 1
    ) -> Claimed:
        settlements = [await self._believed(settlement) for settlement in settlements]
        return await super().claim(want, holder, lease_s, settlements, suspects=suspects)

    async def _believed(self, settlement: Settlement) -> Settlement:
        (record,) = await self.read([settlement.delivery.id])
        if record is not None:
            settlement.delivery.fence = record.fence
        return settlement


def _with(store: type[SqliteStore]) -> None:
    site.store_for = lambda url, settings, **more: store(url.removeprefix("sqlite:///"), settings)  # type: ignore[assignment]


def _without_heartbeat() -> None:
    Heartbeat.beat = lambda self: None  # type: ignore[method-assign]


def _run(*services: Service) -> None:
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    run(*services, workers=workers)


def _without_fence() -> None:
    _with(Unfenced)
    _run(town)


def _stubborn() -> None:
    """Nobody is told that cancelling was asked for."""
    Pipeline.cancel = lambda self, ref, reason: True  # type: ignore[method-assign]
    _run(town)


def _abrupt() -> None:
    """Stop without waiting for anything."""
    site.Site.close = _leave  # type: ignore[method-assign]
    _run(town)


async def _leave(self: site.Site, grace_s: float) -> None:
    os._exit(0)


def _heartless() -> None:
    _without_heartbeat()
    _run(town)


def _unpolled() -> None:
    """Only the bell wakes: nothing looks by itself but at the start."""
    sqlite_waiting.POLL_S = worker._POLL_S = 3600.0
    upkeep._PERIOD_S_MAX = 3600.0
    Upkeep.step = _one_look  # type: ignore[method-assign]
    _run(town)


async def _one_look(self: Upkeep) -> float:
    return 3600.0


def _deaf() -> None:
    sqlite_waiting.Waiting._heard = lambda self: None  # type: ignore[method-assign]
    _unpolled()


ROLES: dict[str, Callable[[], None]] = {
    "town": lambda: _run(town),
    "suburb": lambda: _run(suburb),
    "clock": lambda: _run(clock),
    "unfenced": _without_fence,
    "heartless": _heartless,
    "stubborn": _stubborn,
    "abrupt": _abrupt,
    "unpolled": _unpolled,
    "deaf": _deaf,
    "sender": lambda: asyncio.run(sending(int(sys.argv[2]), _send)),
    "hasty": lambda: asyncio.run(sending(int(sys.argv[2]), _send_hastily)),
}


if __name__ == "__main__":
    ROLES[sys.argv[1]]()
