"""Calls through the pipeline: what they are answered, what is around them, and what they leave in the store."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest
from desks import Ask, Desk, Reply, Taken, Undeclared, code, desks, echo, never, without_store

from ringpost.contract.contract import Contract
from ringpost.contract.errors import DeadlineExceeded, Overloaded, Reject, RetryLater, Unavailable
from ringpost.contract.operation import Operation
from ringpost.contract.problem import Problem
from ringpost.core.call import Call, Identity
from ringpost.service.context import Context
from ringpost.service.service import Service

pytestmark = pytest.mark.filterwarnings("error")


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
    async with desks(never) as desk:
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

    async with without_store(service) as host:
        answer = await host.call(Call("long_calls.ask", b"", asyncio.get_running_loop().time() + 5))
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


async def test_what_a_handler_does_to_its_context_variables_stays_there() -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="clean")

    async def behave(request: Ask, ctx: Context) -> Reply:
        variable.set("dirty")
        return Reply(1)

    async with desks(behave) as desk:
        await desk.call()
    assert variable.get() == "clean"


@pytest.mark.parametrize(("depth", "path"), [(9, ("a.b",)), (1, ("desk_calls.ask",)), (2, ("desk_calls.ask", "a.b"))])
async def test_chains_of_calls_end(depth: int, path: tuple[str, ...]) -> None:
    async with desks(echo) as desk:
        answer = await desk.call(depth=depth, path=path)
        assert code(answer) == (508, "loop_detected")
        assert not answer.processed
        assert path[0] in msgspec.json.decode(answer.body)["detail"]
        assert (await desk.call(depth=8, path=("a.b",))).status == 200


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

    async with desks(never, Service(Desk, authenticate=authenticate)) as desk:
        assert code(await desk.call()) == (401, "unauthorized")


async def test_what_is_not_served_here_is_not_found() -> None:
    async with desks(echo) as desk:
        call = desk.made()
        call.operation = "desk_calls.nothing"
        assert code(await desk.host.call(call)) == (404, "not_found")
