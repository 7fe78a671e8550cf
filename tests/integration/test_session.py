"""A handler's AsyncSession on PostgreSQL: its writes, messages, outcome and settlement are one commit, its own."""

import pytest
from session_bank import COMMITS, GUARD_S, HEARD, Bank, Lone, Pay, Payment, TooMuch, lone, names, sql, town, until
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import ringpost.sqlalchemy
from ringpost import Context, OperationFailed

OPERATIONS = [Bank.pay, Bank.keyed]


async def test_writes_and_sends_leave_together(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        for number, operation in enumerate(OPERATIONS):
            assert await client.call(operation, Pay(f"call{number}")) == 1
            assert await (await client.send(operation, Pay(f"sent{number}"))).result(GUARD_S) == 1
        assert await client.call(Bank.stored, Pay("provided")) == 5
        assert await client.call(Bank.look, "call0") == 1
        await until(lambda: len(HEARD) == 4)
    assert await names(bank_url) == ["call0", "call1", "provided", "sent0", "sent1"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_raised_problem_undoes_and_a_returned_one_keeps(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        for number, operation in enumerate(OPERATIONS):
            for how in ("problem", "return"):
                with pytest.raises(TooMuch):
                    await client.call(operation, Pay(f"{how} call {number}", how))
                with pytest.raises(TooMuch):
                    await (await client.send(operation, Pay(f"{how} sent {number}", how))).result(GUARD_S)
        await until(lambda: len(HEARD) == 4)
    kept = ["return call 0", "return call 1", "return sent 0", "return sent 1"]
    assert (await names(bank_url), sorted(HEARD)) == (kept, [f"paid {name}" for name in kept])


FAILS = {**dict.fromkeys(COMMITS, "not for handlers"), "raise": "ValueError", "twice at the end": "payment_pkey"}
FAILS |= dict.fromkeys(["call", "call_or_send"], "Call before the first write")


async def test_what_fails_leaves_nothing_behind(
    bank_url: str, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await sql(bank_url, "INSERT INTO payment VALUES ('there')")
    async with town(bank_url, engine) as client:
        for how, why in FAILS.items():
            caplog.clear()
            for number, operation in enumerate(OPERATIONS):
                with pytest.raises(OperationFailed):
                    await client.call(operation, Pay(f"a{number} {how}", how))
                with pytest.raises(OperationFailed) as caught:
                    await (await client.send(operation, Pay(f"b{number} {how}", how))).result(GUARD_S)
                assert caught.value.cause == "handler_error"
            assert caplog.text.count(why) >= 4, how
        assert (await names(bank_url), HEARD) == (["there"], [])
        assert await client.call(Bank.keyed, Pay("a1 raise")) == 1  # its key is free again
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_commit_that_was_refused_and_swallowed_commits_nothing(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        with pytest.raises(OperationFailed):
            await client.call(Bank.pay, Pay("a", "swallow"))
    assert (await names(bank_url), HEARD) == ([], [])


@pytest.mark.parametrize("how", ["commit", "connection"])
async def test_the_next_handling_commits_nothing_of_one_whose_commit_was_refused(
    bank_url: str, engine: AsyncEngine, how: str
) -> None:
    async with town(bank_url, engine) as client:
        with pytest.raises(OperationFailed):
            await client.call(Bank.pay, Pay("a", how))
        assert await client.call(Bank.pay, Pay("b")) == 1  # on the same connection, if it is there still
    assert await names(bank_url) == ["b"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_part_is_undone_by_a_savepoint_and_all_of_it_by_a_roll_back(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        assert await client.call(Bank.pay, Pay("a", "savepoint")) == 1
        assert await (await client.send(Bank.pay, Pay("b", "undo"))).result(GUARD_S) == 1
        await until(lambda: len(HEARD) == 2)
    assert await names(bank_url) == ["a", "a, nested", "b, anew"]


async def test_to_close_a_session_is_to_roll_it_back(bank_url: str, engine: AsyncEngine) -> None:
    async def do(nothing: None, ctx: Context, session: AsyncSession) -> None:
        await ctx.send(Lone.heard, None)
        session.add(Payment(name="closed"))
        await session.flush()
        await session.close()
        async with session:
            session.add(Payment(name="in a block"))
            await session.flush()
        session.add(Payment(name="after"))

    async with town(bank_url, engine, lone(do, ringpost.sqlalchemy.session(engine))) as client:
        await client.call(Lone.do, None)
        await until(lambda: HEARD == ["heard"])
    assert await names(bank_url) == ["after"]


async def test_calls_are_made_until_the_first_write(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        assert await client.call(Bank.pay, Pay("a", "call after a look")) == 1
    assert await names(bank_url) == ["a"]


async def test_a_repeat_under_a_key_gets_the_answer_and_writes_nothing(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        for _ in range(3):
            assert await client.call(Bank.keyed, Pay("a")) == 1
        await until(lambda: HEARD == ["paid a"])
    assert await names(bank_url) == ["a"]


async def test_lines_replies_and_events_end_in_it_too(bank_url: str, engine: AsyncEngine) -> None:
    async with town(bank_url, engine) as client:
        for number in range(3):
            await client.send(Bank.lined, Pay("line", str(number)), reply_to=Bank.told)
        await client.send(Bank.pay, Pay("a", "events"))
        await until(lambda: len(HEARD) == 5)
    assert sorted(HEARD) == ["counted a", "paid a", *["told line 1"] * 3]
    assert await names(bank_url) == ["a", "line, 0", "line, 1", "line, 2"]
