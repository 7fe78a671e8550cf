"""Handlers that ask a service on another store, or send to it."""

import asyncio
from pathlib import Path

import pytest
from two_stores import SOON_S, Billing, Receiver, Shop, ordering

from ringpost import Context, Outcome, Service
from ringpost.http.run import serve


async def test_a_handler_that_is_answered_goes_on(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPOST_ADDRESSES", f"billing={receiver.url}")
    async with receiver.up(), serve(ordering(""), store=f"sqlite:///{tmp_path}/shop.db", http=None) as client:
        assert await client.call(Shop.order, "a") == "a is charged"
    assert receiver.effects == ["a"]


async def test_what_nobody_answers_is_staged_and_leaves_with_the_handler(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPOST_ADDRESSES", f"billing={receiver.url}")
    async with serve(ordering(""), store=f"sqlite:///{tmp_path}/shop.db", http=None) as client:
        level, id = (await client.call(Shop.order, "a")).split()
        assert level == "staged"
        async with receiver.up():
            assert await client.ticket(Billing.charge, id).result(timeout=SOON_S) == "a is charged"
    assert receiver.effects == ["a"]


async def test_a_handler_that_runs_again_asks_under_the_same_id(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPOST_ADDRESSES", f"billing={receiver.url}")
    shop = ordering("", failing=2)
    async with receiver.up(), serve(shop, store=f"sqlite:///{tmp_path}/shop.db", http=None) as client:
        ticket = await client.send(Shop.order, "a")
        assert await ticket.result(timeout=SOON_S) == "a is charged"
    assert receiver.effects == ["a"]


async def test_what_a_handler_sends_goes_to_the_other_store(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPOST_ADDRESSES", f"billing={receiver.url},shop=http://127.0.0.1:9")
    shop = Service(Shop)
    heard: asyncio.Future[Outcome[str, str]] = asyncio.get_running_loop().create_future()

    @shop.implements(Shop.order)
    async def order(card: str, ctx: Context) -> str:
        await ctx.send(Billing.charge, card, reply_to=Shop.paid)
        return "ordered"

    @shop.implements(Shop.paid)
    async def paid(outcome: Outcome[str, str]) -> None:
        heard.set_result(outcome)

    # `shop` has an address that leads nowhere, as in a configuration that all services share: it is served here.
    async with receiver.up(), serve(shop, store=f"sqlite:///{tmp_path}/shop.db", http=None) as client:
        ticket = await client.send(Shop.order, "a")
        assert await ticket.result(timeout=SOON_S) == "ordered"
        outcome = await asyncio.wait_for(heard, SOON_S)
        assert (outcome.operation, outcome.request, outcome.result()) == ("billing.charge", "a", "a is charged")
        assert receiver.seen is not None
        envelope = receiver.seen._read_envelope()
        assert (envelope.causation_id, envelope.sender, envelope.hops) == (ticket.id, "shop", 1)
