"""From call to message, and from store to store: each takes effect once, and each ticket ends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from itertools import repeat
from pathlib import Path

import pytest
from click.testing import CliRunner
from scene import asked
from tcp_proxy import TcpProxy
from two_stores import Billing, CardRefused, Receiver, Shop, looking_into, made

from ringpost import (
    Client,
    Context,
    OperationFailed,
    Outcome,
    Receipt,
    Service,
    Ticket,
    Unavailable,
    UsageError,
)
from ringpost.cli.main import ringpost
from ringpost.client import breaker_notes
from ringpost.core import ids, notes
from ringpost.core.handover import Receipt as Handed
from ringpost.core.handover import encode_receipt
from ringpost.core.message import Answer, Cause, Failure, Message, Settlement, State
from ringpost.forward import puller
from ringpost.http.run import serve
from ringpost.store.port import Filter, Note
from ringpost.store.sqlite.store import SqliteStore
from ringpost.wire.outcomes import Told

FORWARD = "forward.to.billing"
SOON_S = 30


@pytest.fixture
def receiver(tmp_path: Path) -> Receiver:
    return Receiver(tmp_path)


@contextlib.asynccontextmanager
async def a_client(folder: Path, address: str, name: str = "sender") -> AsyncIterator[Client]:
    store = await made(folder, name)
    async with Client(store=store, addresses={"billing": address}) as client:
        yield client


def told(ticket: object) -> Ticket[str]:
    assert isinstance(ticket, Ticket)
    return ticket


# --- call_or_send


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


# --- in handlers


def ordering(address: str, *, failing: int = 0, wait: float = 5.0) -> Service:
    """Give a service that asks the receiver in its handler, and fails that often after it."""
    shop = Service(Shop)
    left = [failing]

    @shop.implements(Shop.order)
    async def order(card: str, ctx: Context) -> str:
        got = await ctx.call_or_send(Billing.charge, card, wait=wait)
        if left[0]:
            left[0] -= 1
            raise RuntimeError("after it")
        return got if isinstance(got, str) else f"{got.level} {got.id}"

    @shop.implements(Shop.paid)
    async def paid(outcome: Outcome[str, str]) -> None: ...

    return shop


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


# --- store and forward


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


async def until(store: SqliteStore, state: State, count: int) -> None:
    """Wait until so many messages are in a state."""
    async with asyncio.timeout(SOON_S):
        for pause_s in repeat(0.02):
            if len(await store.find(Filter(FORWARD, (state,)))) == count:
                return
            await asyncio.sleep(pause_s)


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


# --- who forwards


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


async def test_a_receipt_tells_that_it_is_durable(tmp_path: Path, receiver: Receiver) -> None:
    async with a_client(tmp_path, receiver.url) as client:
        receipt: Receipt = await client.send(Billing.charge, "a", idempotency_key="k")
        again = await client.send(Billing.charge, "a", idempotency_key="k")
        assert (receipt.level, receipt.duplicate, again.duplicate, again.id) == ("durable", False, True, receipt.id)


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
