"""Transactions in handlers, over a SQLite store: message and call, async and def, kept or undone with the handling."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

import ringpost
from ringpost import (
    Client,
    Context,
    Contract,
    DeadlineExceeded,
    Operation,
    OperationFailed,
    Problem,
    Retry,
    Service,
    Transaction,
    UsageError,
    blocking,
    first,
    serve,
)
from ringpost.store.sqlite.transaction import SqliteTransaction

GUARD_S = 20


class TooMuch(Problem, status=409):
    left: int = 0


@dataclass
class Pay:
    name: str
    how: str = "execute"


class Bank(Contract):
    pay = Operation(Pay, int, raises=[TooMuch], timeout=10)
    keyed = Operation(Pay, int, raises=[TooMuch], timeout=10, idempotency_key=lambda pay: pay.name)
    threaded = Operation(Pay, int, raises=[TooMuch], timeout=10)
    stored = Operation(Pay, int, timeout=10)
    paid = Operation(Pay)
    seen = Operation(Pay, int)


class Accounts:
    """What a handler is given to work with."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx

    async def add(self, name: str) -> int:
        await self.tx.execute("INSERT INTO payment(name) VALUES (?)", (name,))
        return len(await self.tx.execute("SELECT 1 FROM payment"))


class Schema:
    """The tables of the bank."""


async def schema(tx: Transaction) -> Schema:
    await tx.execute("CREATE TABLE IF NOT EXISTS payment (name TEXT PRIMARY KEY)")
    return Schema()


def accounts(tx: Transaction) -> Accounts:
    return Accounts(tx)


bank = Service(Bank, resources=[schema], provides=[accounts])
_MANY = Retry(attempts=2, first=0.01, longest=0.01)


async def work(pay: Pay, ctx: Context, tx: Transaction) -> int | TooMuch:
    """Write and send, and end as asked for."""
    await ctx.send(Bank.paid, pay)
    if pay.how == "defer":
        tx.defer("INSERT INTO payment(name) VALUES (:name)", {"name": pay.name})
        return 1
    if pay.how == "defer wrong":
        tx.defer("INSERT INTO payment(name) VALUES (:name)", {"name": pay.name})
        tx.defer("INSERT INTO payment(name) VALUES (:name)", {"name": pay.name})
        return 1
    await tx.execute("INSERT INTO payment(name) VALUES (?)", [pay.name])
    match pay.how:
        case "raise":
            raise ValueError(pay.name)
        case "problem":
            raise TooMuch(left=1)
        case "return":
            return TooMuch(left=2)
        case "call":
            return await ctx.call(Bank.seen, pay)
        case "call_all":
            return len(await ctx.call_all(Bank.seen, [pay]))
        case "call_each":
            async for outcome in ctx.call_each(Bank.seen, [pay]):
                outcome.result()
        case "call_first":
            await first(ctx.call(Bank.seen, pay))
        case "call_or_send":
            await ctx.call_or_send(Bank.seen, pay)
        case "hold":
            await asyncio.sleep(0.6)
        case "now":
            await ctx.now.send(Bank.paid, pay, idempotency_key=pay.name)
        case _:
            pass
    return len(await tx.execute("SELECT 1 FROM payment"))


@bank.implements(Bank.pay, retry=_MANY)
async def pay(pay: Pay, ctx: Context, tx: Transaction) -> int | TooMuch:
    return await work(pay, ctx, tx)


@bank.implements(Bank.keyed, retry=_MANY)
async def keyed(pay: Pay, ctx: Context, tx: Transaction) -> int | TooMuch:
    return await work(pay, ctx, tx)


@bank.implements(Bank.threaded, retry=_MANY)
def threaded(pay: Pay, tx: blocking.Transaction) -> int | TooMuch:
    if pay.how == "defer":
        tx.defer("INSERT INTO payment(name) VALUES (:name)", {"name": pay.name})
        return 1
    tx.lock()
    tx.execute("INSERT INTO payment(name) VALUES (?)", (pay.name,))
    if pay.how == "hold":
        held.wait(30)
    if pay.how == "problem":
        raise TooMuch(left=1)
    if pay.how == "return":
        return TooMuch(left=2)
    return len(tx.execute("SELECT 1 FROM payment"))


class Held:
    """Where a thread stands that waits too long."""

    def wait(self, timeout_s: float) -> None:
        threading.Event().wait(0.6)  # the thread is given its time back, not the transaction


