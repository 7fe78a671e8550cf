"""From call to message: what wasn't answered in time or at all goes on as a message, and takes effect once."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner
from tcp_proxy import TcpProxy
from two_stores import FORWARD, SOON_S, Billing, CardRefused, Receiver, a_client, looking_into, told

from ringpost import Client, OperationFailed, Unavailable, UsageError
from ringpost.cli.main import ringpost
from ringpost.client import breaker_notes
from ringpost.core import ids, notes
from ringpost.store.port import Filter, Note


async def test_a_reply_in_time_is_the_reply(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        assert await client.call_or_send(Billing.charge, "a", wait=10) == "a is charged"
        assert await client.call_or_send(Billing.note, "b", wait=10) is None
    assert receiver.effects == ["a", "b"]


async def test_what_takes_longer_goes_on_as_one_execution(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        ticket = told(await client.call_or_send(Billing.charge, "slow", wait=0.2))
        assert (await ticket.status()).state == "running"
        receiver.gate.set()
        assert await ticket.result(timeout=SOON_S) == "slow is charged"
        assert await client.ticket(Billing.charge, ticket.id).result(timeout=SOON_S) == "slow is charged"
    assert receiver.effects == ["slow"]


async def test_a_receiver_that_is_down_gets_it_when_it_is_back(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        ticket = told(await client.call_or_send(Billing.charge, "a", wait=5))
        assert ticket.level == "durable"
        async with receiver.up():
            assert await ticket.result(timeout=SOON_S) == "a is charged"
            assert (await ticket.status()).state == "succeeded"
    assert receiver.effects == ["a"]


async def test_what_a_breaker_keeps_from_being_called_is_kept_as_a_message(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_notes, "LOOK_S", 0.0)
    store = f"sqlite:///{tmp_path / 'sender.db'}"
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        held = ["breakers", "open", "billing.charge", "--store", store]
        done = await asyncio.to_thread(CliRunner().invoke, ringpost, held)
        assert done.exit_code == 0, done.output
        with pytest.raises(Unavailable):
            async with asyncio.timeout(SOON_S):
                while True:  # it is heard of with one of the next calls
                    await client.call(Billing.charge, "b")
        ticket = told(await client.call_or_send(Billing.charge, "a", wait=5))
        async with looking_into(store) as looking:
            assert [ids.text(record.id) for record in await looking.find(Filter(FORWARD))] == [ticket.id]
        assert await ticket.result(timeout=SOON_S) == "a is charged"
    assert receiver.effects.count("a") == 1


async def test_a_lost_answer_takes_effect_once(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), TcpProxy("127.0.0.1", receiver.port) as proxy, a_client(tmp_path, proxy.url) as client:
        lost = proxy.lose_answer(b"POST /billing/charge")
        ticket = told(await client.call_or_send(Billing.charge, "a", wait=5))
        assert lost.happened
        assert await ticket.result(timeout=SOON_S) == "a is charged"
    assert receiver.effects == ["a"]


async def test_an_answer_that_never_comes_takes_effect_once(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), TcpProxy("127.0.0.1", receiver.port) as proxy, a_client(tmp_path, proxy.url) as client:
        proxy.lose_answer(b"POST /billing/charge", "silence")
        ticket = told(await client.call_or_send(Billing.charge, "a", wait=0.3))
        assert await ticket.result(timeout=SOON_S) == "a is charged"
    assert receiver.effects == ["a"]


async def test_without_the_id_on_the_wire_it_would_take_effect_twice(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the two above."""
    monkeypatch.setattr("ringpost.client.asking.written", lambda sent: [])
    async with receiver.up(), TcpProxy("127.0.0.1", receiver.port) as proxy, a_client(tmp_path, proxy.url) as client:
        proxy.lose_answer(b"POST /billing/charge")
        ticket = told(await client.call_or_send(Billing.charge, "a", wait=5))
        await ticket.result(timeout=SOON_S)
    assert receiver.effects == ["a", "a"]


async def test_an_answer_is_never_a_reason_to_send(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        with pytest.raises(CardRefused):
            await client.call_or_send(Billing.charge, "refused", wait=5)
        with pytest.raises(OperationFailed) as failed:
            await client.call_or_send(Billing.charge, "rejected", wait=5)
        assert failed.value.cause == "rejected"
        await client.call_or_send(Billing.charge, "a", wait=5, idempotency_key="k")
        with pytest.raises(UsageError, match="key"):
            await client.call_or_send(Billing.charge, "b", wait=5, idempotency_key="k")
    async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
        assert await store.find(Filter(FORWARD)) == []


async def test_a_client_without_store_says_that_one_would_have_kept_it(receiver: Receiver) -> None:
    async with Client(store=None, addresses={"billing": receiver.url}) as client:
        with pytest.raises(Unavailable, match="no store: with one") as down:
            await client.call_or_send(Billing.charge, "a", wait=5)
        assert down.value.processed == "no"


async def test_a_client_without_store_names_the_ticket_of_what_may_be_there(receiver: Receiver) -> None:
    async with (
        receiver.up(),
        TcpProxy("127.0.0.1", receiver.port) as proxy,
        Client(store=None, addresses={"billing": proxy.url}) as client,
    ):
        proxy.lose_answer(b"POST /billing/charge")
        with pytest.raises(Unavailable, match=r"client\.ticket") as unknown:
            await client.call_or_send(Billing.charge, "a", wait=5)
        assert unknown.value.processed == "maybe"
        id = str(unknown.value).rpartition("client.ticket(billing.charge, '")[2][:36]
        assert await client.ticket(Billing.charge, id).result(timeout=SOON_S) == "a is charged"


async def test_on_one_store_the_message_attaches_to_the_call(tmp_path: Path, receiver: Receiver) -> None:
    """The door is found in the store: what was written there is what the message meets."""
    async with receiver.up(), TcpProxy("127.0.0.1", receiver.port) as proxy:
        async with looking_into(receiver.store) as store:
            for note in await store.notes(notes.INSTANCE):
                instance = notes.decode_instance(note.value)
                moved = notes.Instance(proxy.url, instance.boot_id, operations=instance.operations, queues=())
                await store.note_put(Note(note.name, notes.encode(moved), lease_s=60.0))
        async with Client(store=receiver.store, addresses={}) as client:
            proxy.lose_answer(b"POST /billing/charge")
            assert await client.call_or_send(Billing.charge, "a", wait=10) == "a is charged"
    assert receiver.effects == ["a"]
