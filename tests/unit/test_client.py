"""The client over a store in memory and a handler in this process: calls, messages, and clear mistakes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from client_world import Adding, Elsewhere, Here, Sum, TooLarge, a_world

from ringpost.client.client import Client
from ringpost.client.deadline import deadline
from ringpost.client.router import Router
from ringpost.client.ticket import Ticket
from ringpost.contract.errors import DeadlineExceeded, InvalidRequest, Overloaded, StoreError, Unavailable, UsageError
from ringpost.core import ids
from ringpost.core.call import Call
from ringpost.core.handling import handling
from ringpost.core.message import Answer
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore


async def test_a_call_goes_to_the_handler_of_this_process() -> None:
    async with a_world() as world:
        assert await world.client.call(Adding.add, Sum(1, 2), timeout=2) == 3
        assert await world.client.call(Adding.forget, Sum(1, 2)) is None
        (call, _) = world.here.calls
        assert (call.operation, call.body) == ("adding.add", b'{"a":1,"b":2}')
        assert 1.5 < call.deadline_s - asyncio.get_running_loop().time() < 2.1


async def test_options_of_a_call_reach_the_handler() -> None:
    async with a_world() as world:
        await world.client.call(Adding.keyed, Sum(1, 2), headers={"X-A": "b"}, priority="high")
        await world.client.call(Adding.keyed, Sum(1, 2), idempotency_key="mine")
        first, second = world.here.calls
        assert (first.headers, first.idempotency_key, first.priority.name) == ({"x-a": "b"}, "1+2", "HIGH")
        assert second.idempotency_key == "mine"


async def test_headers_of_the_client_go_with_everything() -> None:
    async with a_world() as world:
        world.client._headers = lambda: {"Authorization": "Bearer x", "x-a": "all"}
        await world.client.call(Adding.add, Sum(1, 2), headers={"x-a": "one"})
        assert world.here.calls[0].headers == {"authorization": "Bearer x", "x-a": "one"}
        await world.client.send(Adding.add, Sum(1, 2))
        envelope = msgspec.json.decode((await world.claim("adding.add")).headers)
        assert envelope["headers"] == {"x-a": "all"}  # what opens doors isn't kept in a store


async def test_a_declared_problem_comes_back_as_itself() -> None:
    async with a_world() as world:
        with pytest.raises(TooLarge) as caught:
            await world.client.call(Adding.add, Sum(101, 1))
        assert caught.value.limit == 100


async def test_a_request_that_doesnt_fit_names_the_field_and_isnt_sent() -> None:
    async with a_world() as world:
        wrong: Any = Sum("1", 2)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as caught:
            await world.client.call(Adding.add, wrong)
        assert caught.value.pointer == "/a"
        assert world.here.calls == []


async def test_nobody_names_all_three_ways() -> None:
    async with a_world() as world:
        with pytest.raises(Unavailable) as caught:
            await world.client.call(Elsewhere.lost, Sum(1, 2))
        said = str(caught.value)
        assert "no handler for it in this process" in said
        assert "no address for 'elsewhere' in `addresses`" in said
        assert "no live instance noted in the store (memory:)" in said
        assert caught.value.processed == "no"


async def test_a_nested_call_carries_depth_path_and_what_is_left_of_the_time() -> None:
    here = Here()
    router = Router(Settings(), here, None)
    now_s = asyncio.get_running_loop().time()
    parent = Call("shop.order", b"", now_s + 1, depth=1, path=("web.page",), trace="t", tracestate="s")
    await router.call(Adding.add, Sum(1, 2), {}, parent)
    (call,) = here.calls
    assert (call.depth, call.path, call.trace, call.tracestate) == (2, ("web.page", "shop.order"), "t", "s")
    assert call.deadline_s == pytest.approx(now_s + 0.98)
    await router.close()


async def test_a_block_that_is_over_lets_no_call_begin() -> None:
    async with a_world() as world:
        with deadline(0), pytest.raises(DeadlineExceeded) as caught:
            await world.client.call(Adding.add, Sum(1, 2))
        assert caught.value.processed == "no"
        assert world.here.calls == []


async def test_a_key_used_twice_is_one_message_and_with_another_request_refused() -> None:
    async with a_world() as world:
        first = await world.client.send(Adding.add, Sum(1, 2), idempotency_key="k")
        again = await world.client.send(Adding.add, Sum(1, 2), idempotency_key="k")
        assert (again.id, again.duplicate) == (first.id, True)
        with pytest.raises(UsageError, match="another request"):
            await world.client.send(Adding.add, Sum(2, 2), idempotency_key="k")


async def test_send_all_gives_a_ticket_each() -> None:
    async with a_world() as world:
        tickets = await world.client.send_all(Adding.add, [Sum(n, 0) for n in range(2500)])
        assert len({ticket.id for ticket in tickets}) == 2500
        (depth,) = [one for one in await world.store.depths() if one.queue == "adding.add"]
        assert depth.ready == 2500


async def test_a_full_queue_is_said_and_how_many_went_before() -> None:
    async with a_world(Settings(depth_max=2)) as world:
        with pytest.raises(Overloaded, match="is full") as caught:
            await world.client.send_all(Adding.add, [Sum(n, 0) for n in range(4)])
        assert caught.value.__notes__ == ["2 of 4 messages were stored."]


async def test_publish_says_how_many_heard_it() -> None:
    async with a_world() as world:
        receipt = await world.client.publish(Adding.added, 3)
        assert (receipt.receivers, receipt.level) == (0, "buffered")
        assert not isinstance(receipt, Ticket)


async def test_call_or_send_gives_the_reply_or_the_ticket() -> None:
    async with a_world() as world:
        waiting = asyncio.ensure_future(world.client.call_or_send(Adding.add, Sum(1, 2), wait=0.02))
        ticket = await waiting
        assert isinstance(ticket, Ticket)
        with pytest.raises(DeadlineExceeded):
            await ticket.result(timeout=0.01)
        world.here.refuses = Answer(200, b"3")
        assert await world.client.call_or_send(Adding.add, Sum(1, 2), wait=1) == 3


async def test_call_or_send_leaves_a_message_where_nobody_serves() -> None:
    async with a_world() as world:
        ticket = await world.client.call_or_send(Elsewhere.lost, Sum(1, 2), wait=1)
        assert isinstance(ticket, Ticket)
        assert (await world.claim("elsewhere.lost")).body == b'{"a":1,"b":2}'


async def test_inside_a_handler_it_refuses() -> None:
    async with a_world() as world:
        token = handling.set(object())
        try:
            uses: list[Callable[[], Awaitable[object]]] = [
                lambda: world.client.call(Adding.add, Sum(1, 2)),
                lambda: world.client.send(Adding.add, Sum(1, 2)),
                lambda: world.client.publish(Adding.added, 1),
                lambda: world.client.ticket(Adding.add, ids.text(ids.uuid7(1, 1))).status(),
            ]
            for use in uses:
                with pytest.raises(UsageError, match=r"use ctx\.send"):
                    await use()
        finally:
            handling.reset(token)


async def test_mistakes_are_named_before_anything_happens() -> None:
    async with a_world() as world:
        client: Any = world.client
        for use, said in (
            (lambda: client.send(Adding.add, Sum(1, 2), timeout=2), "send takes no timeout"),
            (lambda: client.call(Adding.add, Sum(1, 2), delay=2), "call takes no delay"),
            (lambda: client.call(Adding.add, Sum(1, 2), tiemout=2), "call takes no tiemout"),
            (lambda: client.call(Adding.add, Sum(1, 2), timeout=100), "What takes longer is sent"),
            (lambda: client.call(Adding.add, {"a": 1, "b": 2}), "Sum"),
            (lambda: client.call(Adding.added, 1), "Use publish"),
            (lambda: client.publish(Adding.add, Sum(1, 2)), "Use send"),
            (lambda: client.call_or_send(Adding.add, Sum(1, 2), timeout=2), "call_or_send takes no timeout"),
        ):
            with pytest.raises(UsageError, match=said):
                await use()
        assert world.here.calls == []
        assert await world.store.depths() == []


async def test_a_client_never_creates_a_store(tmp_path: Any) -> None:
    client = Client(store=f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(StoreError):
        await client.send(Adding.add, Sum(1, 2))
    assert list(tmp_path.iterdir()) == []
    await client.close()


async def test_a_closed_client_says_so_and_closing_twice_is_fine() -> None:
    client = Client(store="memory:")
    async with client:
        await client.send(Adding.add, Sum(1, 2))
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await client.send(Adding.add, Sum(1, 2))


async def test_many_first_uses_open_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []
    original = MemoryStore.open

    async def counted(self: MemoryStore, *, create: bool = False, accept_loss: bool = False) -> Any:
        opened.append(create)
        await asyncio.sleep(0)
        return await original(self, create=create, accept_loss=accept_loss)

    monkeypatch.setattr(MemoryStore, "open", counted)
    client = Client(store="memory:")
    doomed = asyncio.ensure_future(client.send(Adding.add, Sum(0, 0)))
    sends = [asyncio.ensure_future(client.send(Adding.add, Sum(n, 0))) for n in range(5)]
    await asyncio.sleep(0)
    doomed.cancel()
    assert len({ticket.id for ticket in await asyncio.gather(*sends)}) == 5
    assert opened == [False]
    await client.close()


def test_in_another_loop_it_says_so() -> None:
    client = Client(store="memory:")

    async def use() -> None:
        await client.send(Adding.add, Sum(1, 2))

    async def use_and_close() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            await use()

    with asyncio.Runner() as first:
        first.run(use())
        with asyncio.Runner() as second:
            second.run(use_and_close())
        first.run(client.close())
