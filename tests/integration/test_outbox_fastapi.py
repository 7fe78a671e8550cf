"""The example of the outbox: FastAPI and SQLAlchemy on PostgreSQL, and the service that its messages reach."""

import asyncio

import asyncpg
import httpx
import orders_api
import pytest
from fastapi import FastAPI
from orders_api import Mail
from postgres_stores import PostgresStores

from ringpost import Client, Sender, serve
from ringpost.settings import Settings

GUARD_S = 60


@pytest.fixture
def url(stores: PostgresStores, monkeypatch: pytest.MonkeyPatch) -> str:
    stores.empty(Settings(durability="buffered"))
    monkeypatch.setenv("RINGPOST_DURABILITY", "buffered")
    monkeypatch.setenv("ORDERS_DB", stores.url)
    return stores.url


async def counts(url: str) -> tuple[int, int]:
    """Give how many orders there are, and how many messages."""
    connection = await asyncpg.connect(url)
    try:
        orders = await connection.fetchval("SELECT count(*) FROM orders")
        return orders, await connection.fetchval("SELECT count(*) FROM ringpost.message WHERE kind = 2")
    finally:
        await connection.close()


async def place(app: FastAPI, *items: str) -> list[httpx.Response]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as browser,
    ):
        return [await browser.post("/orders", params={"item": item}) for item in items]


async def test_an_order_and_its_message_are_one(url: str) -> None:
    placed, refused = await place(orders_api.app(), "pen", "moon")
    assert (placed.status_code, refused.status_code) == (200, 409)
    assert await counts(url) == (1, 1)
    async with asyncio.timeout(GUARD_S), serve(orders_api.mail, store=url, http=None) as client:
        await client.ticket(Mail.confirm, placed.json()["message"]).result()
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM orders WHERE confirmed IS NOT NULL") == 1
    await connection.close()


async def test_an_endpoint_that_sends_at_once_is_found(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(self: Client, session: object) -> Sender:
        return self

    monkeypatch.setattr(Client, "outbox", hasty)
    await place(orders_api.app(), "moon")
    assert await counts(url) == (0, 1), "a message about an order that isn't there"
