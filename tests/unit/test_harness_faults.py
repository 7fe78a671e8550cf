"""What the harness makes go wrong: services that are down or slow, messages handled twice, workers that die."""

import asyncio
from dataclasses import dataclass

import pytest

from ringpost import Context, Contract, DeadlineExceeded, Event, Operation, Service, Unavailable, UsageError
from ringpost.testing import Harness


@dataclass
class Order:
    number: int


class Shop(Contract):
    order = Operation(Order, int, timeout=5)
    ordered = Event(Order)


class Store(Contract):
    pack = Operation(Order)


class Other(Contract):
    thing = Operation(Order)


@pytest.fixture
def orders() -> list[int]:
    return []


@pytest.fixture
def packed() -> list[int]:
    return []


@pytest.fixture
def shop(orders: list[int]) -> Service:
    service = Service(Shop)

    @service.implements(Shop.order)
    async def order(order: Order, ctx: Context) -> int:
        orders.append(order.number)
        await ctx.send(Store.pack, order)
        return order.number

    return service


@pytest.fixture
def store(packed: list[int]) -> Service:
    service = Service(Store)

    @service.implements(Store.pack)
    async def pack(order: Order) -> None:
        packed.append(order.number)

    @service.on(Shop.ordered)
    async def ordered(order: Order) -> None:
        packed.append(-order.number)

    return service


async def test_a_service_that_is_down_leaves_its_messages_waiting(
    shop: Service, store: Service, orders: list[int], packed: list[int]
) -> None:
    async with Harness(shop, store) as harness:
        with harness.down(Store):
            assert await harness.client.call(Shop.order, Order(1)) == 1
            receipt = await harness.client.publish(Shop.ordered, Order(2))
            await harness.settle()
            with pytest.raises(Unavailable) as raised:
                await harness.client.call(Store.pack, Order(3))
            assert (receipt.receivers, raised.value.processed, packed) == (1, "no", [])
        await harness.settle()
        assert sorted(packed) == [-2, 1]


async def test_down_is_down_until_the_last_block_ends(shop: Service, store: Service) -> None:
    async with Harness(shop, store) as harness:
        with harness.down(Shop):
            with harness.down(Shop):
                pass
            with pytest.raises(Unavailable):
                await harness.client.call(Shop.order, Order(1))
        assert await harness.client.call(Shop.order, Order(1)) == 1


async def test_what_is_down_can_be_sent_to(shop: Service, orders: list[int]) -> None:
    async with Harness(shop) as harness:
        harness.fake(Store.pack, lambda order: None)
        with harness.down(Shop):
            ticket = await harness.client.call_or_send(Shop.order, Order(1))
            assert orders == []
        assert not isinstance(ticket, int)
        assert await ticket.result() == 1


async def test_a_slow_service(shop: Service, store: Service) -> None:
    async with Harness(shop, store) as harness:
        with harness.slow(Shop, 3):
            assert await harness.client.call(Shop.order, Order(1)) == 1
            with pytest.raises(DeadlineExceeded):
                await harness.client.call(Shop.order, Order(2), timeout=2)
        assert await harness.client.call(Shop.order, Order(3), timeout=0.1) == 3


async def test_a_message_handled_twice_takes_effect_once(
    shop: Service, store: Service, orders: list[int], packed: list[int]
) -> None:
    async with Harness(shop, store) as harness:
        with harness.duplicate(Shop):
            for number in range(3):
                await harness.client.send(Shop.order, Order(number))
            await harness.settle()
        assert sorted(orders) == [0, 0, 1, 1, 2, 2]
        assert sorted(packed) == [0, 1, 2]
        assert sorted(order.number for order in harness.sent(Store.pack)) == [0, 1, 2]


async def test_chance_comes_from_the_seed(shop: Service, store: Service, orders: list[int]) -> None:
    async def handled(seed: int) -> list[int]:
        orders.clear()
        async with Harness(shop, store, seed=seed) as harness:
            with harness.duplicate(Shop, share=0.5):
                for number in range(30):
                    await harness.client.send(Shop.order, Order(number))
                    await harness.settle()
        return list(orders)

    first = await handled(1)
    assert 30 < len(first) < 60
    assert await handled(1) == first
    assert await handled(2) != first


async def test_a_worker_that_dies_after_its_work(
    shop: Service, store: Service, orders: list[int], packed: list[int]
) -> None:
    async with Harness(shop, store) as harness:
        with harness.crash_after(Shop):
            ticket = await harness.client.send(Shop.order, Order(1))
            await harness.settle()
            assert (orders, packed) == ([1], [])
            await harness.advance(29)
            assert (orders, packed) == ([1], [])
            assert (await ticket.status()).state == "running"
        await harness.advance(2)
        assert (orders, packed) == ([1, 1], [1])
        assert await ticket.result() == 1


async def test_a_poison_message_is_given_up(shop: Service, store: Service, orders: list[int]) -> None:
    async with Harness(shop, store) as harness:
        with harness.crash_after(Shop, messages=100):
            await harness.client.send(Shop.order, Order(1))
            await harness.advance(600)
        (letter,) = harness.dead_letters()
        assert (letter.cause, len(orders)) == ("worker_lost", 5)


async def test_others_go_on_while_one_is_lost(shop: Service, store: Service, packed: list[int]) -> None:
    async with Harness(shop, store) as harness:
        with harness.crash_after(Shop):
            await harness.client.send(Shop.order, Order(1))
            await harness.settle()
        await harness.client.send(Shop.order, Order(2))
        await harness.settle()
        assert packed == [2]
        await harness.advance(31)
        assert packed == [2, 1]


async def test_a_long_handler_keeps_its_lease(orders: list[int]) -> None:
    service = Service(Store)

    @service.implements(Store.pack, max_run=100_000)
    async def pack(order: Order) -> None:
        orders.append(order.number)
        await asyncio.sleep(20_000)

    async with Harness(service) as harness:
        await harness.client.send(Store.pack, Order(1))
        await harness.settle()
    assert orders == [1]


async def test_a_handler_that_runs_too_long_is_ended(orders: list[int]) -> None:
    service = Service(Store)

    @service.implements(Store.pack, max_run=100)
    async def pack(order: Order) -> None:
        orders.append(order.number)
        await asyncio.sleep(20_000)

    async with Harness(service) as harness:
        ticket = await harness.client.send(Store.pack, Order(1))
        await harness.advance(99)
        assert (await ticket.status()).attempt == 1
        await harness.advance(10)
        assert len(orders) == 2


async def test_a_contract_that_is_not_here_can_not_go_wrong(shop: Service) -> None:
    async with Harness(shop) as harness:
        with pytest.raises(UsageError, match="Other"), harness.down(Other):
            pass
