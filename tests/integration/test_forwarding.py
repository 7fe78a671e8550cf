"""From store to store: what is sent takes effect once, in its order, and its end comes back."""

import asyncio
from itertools import repeat
from pathlib import Path

import pytest
from scene import asked
from two_stores import FORWARD, SOON_S, Billing, CardRefused, Receiver, a_client, looking_into, made, until

from ringpost import Client, OperationFailed, Receipt
from ringpost.core import ids, notes
from ringpost.core.handover import Receipt as Handed
from ringpost.core.handover import encode_receipt
from ringpost.core.message import Answer, Cause, Failure, Message, Settlement, State
from ringpost.store.port import Filter


async def test_send_waits_in_the_senders_store(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        ticket = await client.send(Billing.charge, "a", headers={"x-tenant": "t"}, ordering_key="Ä 1", ttl=600)
        async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
            (record,) = await store.find(Filter(FORWARD))
            assert ids.text(record.id) == ticket.id
        async with receiver.up():
            assert await ticket.result(timeout=SOON_S) == "a is charged"
            assert receiver.seen is not None
            assert receiver.seen.message_id == ticket.id
            assert receiver.seen.headers["x-tenant"] == "t"
            assert receiver.seen._read_envelope().key == "Ä 1"
            async with looking_into(receiver.store) as store:
                (there,) = await store.read([ids.parse(ticket.id)])
                assert there is not None
                assert there.expires_ms is not None
                assert 0 < there.expires_ms - there.created_ms <= 600_000


async def test_every_end_comes_back(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        fine, refused, rejected, silent = (
            await client.send(Billing.charge, "a"),
            await client.send(Billing.charge, "refused"),
            await client.send(Billing.charge, "rejected"),
            await client.send(Billing.note, "n"),
        )
        assert await fine.result(timeout=SOON_S) == "a is charged"
        with pytest.raises(CardRefused) as no:
            await refused.result(timeout=SOON_S)
        assert no.value.card == "refused"
        with pytest.raises(OperationFailed, match="no such card") as dead:
            await rejected.result(timeout=SOON_S)
        assert dead.value.cause == "rejected"
        assert await silent.result(timeout=SOON_S) is None


async def test_outcomes_that_take_longer_are_fetched(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        tickets = await client.send_all(Billing.charge, [f"slow {number}" for number in range(20)])
        tickets += [await client.send(Billing.charge, "slow refused")]
        async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
            await until(store, State.FORWARDED, 21)
        assert [(await ticket.status()).state for ticket in tickets] == ["running"] * 21
        receiver.gate.set()
        replies = [await ticket.result(timeout=SOON_S) for ticket in tickets]
        assert replies[:2] == ["slow 0 is charged", "slow 1 is charged"]
        states = [status.state async for status in tickets[0].updates()]
        assert states == ["succeeded"]
    assert len(receiver.effects) == len(set(receiver.effects)) == 21


async def test_cancelling_goes_along(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        ticket = await client.send(Billing.charge, "slow")
        async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
            await until(store, State.FORWARDED, 1)
        assert await ticket.cancel() == "requested"
        with pytest.raises(OperationFailed) as ended:
            await ticket.result(timeout=SOON_S)
        assert ended.value.state == "cancelled"
    assert receiver.effects == []


async def test_what_waits_for_a_receiver_that_is_down_is_cancelled_here(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        ticket = await client.send(Billing.charge, "a")
        async with asyncio.timeout(SOON_S):
            for pause_s in repeat(0.05):
                if await ticket.cancel() != "requested":  # else it is just being tried
                    break
                await asyncio.sleep(pause_s)
        with pytest.raises(OperationFailed):
            await ticket.result(timeout=SOON_S)
        async with receiver.up():
            assert await client.call_or_send(Billing.charge, "b", wait=SOON_S) == "b is charged"
    assert receiver.effects == ["b"]


async def test_an_outcome_that_is_kept_no_longer_is_unknown(tmp_path: Path, receiver: Receiver) -> None:
    async with (
        receiver.up(),
        looking_into(receiver.store) as there,
        looking_into(await made(tmp_path)) as store,
    ):
        message = Message(ids.uuid7(1_800_000_000_000, 1), FORWARD, b'"x"', b'{"operation":"billing.charge"}')
        await store.put([message])
        (delivery,) = (await store.claim({FORWARD: 1}, 1, 30.0)).deliveries
        gone = encode_receipt(Handed(ids.text(ids.uuid7(1_800_000_000_000, 2)), there.facts.store_id))
        await store.settle([Settlement(delivery, State.FORWARDED, Answer(202, gone))])
        async with Client(store=store.facts.url, addresses={"billing": receiver.url}) as client:
            with pytest.raises(OperationFailed) as ended:
                await client.ticket(Billing.charge, ids.text(message.id)).result(timeout=SOON_S)
            assert ended.value.cause == "outcome_unknown"
        (record,) = await store.find(Filter(FORWARD, (State.DEAD,)))
        assert record.cause is Cause.OUTCOME_UNKNOWN


async def test_a_key_means_the_same_from_two_senders(tmp_path: Path, receiver: Receiver) -> None:
    async with (
        receiver.up(),
        a_client(tmp_path, receiver.url, "one") as one,
        a_client(tmp_path, receiver.url, "two") as two,
    ):
        first = await one.send(Billing.charge, "a", idempotency_key="order-1")
        second = await two.send(Billing.charge, "a", idempotency_key="order-1")
        assert await first.result(timeout=SOON_S) == await second.result(timeout=SOON_S) == "a is charged"
        assert first.id != second.id
    assert receiver.effects == ["a"]


async def test_a_key_means_the_same_called_and_sent(tmp_path: Path, receiver: Receiver) -> None:
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        assert await client.call(Billing.charge, "a", idempotency_key="order-1") == "a is charged"
        ticket = await client.send(Billing.charge, "a", idempotency_key="order-1")
        assert await ticket.result(timeout=SOON_S) == "a is charged"
    assert receiver.effects == ["a"]


async def test_an_address_may_lead_to_the_senders_own_store(receiver: Receiver) -> None:
    async with receiver.up(), Client(store=receiver.store, addresses={"billing": receiver.url}) as client:
        ticket = await client.send(Billing.charge, "a", idempotency_key="k", ordering_key="o")
        assert await ticket.result(timeout=SOON_S) == "a is charged"
    assert receiver.effects == ["a"]


async def test_messages_of_one_key_arrive_in_their_order(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        tickets = [await client.send(Billing.charge, f"{number}", ordering_key="one") for number in range(10)]
        async with receiver.up():
            for ticket in tickets:
                await ticket.result(timeout=SOON_S)
    assert receiver.effects == [f"{number}" for number in range(10)]


async def test_what_may_be_in_one_store_doesnt_go_to_another(tmp_path: Path, receiver: Receiver) -> None:
    """The store behind the address is exchanged, while nobody knows whether the first one took a message."""
    envelope = b'{"operation":"billing.charge","awaited":true}'
    message = Message(ids.uuid7(1_800_000_000_000, 1), FORWARD, b'"x"', envelope)
    async with receiver.up(), a_client(tmp_path, receiver.url) as client:
        await (await client.send(Billing.note, "met")).result(timeout=SOON_S)
    async with looking_into(f"sqlite:///{tmp_path / 'sender.db'}") as store:
        kept = notes.decode_receiver((await store.notes(notes.receiver("billing")))[0].value).stores
        await store.put([message])
        (delivery,) = (await store.claim({FORWARD: 1}, 1, 30.0)).deliveries
        lost = Failure("Outage", "lost", attempt=1, at_ms=1, store_id=kept[-1], reached_ms=1)
        again = Settlement(delivery, State.SCHEDULED, charge=False, cause=Cause.HANDLER_ERROR, failure=lost)
        await store.settle([again])
        receiver.store = f"sqlite:///{tmp_path / 'another.db'}"
        async with receiver.up(), Client(store=store.facts.url, addresses={"billing": receiver.url}) as client:
            fresh = await client.send(Billing.charge, "fresh")
            assert await fresh.result(timeout=SOON_S) == "fresh is charged"
            async with asyncio.timeout(SOON_S):
                for pause_s in repeat(0.02):
                    (record,) = await store.read([message.id])
                    assert record is not None
                    if kept[-1] in record.failures[-1].message:
                        break
                    await asyncio.sleep(pause_s)
    assert receiver.effects == ["met", "fresh"]


async def test_what_is_too_old_to_be_known_is_refused(receiver: Receiver) -> None:
    id = ids.text(ids.uuid7(1_800_000_000_000, 3))
    sent = {"prefer": "respond-async", "operation_id": id}
    async with receiver.up(), looking_into(receiver.store) as store:
        old = await asked(receiver.url, "POST", "/billing/charge", "a", **sent, ringpost_age=f"{8 * 24}h")
        assert (old.status, old.json["code"]) == (500, "too_old")
        assert await store.find(Filter("billing.charge")) == []
        young = await asked(receiver.url, "POST", "/billing/charge", "a", **sent, ringpost_age=f"{6 * 24}h")
        assert (young.status, young.json["id"]) == (202, id)


async def test_a_receipt_tells_that_it_is_durable(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        receipt: Receipt = await client.send(Billing.charge, "a", idempotency_key="k")
        again = await client.send(Billing.charge, "a", idempotency_key="k")
        assert (receipt.level, receipt.duplicate, again.duplicate, again.id) == ("durable", False, True, receipt.id)