held = Held()


@bank.implements(Bank.stored)
async def stored(pay: Pay, accounts: Accounts) -> int:
    return await accounts.add(pay.name)


paid_by: list[str] = []


@bank.implements(Bank.paid)
async def paid(pay: Pay) -> None:
    paid_by.append(pay.name)


@bank.implements(Bank.seen)
async def seen(pay: Pay) -> int:
    return 1


@asynccontextmanager
async def town(folder: Path, *services: Service) -> AsyncIterator[Client]:
    paid_by.clear()
    async with serve(*(services or (bank,)), store=f"sqlite:///{folder / 'store.db'}", http=None) as client:
        yield client


def names(folder: Path) -> list[str]:
    """Give what is committed."""
    db = apsw.Connection(str(folder / "store.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [row[0] for row in db.execute("SELECT name FROM payment ORDER BY name")]
    finally:
        db.close()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not so():  # noqa: ASYNC110 (it is in a file, or said by a handler)
            await asyncio.sleep(0.01)


OPERATIONS = [Bank.pay, Bank.keyed]


@pytest.mark.parametrize("how", ["execute", "defer"])
async def test_writes_and_sends_leave_together(tmp_path: Path, how: str) -> None:
    async with town(tmp_path) as client:
        for number, operation in enumerate(OPERATIONS):
            assert await client.call(operation, Pay(f"call{number}", how)) >= 1
            ticket = await client.send(operation, Pay(f"sent{number}", how))
            assert await ticket.result(GUARD_S) >= 1
        assert names(tmp_path) == ["call0", "call1", "sent0", "sent1"]
        await until(lambda: len(paid_by) == 4)


async def test_a_raised_problem_undoes_and_a_returned_one_keeps(tmp_path: Path) -> None:
    async with town(tmp_path) as client:
        for number, operation in enumerate([*OPERATIONS, Bank.threaded]):
            for how in ("problem", "return"):
                for style in ("call", "sent"):
                    asked = Pay(f"{how}-{style}-{number}", how)
                    with pytest.raises(TooMuch):
                        if style == "call":
                            await client.call(operation, asked)
                        else:
                            await (await client.send(operation, asked)).result(GUARD_S)
        assert names(tmp_path) == sorted(f"return-{style}-{n}" for style in ("call", "sent") for n in range(3))
        await until(lambda: len(paid_by) == 4)
        assert sorted(paid_by) == [f"return-{style}-{n}" for style in ("call", "sent") for n in range(2)]


@pytest.mark.parametrize("how", ["raise", "defer wrong", "call", "call_all", "call_each", "call_first", "call_or_send"])
async def test_what_fails_leaves_nothing_behind(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with town(tmp_path) as client:
        for number, operation in enumerate(OPERATIONS):
            with pytest.raises(OperationFailed):
                await client.call(operation, Pay(f"a{number}", how))
            with pytest.raises(OperationFailed) as caught:
                await (await client.send(operation, Pay(f"b{number}", how))).result(GUARD_S)
            assert caught.value.cause == "handler_error"
        assert (names(tmp_path), paid_by) == ([], [])
        assert await client.call(Bank.keyed, Pay("a1")) == 1  # its key is free again
    if how.startswith("call"):
        assert "Call before the first write" in caplog.text


@pytest.mark.parametrize("how", ["hold", "now"])
async def test_who_waits_while_it_holds_the_turn_is_told_where(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with town(tmp_path) as client:
        ticket = await client.send(Bank.pay, Pay("a", how))
        other = await client.send(Bank.stored, Pay("b"))
        assert await asyncio.wait_for(other.result(GUARD_S), GUARD_S) == 1
        await client.send(Bank.paid, Pay("c"))  # everything goes on
        await until(lambda: "c" in paid_by)
        with pytest.raises(OperationFailed):
            await ticket.result(GUARD_S)
        assert "TransactionHeldTooLong" in caplog.text
        line = "await asyncio.sleep(0.6)" if how == "hold" else "await ctx.now.send(Bank.paid, pay"
        assert re.search(r"stood at test_transactions_handlers\.py:\d+ in work: " + re.escape(line), caplog.text)
        assert names(tmp_path) == ["b"]


async def test_a_thread_that_holds_the_turn_is_told_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with town(tmp_path) as client:
        with pytest.raises(OperationFailed):
            await client.call(Bank.threaded, Pay("a", "hold"))
        assert "threading.Event().wait(0.6)" in caplog.text
        assert await client.call(Bank.threaded, Pay("a")) == 1
        assert await client.call(Bank.threaded, Pay("b", "defer")) == 1
        assert names(tmp_path) == ["a", "b"]


async def test_a_repeat_under_a_key_gets_the_answer_and_writes_nothing(tmp_path: Path) -> None:
    async with town(tmp_path) as client:
        for _ in range(3):
            assert await client.call(Bank.keyed, Pay("a")) == 1
            assert await client.call(Bank.keyed, Pay("b", "defer")) == 1
        assert names(tmp_path) == ["a", "b"]
        await until(lambda: len(paid_by) == 2)


async def test_a_request_answered_later_is_handled_in_its_transaction(tmp_path: Path) -> None:
    async with town(tmp_path) as client:
        for how in ("execute", "defer"):
            accepted = await client.call_or_send(Bank.pay, Pay(how, how), wait=10)
            assert accepted in (1, 2)
        assert names(tmp_path) == ["defer", "execute"]


async def test_providers_share_the_handlers_transaction(tmp_path: Path) -> None:
    async with town(tmp_path) as client:
        assert await client.call(Bank.stored, Pay("a")) == 1
        assert await (await client.send(Bank.stored, Pay("b"))).result(GUARD_S) == 2


async def test_a_caller_whose_time_is_over_learns_that_it_may_have_been_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, go_on = SqliteTransaction.commit, asyncio.Event()

    async def late(self: SqliteTransaction, *given: Any) -> bool:
        await go_on.wait()
        return await commit(self, *given)

    async with town(tmp_path) as client:
        monkeypatch.setattr(SqliteTransaction, "commit", late)
        with pytest.raises(DeadlineExceeded) as caught:
            await client.call(Bank.pay, Pay("a", "defer"), timeout=0.2)
        assert caught.value.processed == "maybe"
        go_on.set()
        await until(lambda: names(tmp_path) == ["a"])


# --- refused at start


def lone(handler: Any) -> Service:
    service = Service(Lone)
    service.implements(Lone.do)(handler)
    return service


class Lone(Contract):
    do = Operation(None)


async def starting(service: Service, store: str) -> str:
    with pytest.raises(UsageError) as caught:
        async with serve(service, store=store, http=None):
            pass
    return str(caught.value)


async def test_a_store_without_sql_is_refused_at_start(tmp_path: Path) -> None:
    async def do(nothing: None, tx: Transaction) -> None: ...
    async def through(nothing: None, accounts: Accounts) -> None: ...

    said = await starting(lone(do), "memory:")
    assert "do, which handles lone.do, takes a Transaction" in said
    assert "memory:" in said
    providing = Service(Lone, provides=[accounts])
    providing.implements(Lone.do)(through)
    assert "takes a Transaction" in await starting(providing, "memory:")
    making = Service(Lone, resources=[schema])

    @making.implements(Lone.do)
    async def plain(nothing: None) -> None: ...

    assert "schema takes a Transaction" in await starting(making, "memory:")


async def test_the_wrong_kind_is_refused_at_start(tmp_path: Path) -> None:
    async def asynchronous(nothing: None, tx: blocking.Transaction) -> None: ...
    def threaded(nothing: None, tx: Transaction) -> None: ...

    store = f"sqlite:///{tmp_path / 'store.db'}"
    assert "let it take ringpost.Transaction" in await starting(lone(asynchronous), store)
    assert "let it take ringpost.blocking.Transaction" in await starting(lone(threaded), store)


async def test_a_transaction_outlives_no_handler_and_takes_no_nonsense(tmp_path: Path) -> None:
    kept: list[Transaction] = []

    async def do(nothing: None, tx: Transaction) -> None:
        kept.append(tx)
        for params in ("a", 1, None):
            with pytest.raises(UsageError):
                tx.defer("SELECT ?", params)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            await tx.execute(b"SELECT 1")  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            _ = tx.connection
        for _ in range(1000):
            tx.defer("SELECT 1")
        with pytest.raises(UsageError, match="1,000"):
            tx.defer("SELECT 1")

    async with town(tmp_path, lone(do)) as client:
        await client.call(Lone.do, None)
        with pytest.raises(ringpost.StateError):
            kept[0].defer("SELECT 1")
        with pytest.raises(ringpost.StateError):
            await kept[0].execute("SELECT 1")
