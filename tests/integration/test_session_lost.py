"""A handler that loses its message, its connection or its turn commits nothing through its AsyncSession."""

from collections.abc import Sequence
from typing import Any

import pytest
from session_bank import GUARD_S, HEARD, KEPT, TWICE, Lone, Payment, lone, names, sql, town, until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import ringpost.sqlalchemy
from ringpost import Context, DeadlineExceeded, Service, StateError, Unavailable
from ringpost.core.message import Message, Settlement


async def test_a_caller_whose_time_is_over_leaves_nothing_behind(bank_url: str, engine: AsyncEngine) -> None:
    async def slow(nothing: None, session: AsyncSession) -> None:
        session.add(Payment(name="slow"))
        await session.flush()
        await session.execute(text("SELECT pg_sleep(20)"))

    async with town(bank_url, engine, lone(slow, ringpost.sqlalchemy.session(engine))) as client:
        with pytest.raises(DeadlineExceeded):
            await client.call(Lone.do, None, timeout=0.3)
    assert await names(bank_url) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


STEAL = "UPDATE ringpost.message SET fence = fence + 1 WHERE state = 5 AND kind = 2"


def robbed(bank_url: str, engine: AsyncEngine) -> Service:
    """Make a service whose handler loses its message after it has written, at its first attempt."""
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Lone.do)
    async def do(nothing: None, ctx: Context, session: AsyncSession) -> None:
        session.add(Payment(name=f"by {len(KEPT)}"))
        await session.flush()
        await ctx.send(Lone.heard, None)
        KEPT.append(ctx.fence)
        if len(KEPT) == 1:
            await sql(bank_url, STEAL)

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None:
        HEARD.append("heard")

    return service


async def test_who_has_lost_its_message_commits_nothing(
    bank_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGPOST_LEASE", "1")
    async with town(bank_url, engine, robbed(bank_url, engine)) as client:
        await client.send(Lone.do, None)
        await until(lambda: HEARD == ["heard"])
    assert await names(bank_url) == ["by 1"]
    assert len(KEPT) == 2
    assert "LeaseLost" in caplog.text


async def hasty(self: Any, settlement: Settlement | None, staged: Sequence[Message] = ()) -> bool:
    """Commit what the session wrote, and settle after that."""
    self._phase = "committing"
    await self.session.commit()
    await self.session.close()
    (settled,) = await self._store.settle([settlement])
    return bool(settled)


async def test_one_that_settles_after_its_commit_is_found(
    bank_url: str, lone_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ringpost.sqlalchemy._Handling, "_commit", hasty)
    with pytest.raises(AssertionError, match="by 0"):
        await test_who_has_lost_its_message_commits_nothing(bank_url, lone_engine, monkeypatch, caplog)


async def test_a_connection_that_breaks_has_the_message_handled_again(bank_url: str, engine: AsyncEngine) -> None:
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Lone.do, retry=TWICE)
    async def do(nothing: None, session: AsyncSession) -> None:
        KEPT.append(await session.scalar(text("SELECT pg_backend_pid()")))
        session.add(Payment(name=f"by {len(KEPT)}"))
        await session.flush()
        if len(KEPT) == 1:
            await sql(bank_url, "SELECT pg_terminate_backend($1, 10000)", KEPT[0])

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None: ...

    async with town(bank_url, engine, service) as client:
        await (await client.send(Lone.do, None)).result(GUARD_S)
    assert await names(bank_url) == ["by 2"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


BREAKS = ["write", "send", "flush at the end"]


@pytest.mark.parametrize("how", BREAKS)
async def test_a_connection_that_breaks_before_the_commit_makes_a_call_unavailable(
    how: str, bank_url: str, engine: AsyncEngine
) -> None:
    async def do(nothing: None, ctx: Context, session: AsyncSession) -> None:
        process = await session.scalar(text("SELECT pg_backend_pid()"))
        session.add(Payment(name=how))
        if how != "flush at the end":
            await session.flush()
        if how == "send":
            await ctx.send(Lone.heard, None)
        await sql(bank_url, "SELECT pg_terminate_backend($1, 10000)", process)

    async with town(bank_url, engine, lone(do, ringpost.sqlalchemy.session(engine))) as client:
        with pytest.raises(Unavailable) as caught:
            await client.call(Lone.do, None, attempts=1)
        assert caught.value.processed == "maybe"
        with pytest.raises(Unavailable):
            await client.call(Lone.do, None, attempts=1, idempotency_key="key")
    assert await names(bank_url) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_session_outlives_no_handler(bank_url: str, engine: AsyncEngine) -> None:
    service = Service(Lone, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Lone.do)
    async def do(nothing: None, session: AsyncSession) -> None:
        KEPT.append(session)

    @service.implements(Lone.heard)
    async def heard(nothing: None) -> None: ...

    async with town(bank_url, engine, service) as client:
        await client.call(Lone.do, None)
        with pytest.raises(StateError, match="handling is over"):
            await KEPT[0].execute(text("SELECT 1"))
        await KEPT[0].close()
