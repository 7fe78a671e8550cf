"""Until when calls run: deadlines, callers that go away, limits, and the end of the host."""

import asyncio
import contextlib
from collections.abc import Mapping

import pytest
from desks import Ask, Desk, Held, Reply, code, desks, echo, never, until

from ringpost.contract.errors import UsageError
from ringpost.core.call import Identity
from ringpost.core.message import Answer
from ringpost.service.context import Context
from ringpost.service.service import Service
from ringpost.service.slots import Slots


async def test_a_deadline_that_has_passed_runs_no_handler() -> None:
    async with desks(never) as desk:
        answer = await desk.call(timeout_s=0)
        assert code(answer) == (504, "deadline_exceeded")
        assert not answer.processed


async def test_the_handler_is_cancelled_at_the_deadline() -> None:
    held = Held()
    async with desks(held) as desk:
        answer = await desk.call(timeout_s=0.03)
        assert code(answer) == (504, "deadline_exceeded")
        assert answer.processed
        assert held.cancelled == ["deadline"]


async def test_a_task_of_the_call_s_own_is_used_again_after_a_deadline() -> None:
    async with desks(Held()) as desk:

        async def serve() -> tuple[Answer, int]:
            answer = await desk.call(timeout_s=0.03, owned=True)
            task = asyncio.current_task()
            assert task is not None
            await asyncio.sleep(0)  # would raise here if a cancellation were left over
            return answer, task.cancelling()

        answer, left = await asyncio.create_task(serve())
        assert (answer.status, left) == (504, 0)


async def test_a_handler_that_swallows_its_cancellation_is_answered_as_it_says() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return Reply(5)

    async with desks(behave) as desk:
        assert (await desk.call(timeout_s=0.03)).body == b'{"number":5}'


async def test_a_handler_s_own_timeout_is_its_own() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return Reply(3)
        raise AssertionError

    async with desks(behave) as desk:
        assert (await desk.call()).body == b'{"number":3}'


async def test_a_deadline_during_the_commit_says_that_it_may_be_done() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        await ctx.send(Desk.note, request)
        return Reply(1)

    async with desks(behave) as desk:
        desk.store.gate = asyncio.Event()
        answer = await desk.call(timeout_s=0.03)
        assert code(answer) == (504, "deadline_exceeded")
        assert answer.processed
        desk.store.gate.set()
        await until(desk.notes)  # the commit can't be taken back


@pytest.mark.parametrize("owned", [False, True])
async def test_a_caller_that_goes_away_cancels_the_handler(owned: bool) -> None:
    held = Held()
    async with desks(held) as desk:
        calling = asyncio.create_task(desk.call(owned=owned))
        await held.began.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert held.cancelled == ["caller_gone"]
        assert desk.host.health().calls == 0


async def test_with_finish_the_handler_goes_on_without_its_caller() -> None:
    started, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        await go_on.wait()
        await ctx.send(Desk.note, request)
        done.set()
        return Reply(1)

    async with desks(behave, finish=True) as desk:
        calling = asyncio.create_task(desk.call())
        await started.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        go_on.set()
        await done.wait()
        await until(desk.notes)


async def test_with_finish_the_caller_is_answered_in_time_and_the_handler_goes_on() -> None:
    held = Held()
    async with desks(held, finish=True) as desk:
        answer = await desk.call(timeout_s=0.02)
        assert code(answer) == (504, "deadline_exceeded")
        assert answer.processed
        held.go_on.set()
        await held.done.wait()


async def test_over_the_limit_of_calls_is_answered_at_once() -> None:
    held = Held()
    async with desks(held, concurrency=1, call_queue=0) as desk:
        first = asyncio.create_task(desk.call())
        await held.began.wait()
        refused = await desk.call()
        assert code(refused) == (503, "overloaded")
        assert not refused.processed
        assert refused.retry_after_s
        held.go_on.set()
        assert (await first).status == 200
        assert (await desk.call()).status == 200  # the slot is free again


async def test_calls_that_are_all_cut_off_make_the_queue_shorter_whatever_the_limiter() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        if request.number:
            await asyncio.Event().wait()
        return Reply(0)

    async with desks(behave, concurrency=1, limiter="fixed") as desk:
        slots = desk.host.entrance("desk_calls.ask")
        assert isinstance(slots, Slots)
        assert (await desk.call(0)).status == 200
        for _ in range(20):
            assert code(await desk.call(1, timeout_s=0.03)) == (504, "deadline_exceeded")
        assert slots.average_s > 0.02


async def test_a_stopped_host_says_so() -> None:
    async with desks(echo) as desk:
        await desk.host.stop(0)
        with pytest.raises(UsageError, match="isn't running"):
            await desk.call()


async def test_stopping_cancels_calls_after_the_grace() -> None:
    held = Held()
    async with desks(held) as desk:
        calling = asyncio.create_task(desk.call())
        await held.began.wait()
        await desk.host.stop(0)
        answer = await calling
        assert code(answer) == (503, "unavailable")


async def test_the_deadline_holds_while_a_key_is_reserved() -> None:
    async with desks(echo) as desk:
        desk.store.gate = asyncio.Event()
        answer = await desk.call(idempotency_key="k", timeout_s=0.02)
        assert code(answer) == (504, "deadline_exceeded")
        assert not answer.processed
        desk.store.gate.set()
        await until(desk.free)


async def test_the_deadline_holds_while_it_is_asked_who_calls() -> None:
    async def authenticate(headers: Mapping[str, str]) -> Identity | None:
        await asyncio.Event().wait()
        return None

    async with desks(echo, Service(Desk, authenticate=authenticate)) as desk:
        answer = await desk.call(timeout_s=0.02)
        assert code(answer) == (504, "deadline_exceeded")
        assert not answer.processed
