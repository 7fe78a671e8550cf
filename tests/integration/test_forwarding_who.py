"""Which process forwards from a store and fetches outcomes, and what outages and faults do to it."""

import asyncio
import logging
from pathlib import Path

import pytest
from two_stores import FORWARD, SOON_S, Billing, Receiver, a_client, looking_into, made, ordering, until

from ringpost import Client
from ringpost.core import notes
from ringpost.core.message import State
from ringpost.forward import puller
from ringpost.http.run import serve
from ringpost.wire.outcomes import Told


async def test_a_client_says_what_is_left_when_it_closes(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringpost.client.forwarding.LAST_S", 0.1)
    with caplog.at_level(logging.WARNING, "ringpost.client"):
        async with a_client(tmp_path, receiver.url) as client:
            await client.send_all(Billing.charge, ["a", "b", "c"])
    assert any("3 messages for billing" in record.getMessage() for record in caplog.records)


async def test_the_next_client_goes_on_where_one_has_closed(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringpost.client.forwarding.LAST_S", 0.1)
    async with a_client(tmp_path, receiver.url) as client:
        ticket = await client.send(Billing.charge, "a")
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        assert await client.ticket(Billing.charge, ticket.id).result(timeout=SOON_S) == "a is charged"


async def test_a_client_leaves_it_to_the_services_on_its_store(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGPOST_ADDRESSES", f"billing={receiver.url}")
    store = f"sqlite:///{tmp_path}/shop.db"
    async with receiver.up(), serve(ordering(""), store=store, http=None), Client(store=store) as client:
        ticket = await client.send(Billing.charge, "slow")
        await asyncio.wait_for(receiver.began.wait(), SOON_S)
        forwarding = (await client._open())._forwarding
        assert forwarding is not None
        assert forwarding._own == set()
        receiver.gate.set()
        assert await ticket.result(timeout=SOON_S) == "slow is charged"


async def test_one_process_asks_for_all(tmp_path: Path, receiver: Receiver) -> None:
    store = await made(tmp_path)
    async with looking_into(store) as first, looking_into(store) as second:
        stranger = object.__new__(puller.Puller)
        leaders = []
        for one, me in ((first, b"1"), (second, b"2"), (first, b"1")):
            stranger._store, stranger._me, stranger._lease_s, stranger._note = one, me, 30.0, notes.puller(FORWARD)
            leaders.append(await stranger._lead())
        assert leaders == [True, False, True]


async def test_a_fault_of_our_own_doesnt_end_the_fetching_of_outcomes(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inner, left = puller.read_answer, [1]

    def read_answer(body: bytes) -> list[Told]:
        if left[0]:
            left[0] -= 1
            raise KeyError("a fault")
        return inner(body)

    monkeypatch.setattr(puller, "read_answer", read_answer)
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        ticket = await client.send(Billing.charge, "slow")
        async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
            await until(store, State.FORWARDED, 1)
        receiver.gate.set()
        assert await ticket.result(timeout=SOON_S) == "slow is charged"
    assert left == [0]
    assert "by a fault of Ringpost" in caplog.text


async def test_one_outage_counts_once_however_many_messages_meet_it(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    enough = asyncio.Event()

    def outage_delay_s(failures: int, random01: float) -> float:
        counted.append(failures)
        if len(counted) == 40:
            enough.set()
        return 3600.0

    monkeypatch.setattr("ringpost.forward.poster.outage_delay_s", outage_delay_s)
    monkeypatch.setattr("ringpost.client.forwarding.LAST_S", 0.1)
    async with a_client(tmp_path, receiver.url) as client:
        await client.send_all(Billing.charge, [f"{number}" for number in range(40)])
        await asyncio.wait_for(enough.wait(), SOON_S)
    assert max(counted) <= 2  # they were claimed at once, or in two goes
