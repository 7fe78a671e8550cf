"""The example of the outbox with Django, in processes of its own: its view, and the service that its messages reach."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from postgres_stores import PostgresStores

from ringpost.settings import Settings

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "django_orders"
DURING = """
import django
django.setup()
from django.test import Client
from orders import views
if "hasty" in __import__("sys").argv:
    views.client.__class__.outbox = lambda self, session: self
browser = Client()
print([browser.post("/orders", {"item": item}).status_code for item in ("pen", "moon")])
views.client.close()
"""
SERVING = """
import asyncio, os
from orders.mail import Mail, mail
from ringpost import serve

async def main():
    async with asyncio.timeout(60), serve(mail, store=os.environ["ORDERS_DB"], http=None) as client:
        (id,) = os.environ["IDS"].split()
        await client.ticket(Mail.confirm, id).result()
asyncio.run(main())
"""


class Project:
    """The project on an empty database."""

    def __init__(self, stores: PostgresStores) -> None:
        stores.empty(Settings(durability="buffered"))
        self._stores = stores
        self.run("manage.py", "migrate", "--run-syncdb", "-v", "0")

    def run(self, *command: str, **environment: str) -> str:
        own = {
            "DJANGO_SETTINGS_MODULE": "settings",
            "ORDERS_DB": self._stores.url,
            "RINGPOST_DURABILITY": "buffered",
            "PYTHONPATH": str(PROJECT),
        }
        done = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=75,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def column(self, sql: str) -> list[object]:
        return [row[0] for row in asyncio.run(_fetched(self._stores.url, sql))]


async def _fetched(url: str, sql: str) -> list[list[object]]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


IDS = "SELECT l.id::text FROM ringpost.message m JOIN ringpost.letter l USING (seq) WHERE m.kind = 2"


@pytest.fixture
def project(stores: PostgresStores) -> Project:
    return Project(stores)


def test_an_order_and_its_message_are_one(project: Project) -> None:
    assert project.run("-c", DURING) == "[200, 409]"
    (id,) = project.column(IDS)
    orders = project.column("SELECT id FROM orders_order")
    project.run("-c", SERVING, IDS=_dashed(str(id)))
    assert project.column("SELECT order_id FROM confirmed") == orders
    assert len(orders) == 1


def test_a_view_that_sends_at_once_is_found(project: Project) -> None:
    project.run("-c", DURING, "hasty")
    assert len(project.column(IDS)) == 2, "one of them about an order that isn't there"
    assert len(project.column("SELECT id FROM orders_order")) == 1


def _dashed(id: str) -> str:
    digits = id.removeprefix("\\x")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
