"""Services that call services that call: one layer tries again, the others tell that it has."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from far_door import UNSEEN, Door, Far, a_door, answered, refuse

from ringpost import Client, Context, Contract, Operation, Service, Unavailable
from ringpost.settings import Settings


class Top(Contract):
    top = Operation(int, int, effect="read", timeout=5)


class Middle(Contract):
    middle = Operation(int, int, effect="read", timeout=5)


@asynccontextmanager
async def three_layers(door: Door) -> AsyncIterator[tuple[Client, dict[str, list[int]]]]:
    """A client calls top, which calls middle, which calls a door; gives the attempts that each has seen."""
    met: dict[str, list[int]] = {"top": [], "middle": []}
    top, middle = Service(Top), Service(Middle)

    @top.implements(Top.top)
    async def _top(number: int, ctx: Context) -> int:
        met["top"].append(ctx.attempt)
        return await ctx.call(Middle.middle, number)

    @middle.implements(Middle.middle)
    async def _middle(number: int, ctx: Context) -> int:
        met["middle"].append(ctx.attempt)
        return await ctx.call(Far.read, number)

    async with _served(middle, far=door.url) as below, _served(top, middle=below) as above:
        client = Client._attached(None, None, Settings(addresses={"top": above}))
        try:
            yield client, met
        finally:
            await client.close()


@asynccontextmanager
async def _served(service: Service, **addresses: str) -> AsyncIterator[str]:
    from ringpost.http.ports import bind
    from ringpost.http.site import Site

    settings = Settings(http="127.0.0.1:0", http_given=True, addresses=addresses)
    bound = bind(settings)
    assert bound is not None
    site = Site([service], settings)
    await site.open(bound, work=True)
    try:
        yield bound.url
    finally:
        await site.close(1.0)
        bound.close()


@pytest.mark.usefixtures("at_once")
async def test_three_layers_try_again_at_one_of_them_only() -> None:
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door, three_layers(door) as (client, met):
        with pytest.raises(Unavailable) as raised:
            await client.call(Top.top, 1)
        assert [seen.attempt for seen in door.seen] == [1, 2, 3]
        assert met == {"top": [1], "middle": [1]}
        assert raised.value.processed == "maybe"


@pytest.mark.usefixtures("at_once")
async def test_what_is_called_within_a_second_attempt_isn_t_tried_again() -> None:
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door, three_layers(door) as (client, met):
        call = client._attachment
        assert call is not None
        ways = await client._open()
        prepared = ways.router.prepared(Top.top, 1)
        prepared.attempt = 2
        response = await ways.router.post(Top.top, prepared)
        assert response.status == 503
        assert [seen.attempt for seen in door.seen] == [2]
        assert met == {"top": [2], "middle": [2]}


@pytest.mark.usefixtures("at_once")
async def test_a_twin_whose_layers_don_t_know_of_each_other_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from ringpost.core import outcome

    monkeypatch.setattr(outcome, "_TRIED", {})
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door, three_layers(door) as (client, _):
        with pytest.raises(Unavailable):
            await client.call(Top.top, 1)
        assert len(door.seen) > 3
