"""Calls through the pipeline: what they are answered, until when they run, and what they leave in the store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from ringpost.contract.contract import Contract
from ringpost.contract.errors import (
    DeadlineExceeded,
    Overloaded,
    Reject,
    RetryLater,
    StoreError,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Operation
from ringpost.contract.problem import Problem
from ringpost.core.call import Call, Identity
from ringpost.core.message import Answer, Message, State
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.service import HandlerOptions, Service
from ringpost.service.slots import Slots
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter, Put

pytestmark = pytest.mark.filterwarnings("error")


class Ask(msgspec.Struct):
    number: int


class Reply(msgspec.Struct):
    number: int


class Taken(Problem, status=409):
    by: str


class Undeclared(Problem, status=418):
    pass


class Desk(Contract, name="desk_calls"):
    ask = Operation(Ask, Reply, raises=[Taken])
    note = Operation(Ask)


Behave = Callable[[Ask, Context], Awaitable[Any]]


class CountingStore(MemoryStore):
    """Knows whether anybody came, and can be made to fail or to take its time."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.puts = 0
        self.failing = False
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        self.puts += 1
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise StoreError("the disk is gone")
        return await super().put(messages)


class Desks:
    """A host with one handler whose behaviour the test gives."""

    def __init__(self, host: Host, store: CountingStore) -> None:
        self.host = host
        self.store = store

    async def call(self, number: object = 1, timeout_s: float = 5.0, **given: Any) -> Answer:
        return await self.host.call(self.made(number, timeout_s, **given))

    def made(self, number: object = 1, timeout_s: float = 5.0, **given: Any) -> Call:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        return Call("desk_calls.ask", msgspec.json.encode({"number": number}), deadline_s, **given)

    async def free(self) -> bool:
        """Say whether no key is taken."""
        return not await self.store.find(Filter(kind=None, queue="desk_calls.ask"))

    async def notes(self) -> list[bytes]:
        found = await self.store.find(Filter(queue="desk_calls.note"))
        return [record.body for record in found]


@contextlib.asynccontextmanager
async def desks(behave: Behave, service: Service | None = None, **options: Any) -> AsyncIterator[Desks]:
    service = service or Service(Desk)
    chosen: HandlerOptions = options  # type: ignore[assignment]

    @service.implements(Desk.ask, **chosen)
    async def ask(request: Ask, ctx: Context) -> Reply:
        result: Reply = await behave(request, ctx)
        return result

    @service.implements(Desk.note)
    async def note(request: Ask) -> None: ...

    store = CountingStore()
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(False)
    store.puts = 0
    try:
        yield Desks(host, store)
    finally:
        if store.gate is not None:
            store.gate.set()
        await host.stop(1.0)
        await store.close()


async def until(true: Callable[[], Awaitable[object]]) -> None:
    for _ in range(1000):
        if await true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def echo(request: Ask, ctx: Context) -> Reply:
    return Reply(request.number)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, msgspec.json.decode(answer.body)["code"]


async def test_a_reply_is_encoded_and_the_store_is_not_touched() -> None:
    async with desks(echo) as desk:
        answer = await desk.call(7)
        assert (answer.status, answer.body) == (200, b'{"number":7}')
        assert desk.store.puts == 0


async def test_an_operation_without_reply_answers_204() -> None:
    async with desks(echo) as desk:
        call = desk.made()
        call.operation = "desk_calls.note"
        answer = await desk.host.call(call)
        assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(("body", "pointer"), [(b'{"number":"x"}', "/number"), (b"", ""), (b"{", ""), (b"[" * 200, "")])
