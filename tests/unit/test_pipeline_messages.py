"""Messages through the pipeline: the settlement of each ending, what is staged with it, and who is told."""

import asyncio
import contextlib
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from ringpost import blocking
from ringpost.contract.contract import Contract
from ringpost.contract.errors import (
    Cancelled,
    InvalidRequest,
    LeaseLost,
    Reject,
    RetryLater,
    Unavailable,
)
from ringpost.contract.operation import Operation
from ringpost.contract.outcome import DeadLetter, Outcome
from ringpost.contract.problem import Problem
from ringpost.core import ids
from ringpost.core.handling import handling
from ringpost.core.message import Cause, Delivery, Envelope, Failure, Settlement, State
from ringpost.core.retry import Retry
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.pipeline import Pipeline
from ringpost.service.schedule import wall_ms
from ringpost.service.service import HandlerOptions, Service
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore


class Job(msgspec.Struct):
    number: int


class Refused(Problem, status=409):
    why: str


class Works(Contract, name="works_messages"):
    do = Operation(Job, int, raises=[Refused])
    quiet = Operation(Job)
    told = Operation(Outcome[Job, int])


Behave = Callable[[Job, Context], Awaitable[Any]]
ID = ids.uuid7(1_700_000_000_000, 5)


class Work:
    """A pipeline with one handler whose behaviour the test gives, and deliveries made by hand."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def pipeline(self) -> Pipeline:
        return self.host._running().pipeline

    async def handle(
        self, queue: str = "works_messages.do", *, charge: bool = True, envelope: Envelope | None = None, **given: Any
    ) -> Settlement:
        return await self.pipeline.handle_message(
            self.host.handlers[queue], delivery(queue, envelope=envelope, **given), charge=charge
        )


def delivery(
    queue: str = "works_messages.do",
    *,
    ref: int = 1,
    body: bytes = b'{"number":1}',
    attempt: int = 1,
    envelope: Envelope | None = None,
    created_ms: int | None = None,
) -> Delivery:
    headers = b"{}" if envelope is None else msgspec.json.encode(envelope)
    return Delivery(ref, ID, queue, 77, attempt, 0, 1, wall_ms() if created_ms is None else created_ms, headers, body)


@contextlib.asynccontextmanager
async def works(behave: Behave, on_failure: bool = False, **options: Any) -> AsyncIterator[Work]:
    service = Service(Works)
    chosen: HandlerOptions = options  # type: ignore[assignment]

    @service.implements(Works.do, **chosen)
    async def do(job: Job, ctx: Context) -> int:
        result: int = await behave(job, ctx)
        return result

    @service.implements(Works.quiet, **chosen)
    async def quiet(job: Job, ctx: Context) -> None:
        await behave(job, ctx)

    @service.implements(Works.told)
    async def told(outcome: Outcome[Job, int]) -> None: ...

    if on_failure:

        @service.on_failure
        async def failed(letter: DeadLetter) -> None: ...

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(False)
    try:
        yield Work(host)
    finally:
        await host.stop(1.0)
        await store.close()


def raising(error: BaseException) -> Behave:
    async def behave(job: Job, ctx: Context) -> int:
        await ctx.send(Works.quiet, job)
        raise error

    return behave


async def seven(job: Job, ctx: Context) -> int:
    await ctx.send(Works.quiet, job)
    return 7


async def test_success_settles_with_the_answer_and_what_was_staged() -> None:
    async with works(seven) as work:
        settlement = await work.handle()
    assert settlement.to is State.SUCCEEDED
    assert settlement.answer is not None
    assert (settlement.answer.status, settlement.answer.body) == (200, b"7")
    assert [(one.queue, one.body) for one in settlement.staged] == [("works_messages.quiet", b'{"number":1}')]
    assert settlement.charge


async def test_nothing_is_stored_of_an_operation_without_reply() -> None:
    async def behave(job: Job, ctx: Context) -> None: ...

    async with works(behave) as work:
        settlement = await work.handle("works_messages.quiet")
    assert (settlement.to, settlement.answer, list(settlement.staged)) == (State.SUCCEEDED, None, [])


async def test_a_returned_problem_commits_and_a_raised_one_discards() -> None:
    async def returned(job: Job, ctx: Context) -> Any:
        await ctx.send(Works.quiet, job)
        return Refused(why="no")

    async with works(returned) as work:
        settlement = await work.handle()
        assert (settlement.to, settlement.cause, len(settlement.staged)) == (State.FAILED, Cause.PROBLEM, 1)
    async with works(raising(Refused(why="no"))) as work:
        settlement = await work.handle()
        assert (settlement.to, settlement.cause, len(settlement.staged)) == (State.FAILED, Cause.PROBLEM, 0)
        assert settlement.answer is not None
        assert settlement.answer.status == 409


@pytest.mark.parametrize(
    "error", [ValueError("x"), Unavailable("x"), asyncio.CancelledError(), LeaseLost("x"), InvalidRequest("x")]
)
async def test_a_failure_is_tried_again_and_nothing_leaves(error: BaseException) -> None:
    async with works(raising(error)) as work:
        settlement = await work.handle(attempt=3)
    assert settlement.to is State.SCHEDULED
    assert 2.0 <= settlement.delay_s <= 4.0
    assert settlement.charge
    assert list(settlement.staged) == []
    failure = settlement.failure
    assert failure is not None
    assert failure.type.endswith(type(error).__name__)
    assert failure.attempt == 3
    assert "in behave" in failure.traceback


def _files(failure: Failure) -> list[str]:
    return re.findall(r'File "(.*?)", line', failure.traceback)


async def _in_vain(job: Job, ctx: Context) -> int:
    await ctx.send(Works.quiet, "no job")  # type: ignore[arg-type]
    return 0


def _in_a_thread(job: Job) -> int:
    raise ValueError(job.number)


async def _wrong_answer(job: Job, ctx: Context) -> Any:
    return "seven"


@pytest.mark.parametrize("handler", [raising(ValueError("x")), _in_vain, _in_a_thread])
async def test_a_failures_traceback_begins_in_the_handler(handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with works(handler) as work:
        failure = (await work.handle()).failure
    assert failure is not None
    assert _files(failure)[0] == __file__
    (logged,) = [record.exc_info for record in caplog.records if record.exc_info]
    assert traceback.extract_tb(logged[2])[0].filename == __file__


async def test_what_ringpost_raises_in_the_handler_is_shown_to_its_end() -> None:
    async with works(_in_vain) as work:
        failure = (await work.handle()).failure
    assert failure is not None
    assert _files(failure)[-1] != __file__


async def test_what_never_reached_the_handlers_code_is_shown_whole() -> None:
    async with works(_wrong_answer) as work:
        failure = (await work.handle()).failure
    assert failure is not None
    assert _files(failure)


async def test_the_rule_of_the_nearest_class_counts() -> None:
    rules = {LookupError: Retry(attempts=2, first=10, longest=10), Exception: Retry(first=100, longest=100)}
    async with works(raising(KeyError("x")), retry=rules) as work:
        assert 5 <= (await work.handle(attempt=1)).delay_s <= 10
        assert (await work.handle(attempt=2)).to is State.DEAD
    async with works(raising(ValueError("x")), retry=rules) as work:
        assert 50 <= (await work.handle(attempt=2)).delay_s <= 100


async def test_after_the_last_attempt_it_is_dead_and_the_store_tells_of_it() -> None:
    async with works(raising(ValueError("poison")), on_failure=True) as work:
        settlement = await work.handle(attempt=20)
    assert (settlement.to, settlement.cause) == (State.DEAD, Cause.HANDLER_ERROR)
    assert settlement.failure is not None
    assert (settlement.failure.type, settlement.failure.message) == ("ValueError", "poison")
    assert not settlement.staged


async def test_an_open_intake_breaker_charges_nothing() -> None:
    async with works(raising(ValueError("down"))) as work:
        settlement = await work.handle(attempt=20, charge=False)
        assert (settlement.to, settlement.charge) == (State.SCHEDULED, False)
        old_ms = wall_ms() - 31 * 86_400_000
        assert (await work.handle(attempt=1, charge=False, created_ms=old_ms)).to is State.DEAD


async def test_retry_later_says_when_and_is_no_failure() -> None:
    async with works(raising(RetryLater(30))) as work:
        settlement = await work.handle()
        assert (settlement.to, settlement.delay_s, settlement.charge) == (State.SCHEDULED, 30, True)
        assert settlement.failure is None
        assert (await work.handle(attempt=20)).to is State.DEAD
    async with works(raising(RetryLater(30, counts=False))) as work:
        settlement = await work.handle(attempt=20)
        assert (settlement.to, settlement.charge) == (State.SCHEDULED, False)


async def test_reject_is_dead_at_once() -> None:
    async with works(raising(Reject("never"))) as work:
        settlement = await work.handle()
    assert (settlement.to, settlement.cause) == (State.DEAD, Cause.REJECTED)


async def test_a_body_that_does_not_fit_is_dead_and_runs_no_handler() -> None:
    async def behave(job: Job, ctx: Context) -> int:
        raise AssertionError("the handler ran")

    async with works(behave, on_failure=True) as work:
        settlement = await work.handle(body=b'{"number":"x"}')
    assert (settlement.to, settlement.cause) == (State.DEAD, Cause.UNDECODABLE)
    assert not settlement.staged


async def test_messages_in_a_circle_end() -> None:
    async with works(seven) as work:
        settlement = await work.handle(envelope=Envelope(hops=100))
        assert (settlement.to, settlement.cause) == (State.DEAD, Cause.TOO_FAR)
        settlement = await work.handle(envelope=Envelope(hops=99))
        sent = msgspec.json.decode(settlement.staged[0].headers, type=Envelope)
        assert (settlement.to, sent.hops) == (State.SUCCEEDED, 100)


@pytest.mark.parametrize(
    ("behave", "attempt", "state"),
    [(seven, 1, "succeeded"), (raising(Refused(why="no")), 1, "failed")],
    ids=["reply", "problem"],
)
async def test_reply_to_is_told_of_every_answer(behave: Behave, attempt: int, state: str) -> None:
    async with works(behave) as work:
        settlement = await work.handle(attempt=attempt, envelope=Envelope(reply_to="works_messages.told"))
    letter = settlement.staged[-1]
    assert letter.queue == "works_messages.told"
    outcome = msgspec.json.decode(letter.body, type=Outcome[Job, int])
    assert (outcome.state, outcome.request, outcome.message_id) == (state, Job(1), ids.text(ID))
    if state == "succeeded":
        assert outcome.result() == 7


async def test_reply_to_is_told_nothing_of_a_failure_that_is_tried_again() -> None:
    async with works(raising(ValueError("x"))) as work:
        settlement = await work.handle(envelope=Envelope(reply_to="works_messages.told"))
    assert (settlement.to, list(settlement.staged)) == (State.SCHEDULED, [])


# --- ending what runs


class Waiting:
    """A handler that waits for ever, and what it saw at its end."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.seen: list[object] = []

    async def __call__(self, job: Job, ctx: Context) -> int:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append(ctx.cancelled)
        return 1


