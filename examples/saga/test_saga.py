"""The saga in milliseconds, its way through every failure; and once with real processes that are killed."""

import asyncio
import random
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from books import contradictions, open_orders
from database import Sql, Tables
from orders import MOVES, orders
from orders import TABLE as SALES
from payments import TABLE as MONEY
from payments import payments
from saga_processes import NAMES, Processes
from shipping import TABLE as PARCELS
from shipping import shipping
from trade import PAY_WITHIN_S, SHIP_WITHIN_S, Charge, Declined, Order, Orders, Parcel, Payments, Shipping

from ringpost import Client, Outcome, Service
from ringpost.testing import Harness

TEA = Order("tea", card="visa", address="Bath", cents=900)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "sagas.md"
GUARD_S = 60


class InMemory:
    """A database of a test: SQL that commits at once, so more is asked of the handlers than a Transaction asks."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for table in (SALES, MONEY, PARCELS):
            self.db.execute(table)

    async def execute(self, sql: str, params: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, tuple(params)).fetchall()  # type: ignore[arg-type]


@pytest.fixture
def memory() -> Iterator[InMemory]:
    made = InMemory()
    yield made
    made.db.close()


def town(memory: InMemory, *services: Service) -> Harness:
    def sql() -> Sql:
        return memory

    def tables() -> Tables:
        return Tables()

    return Harness(*services, provides=[sql, tables])


@pytest.fixture
async def saga(memory: InMemory) -> AsyncIterator[Harness]:
    async with town(memory, orders, payments, shipping) as harness:
        yield harness


async def stands(saga: Harness, order: Order = TEA) -> str:
    await saga.settle()
    return await saga.client.call(Orders.state, order.id)


def state(memory: InMemory, table: str) -> str | None:
    row = memory.db.execute(f"SELECT state FROM {table}").fetchone()
    return None if row is None else str(row[0])


async def test_an_order_is_paid_for_and_shipped(saga: Harness, memory: InMemory) -> None:
    assert await saga.client.call(Orders.place, TEA) == "pending"
    assert await stands(saga) == "shipped"
    assert (state(memory, "payment"), state(memory, "parcel")) == ("taken", "packed")


async def test_ordering_twice_is_ordering_once(saga: Harness) -> None:
    await saga.client.call(Orders.place, TEA)
    await saga.client.call(Orders.place, TEA)
    assert await stands(saga) == "shipped"
    assert len(saga.sent(Payments.charge)) == 1


async def test_a_declined_card_cancels_and_nothing_is_paid_back(saga: Harness) -> None:
    order = Order("tea", card="empty", address="Bath", cents=900)
    await saga.client.call(Orders.place, order)
    assert await stands(saga) == "cancelled"
    assert saga.sent(Payments.refund) == saga.sent(Shipping.ship) == []


async def test_what_cannot_be_shipped_is_paid_back(saga: Harness, memory: InMemory) -> None:
    order = Order("tea", card="visa", address="moon", cents=900)
    await saga.client.call(Orders.place, order)
    assert await stands(saga) == "cancelled"
    assert state(memory, "payment") == "returned"
    assert not contradictions(memory.db.execute)


async def test_shipping_that_is_down_for_too_long_is_paid_back(saga: Harness, memory: InMemory) -> None:
    with saga.down(Shipping):
        await saga.client.call(Orders.place, TEA)
        assert await stands(saga) == "paid"
        await saga.advance(SHIP_WITHIN_S + 60)
    assert await stands(saga) == "cancelled"
    assert (state(memory, "payment"), state(memory, "parcel")) == ("returned", "recalled")


async def test_payments_that_are_down_for_too_long_cancel(saga: Harness, memory: InMemory) -> None:
    with saga.down(Payments):
        await saga.client.call(Orders.place, TEA)
        await saga.advance(PAY_WITHIN_S + 60)
        assert await stands(saga) == "refunding"  # compensating waits for the service, it isn't forgotten
    assert await stands(saga) == "cancelled"
    assert state(memory, "payment") == "returned"


async def test_after_its_compensation_a_step_is_refused(saga: Harness, memory: InMemory) -> None:
    """As when somebody replays the dead letter of a charge whose order was cancelled meanwhile."""
    await saga.client.call(Payments.refund, TEA.id)
    await saga.client.call(Shipping.recall, TEA.id)
    with pytest.raises(Declined):
        await saga.client.call(Payments.charge, Charge(TEA.id, TEA.card, TEA.cents))
    late = await saga.client.send(Shipping.ship, Parcel(TEA.id, TEA.address))
    with pytest.raises(Exception, match="delivers"):
        await late.result()
    assert (state(memory, "payment"), state(memory, "parcel")) == ("returned", "recalled")


async def test_what_is_handled_twice_happens_once(saga: Harness, memory: InMemory) -> None:
    orders_ = [Order(f"tea{i}", "visa", "moon" if i % 3 == 0 else "Bath", 900) for i in range(12)]
    with saga.duplicate(Payments), saga.duplicate(Shipping), saga.crash_after(Payments, messages=2):
        for order in orders_:
            await saga.client.call(Orders.place, order)
        await saga.advance(300)
    assert {await stands(saga, order) for order in orders_} == {"shipped", "cancelled"}
    assert not contradictions(memory.db.execute)


async def test_a_saga_that_forgets_to_pay_back_is_found(memory: InMemory) -> None:
    """The twin: what the other tests look at can fail."""
    forgetful = Service(Orders, name="forgetful")
    for handler in orders.handlers.values():
        if handler.operation not in (None, Orders.shipped):
            forgetful.implements(handler.operation)(handler.function)

    @forgetful.implements(Orders.shipped)
    async def shipped(outcome: Outcome[Parcel, None], sql: Sql) -> None:
        after = "cancelled" if outcome.error else "shipped"
        await sql.execute("UPDATE sale SET state = ? WHERE id = ?", [after, outcome.request.order])

    async with town(memory, forgetful, payments, shipping) as saga:
        await saga.client.call(Orders.place, Order("tea", card="visa", address="moon", cents=900))
        assert await stands(saga) == "cancelled"
    assert contradictions(memory.db.execute) == ["tea is cancelled: money taken, parcel none"]


def test_the_picture_shows_the_moves_of_the_code() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert drawn == MOVES


async def test_real_processes_are_killed_and_every_order_ends_as_it_should(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    bought = [Order(f"tea{i}", chance.choice(["visa", "empty"]), chance.choice(["Bath", "moon"]), i) for i in range(60)]
    with Processes(tmp_path) as processes:
        async with Client(store=processes.store) as client:
            for first in range(0, len(bought), 15):
                await client.send_all(Orders.place, bought[first : first + 15])
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                name = chance.choice(NAMES)
                processes.kill(name)
                processes.start(name)
        async with asyncio.timeout(GUARD_S):
            while len(ended(processes)) < len(bought):  # noqa: ASYNC110 (other processes do it)
                await asyncio.sleep(0.05)
    wanted = {
        order.id: "shipped" if (order.card, order.address) == ("visa", "Bath") else "cancelled" for order in bought
    }
    assert ended(processes) == wanted
    assert not open_orders(processes.query)
    assert not contradictions(processes.query)


def ended(processes: Processes) -> dict[Any, Any]:
    return dict(processes.query("SELECT id, state FROM sale WHERE state IN ('shipped', 'cancelled')"))