async def test_a_request_that_does_not_fit_runs_no_handler(body: bytes, pointer: str) -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        raise AssertionError("the handler ran")

    async with desks(behave) as desk:
        call = desk.made()
        call.body = body
        answer = await desk.host.call(call)
        assert code(answer) == (400, "invalid")
        assert not answer.processed
        assert msgspec.json.decode(answer.body)["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (Taken(by="me"), 409, "taken"),
        (Undeclared(), 500, "handler_error"),
        (ValueError("internal"), 500, "handler_error"),
        (asyncio.CancelledError(), 500, "handler_error"),
        (Unavailable("down"), 503, "unavailable"),
        (Overloaded("busy", retry_after=7), 503, "unavailable"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded"),
        (RetryLater(3), 503, "unavailable"),
        (Reject("never"), 422, "rejected"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_what_a_handler_raises_is_answered_and_discards_what_it_staged(
    error: BaseException, status: int, word: str
) -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        await ctx.send(Desk.note, request)
        raise error

    async with desks(behave) as desk:
        answer = await desk.call()
        assert code(answer) == (status, word)
        assert b"internal" not in answer.body
        assert answer.processed
        assert (answer.retry_after_s is not None) == (status == 503)
        assert await desk.notes() == []


async def test_retry_after_is_what_the_handler_said() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        raise RetryLater(3)

    async with desks(behave) as desk:
        assert (await desk.call()).retry_after_s == 3


async def test_a_returned_problem_is_the_answer_and_commits() -> None:
    async def behave(request: Ask, ctx: Context) -> Any:
        ctx.send(Desk.note, request)
        return Taken(by="me")

    async with desks(behave) as desk:
        answer = await desk.call()
        assert code(answer) == (409, "taken")
        assert msgspec.json.decode(answer.body)["type"] == "urn:ringpost:problem:desk_calls.taken"
        assert len(await desk.notes()) == 1


@pytest.mark.parametrize("result", [Ask(1), None, "7", Undeclared()], ids=["another type", "nothing", "str", "problem"])
async def test_a_wrong_reply_is_a_failure_that_commits_nothing(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def behave(request: Ask, ctx: Context) -> Any:
        await ctx.send(Desk.note, request)
        return result

    async with desks(behave) as desk:
        assert code(await desk.call()) == (500, "handler_error")
        assert await desk.notes() == []
    assert "desk_calls.ask" in caplog.text


async def test_a_reply_above_the_limit_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Long(Contract, name="long_calls"):
        ask = Operation(None, str)

    service = Service(Long)

    @service.implements(Long.ask)
    async def ask(nothing: None) -> str:
        return "x" * 2_000_000

    host = Host([service], None, Settings())
    await host.start(False)
    answer = await host.call(Call("long_calls.ask", b"", asyncio.get_running_loop().time() + 5))
    await host.stop(0)
    assert code(answer) == (500, "handler_error")
    assert "reply_bytes_max" in caplog.text


async def test_staged_messages_are_committed_before_the_answer() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        ctx.send(Desk.note, Ask(1))
        await ctx.send(Desk.note, Ask(2))
        return Reply(0)

    async with desks(behave) as desk:
        assert (await desk.call()).status == 200
        assert await desk.notes() == [b'{"number":1}', b'{"number":2}']
        assert desk.store.puts == 1


async def test_a_failing_store_fails_the_call_that_staged(caplog: pytest.LogCaptureFixture) -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        await ctx.send(Desk.note, request)
        return Reply(1)

    async with desks(behave) as desk:
        desk.store.failing = True
        answer = await desk.call()
        assert code(answer) == (503, "unavailable")
        assert answer.processed
    assert "could not be committed" in caplog.text


async def test_calls_work_while_the_store_is_down() -> None:
    async with desks(echo) as desk:
        desk.store.failing = True
        assert (await desk.call()).status == 200


# --- time


async def test_a_deadline_that_has_passed_runs_no_handler() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        raise AssertionError("the handler ran")

    async with desks(behave) as desk:
        answer = await desk.call(timeout_s=0)
        assert code(answer) == (504, "deadline_exceeded")
        assert not answer.processed


async def test_the_handler_is_cancelled_at_the_deadline() -> None:
    seen: list[object] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(ctx.cancelled)
        return Reply(1)

    async with desks(behave) as desk:
        answer = await desk.call(timeout_s=0.03)
        assert code(answer) == (504, "deadline_exceeded")
        assert answer.processed
        assert seen == ["deadline"]


async def test_a_task_of_the_call_s_own_is_used_again_after_a_deadline() -> None:
    async def behave(request: Ask, ctx: Context) -> Reply:
        await asyncio.Event().wait()
        return Reply(1)

    async with desks(behave) as desk:

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
    started, seen = asyncio.Event(), []

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(ctx.cancelled)
        return Reply(1)

    async with desks(behave) as desk:
        calling = asyncio.create_task(desk.call(owned=owned))
        await started.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert seen == ["caller_gone"]
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
    go_on, done = asyncio.Event(), asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        await go_on.wait()
        done.set()
        return Reply(1)

    async with desks(behave, finish=True) as desk:
        answer = await desk.call(timeout_s=0.02)
        assert code(answer) == (504, "deadline_exceeded")
        assert answer.processed
        go_on.set()
        await done.wait()


async def test_what_a_handler_does_to_its_context_variables_stays_there() -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="clean")

    async def behave(request: Ask, ctx: Context) -> Reply:
        variable.set("dirty")
        return Reply(1)

    async with desks(behave) as desk:
        await desk.call()
    assert variable.get() == "clean"


# --- limits


async def test_over_the_limit_of_calls_is_answered_at_once() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        await go_on.wait()
        return Reply(1)

    async with desks(behave, concurrency=1, call_queue=0) as desk:
        first = asyncio.create_task(desk.call())
        await started.wait()
        refused = await desk.call()
        assert code(refused) == (503, "overloaded")
        assert not refused.processed
        assert refused.retry_after_s
        go_on.set()
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


@pytest.mark.parametrize(("depth", "path"), [(9, ("a.b",)), (1, ("desk_calls.ask",)), (2, ("desk_calls.ask", "a.b"))])
async def test_chains_of_calls_end(depth: int, path: tuple[str, ...]) -> None:
    async with desks(echo) as desk:
        answer = await desk.call(depth=depth, path=path)
        assert code(answer) == (508, "loop_detected")
        assert not answer.processed
        assert path[0] in msgspec.json.decode(answer.body)["detail"]
        assert (await desk.call(depth=8, path=("a.b",))).status == 200


# --- around the handler


async def test_middleware_is_called_around_the_handler_first_one_outermost() -> None:
    happened: list[str] = []

    def middleware(name: str) -> Callable[[Context, Callable[[], Awaitable[object]]], Awaitable[object]]:
        async def around(ctx: Context, proceed: Callable[[], Awaitable[object]]) -> object:
            happened.append(f"{name} before")
            result = await proceed()
            happened.append(f"{name} after")
            return result

        return around

    async def behave(request: Ask, ctx: Context) -> Reply:
        happened.append("handler")
        return Reply(1)

    service = Service(Desk, middleware=[middleware("outer"), middleware("inner")])
    async with desks(behave, service) as desk:
        assert (await desk.call()).status == 200
    assert happened == ["outer before", "inner before", "handler", "inner after", "outer after"]


async def test_middleware_may_answer_itself() -> None:
    async def closed(ctx: Context, proceed: Callable[[], Awaitable[object]]) -> object:
        raise RetryLater(1)

    async with desks(echo, Service(Desk, middleware=[closed])) as desk:
        assert (await desk.call()).status == 503


async def test_authenticate_says_who_asks() -> None:
    seen: list[object] = []

    async def authenticate(headers: Mapping[str, str]) -> Identity | None:
        return Identity(headers["authorization"]) if "authorization" in headers else None

    async def behave(request: Ask, ctx: Context) -> Reply:
        seen.append(ctx.identity)
        return Reply(1)

    async with desks(behave, Service(Desk, authenticate=authenticate)) as desk:
        await desk.call(headers={"authorization": "ada"})
        await desk.call()
    assert seen == [Identity("ada"), None]


async def test_authenticate_refuses_with_a_problem() -> None:
    class Unauthorized(Problem, status=401):
        pass

    async def authenticate(headers: Mapping[str, str]) -> Identity | None:
        raise Unauthorized

    async def behave(request: Ask, ctx: Context) -> Reply:
        raise AssertionError("the handler ran")

    async with desks(behave, Service(Desk, authenticate=authenticate)) as desk:
        assert code(await desk.call()) == (401, "unauthorized")


async def test_what_is_not_served_here_is_not_found() -> None:
    async with desks(echo) as desk:
        call = desk.made()
        call.operation = "desk_calls.nothing"
        assert code(await desk.host.call(call)) == (404, "not_found")


async def test_a_stopped_host_says_so() -> None:
    async with desks(echo) as desk:
        await desk.host.stop(0)
        with pytest.raises(UsageError, match="isn't running"):
            await desk.call()


async def test_stopping_cancels_calls_after_the_grace() -> None:
    started = asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        await asyncio.Event().wait()
        return Reply(1)

    async with desks(behave) as desk:
        calling = asyncio.create_task(desk.call())
        await started.wait()
        await desk.host.stop(0)
        answer = await calling
        assert code(answer) == (503, "unavailable")


# --- keys


async def test_a_key_gives_the_same_bytes_and_one_effect() -> None:
    handled: list[int] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        handled.append(request.number)
        assert ctx.fence is not None
        await ctx.send(Desk.note, request)
        return Reply(len(handled))

    async with desks(behave) as desk:
        first = await desk.call(1, idempotency_key="k")
        again = await desk.call(1, idempotency_key="k")
        assert (first.status, first.body, first.content_type) == (again.status, again.body, again.content_type)
        assert handled == [1]
        assert len(await desk.notes()) == 1
        await desk.call(1, idempotency_key="other")
        assert handled == [1, 1]


async def test_a_declared_problem_is_stored_under_its_key() -> None:
    handled: list[int] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        handled.append(1)
        await ctx.send(Desk.note, request)
        raise Taken(by="me")

    async with desks(behave) as desk:
        first = await desk.call(idempotency_key="k")
        again = await desk.call(idempotency_key="k")
        assert code(first) == (409, "taken")
        assert first.body == again.body
        assert handled == [1]
        assert await desk.notes() == []


async def test_a_failure_leaves_nothing_under_its_key() -> None:
    handled: list[int] = []

    async def behave(request: Ask, ctx: Context) -> Reply:
        handled.append(1)
        if len(handled) == 1:
            raise ValueError("once")
        return Reply(2)

    async with desks(behave) as desk:
        assert (await desk.call(idempotency_key="k")).status == 500
        assert (await desk.call(idempotency_key="k")).body == b'{"number":2}'


async def test_a_key_in_flight_is_told_to_come_again() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        await go_on.wait()
        return Reply(1)

    async with desks(behave) as desk:
        first = asyncio.create_task(desk.call(idempotency_key="k"))
        await started.wait()
        repeat = await desk.call(idempotency_key="k")
        assert code(repeat) == (409, "in_flight")
        assert repeat.retry_after_s
        go_on.set()
        assert (await first).status == 200


async def test_a_key_stands_for_one_request_however_it_is_written() -> None:
    async with desks(echo) as desk:
        await desk.call(1, idempotency_key="k")
        call = desk.made(idempotency_key="k")
        call.body = b'{ "number" : 1.0 }'
        assert (await desk.host.call(call)).status in (200, 400)
        assert code(await desk.call(2, idempotency_key="k")) == (422, "key_reused")


async def test_keys_are_each_identity_s_own() -> None:
    async with desks(echo) as desk:
        await desk.call(1, idempotency_key="k", identity=Identity("ada"))
        answer = await desk.call(2, idempotency_key="k", identity=Identity("bob"))
        assert answer.body == b'{"number":2}'


@pytest.mark.parametrize("how", ["deadline", "caller"])
async def test_a_keyed_call_that_is_cancelled_leaves_nothing(how: str) -> None:
    started = asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        await asyncio.Event().wait()
        return Reply(1)

    async with desks(behave) as desk:
        calling = asyncio.create_task(desk.call(idempotency_key="k", timeout_s=0.05 if how == "deadline" else 5))
        await started.wait()
        if how == "caller":
            calling.cancel()
        await asyncio.wait([calling])
        await until(desk.free)


async def test_a_caller_that_goes_away_while_reserving_leaves_nothing() -> None:
    async with desks(echo) as desk:
        desk.store.gate = asyncio.Event()
        calling = asyncio.create_task(desk.call(idempotency_key="k"))
        await desk.store.asked.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        desk.store.gate.set()
        await until(desk.free)


async def test_a_reservation_is_no_message() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def behave(request: Ask, ctx: Context) -> Reply:
        started.set()
        await go_on.wait()
        return Reply(1)

    async with desks(behave) as desk:
        calling = asyncio.create_task(desk.call(idempotency_key="k"))
        await started.wait()
        (record,) = await desk.store.find(Filter(kind=None, queue="desk_calls.ask"))
        assert record.state is State.RUNNING
        assert await desk.store.find(Filter(queue="desk_calls.ask")) == []
        go_on.set()
        await calling


async def test_a_key_needs_a_store() -> None:
    service = Service(Desk)

    @service.implements(Desk.ask)
    async def ask(request: Ask) -> Reply:
        return Reply(1)

    @service.implements(Desk.note)
    async def note(request: Ask, ctx: Context) -> None:
        await ctx.send(Desk.note, request)

    host = Host([service], None, Settings())
    await host.start(False)
    deadline_s = asyncio.get_running_loop().time() + 5
    assert code(await host.call(Call("desk_calls.ask", b'{"number":1}', deadline_s, idempotency_key="k"))) == (
        503,
        "unavailable",
    )
    assert (await host.call(Call("desk_calls.ask", b'{"number":1}', deadline_s))).status == 200
    assert (await host.call(Call("desk_calls.note", b'{"number":1}', deadline_s))).status == 500
    await host.stop(0)


@dataclass
class Numbered:
    number: int


async def test_an_operation_may_make_the_key_itself() -> None:
    class Keyed(Contract, name="keyed_calls"):
        ask = Operation(Numbered, int, idempotency_key=lambda request: f"n{request.number}")

    service, handled = Service(Keyed), []

    @service.implements(Keyed.ask)
    async def ask(request: Numbered) -> int:
        handled.append(request.number)
        return len(handled)

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([service], store, Settings())
    await host.start(False)
    deadline_s = asyncio.get_running_loop().time() + 5
    answers = [await host.call(Call("keyed_calls.ask", b'{"number":4}', deadline_s)) for _ in range(2)]
    await host.stop(0)
    assert [answer.body for answer in answers] == [b"1", b"1"]


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