@pytest.mark.parametrize(
    ("reason", "to", "cause", "charge"),
    [
        ("user", State.CANCELLED, Cause.CANCELLED, True),
        ("shutdown", State.READY, Cause.NONE, False),
        ("lease_lost", State.READY, Cause.NONE, False),
    ],
)
async def test_a_running_message_is_ended_for_a_reason(reason: str, to: State, cause: Cause, charge: bool) -> None:
    behave = Waiting()
    async with works(behave) as work:
        running = asyncio.create_task(work.handle())
        await behave.started.wait()
        assert work.pipeline.cancel(1, reason)
        settlement = await running
        assert running.cancelling() == 0
        assert (settlement.to, settlement.cause, settlement.charge) == (to, cause, charge)
        assert behave.seen == [reason]
        assert not work.pipeline.cancel(1, reason)


async def test_max_run_is_an_attempt() -> None:
    behave = Waiting()
    async with works(behave, max_run=0.03) as work:
        settlement = await work.handle()
    assert (settlement.to, settlement.charge) == (State.SCHEDULED, True)
    assert settlement.failure is not None
    assert settlement.failure.type == "TimeoutError"
    assert "max_run" in settlement.failure.message
    assert behave.seen == ["max_run"]


async def test_a_cancellation_from_outside_is_not_an_outcome() -> None:
    behave = Waiting()
    async with works(behave) as work:
        running = asyncio.create_task(work.handle())
        await behave.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert work.pipeline.running == 0


async def test_one_task_handles_one_message_after_the_other() -> None:
    behave = Waiting()
    async with works(behave) as work:

        async def runner() -> list[State]:
            first = await work.handle(ref=1)
            assert handling.get() is None
            second = await work.handle(ref=2, body=b"nonsense")
            return [first.to, second.to]

        running = asyncio.create_task(runner())
        await behave.started.wait()
        work.pipeline.cancel(1, "user")
        assert await running == [State.CANCELLED, State.DEAD]


async def test_a_handler_in_a_thread_sees_that_it_is_cancelled() -> None:
    class Slow(Contract, name="slow_messages"):
        do = Operation(Job)

    service = Service(Slow)
    entered, seen, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    @service.implements(Slow.do)
    def do(job: Job, ctx: blocking.Context) -> None:
        loop.call_soon_threadsafe(entered.set)
        try:
            while True:
                ctx.checkpoint()
        except Cancelled:
            loop.call_soon_threadsafe(seen.set)
            raise

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(False)
    work = Work(host)
    running = asyncio.create_task(work.handle("slow_messages.do"))
    await entered.wait()
    work.pipeline.cancel(1, "user")
    assert (await running).to is State.CANCELLED
    await seen.wait()
    await host.stop(1)
