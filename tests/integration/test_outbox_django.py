"""The example of the outbox with Django, in processes of its own: its view, and the service that its messages reach."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from business import Business
from postgres_stores import PostgresStores

from ringpost.settings import Settings
from ringpost.store import store_for

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "django_orders"
DURING = """
import json
import django
django.setup()
from django.test import Client
from orders import views
if "hasty" in __import__("sys").argv:
    views.client.__class__.outbox = lambda self, session: self
browser = Client()
answers = [browser.post("/orders", {"item": item}) for item in ("pen", "moon")]
print(json.dumps([[one.status_code, one.json().get("message")] for one in answers]))
views.client.close()
"""
SERVING = """
import asyncio, sys
from orders.mail import Mail, mail
from ringpost import StateError, serve

async def main():
    async with asyncio.timeout(60), serve(mail, http=None) as client:
        while True:
            try:
                return await client.ticket(Mail.confirm, sys.argv[1]).result()
            except StateError:  # it isn't relayed yet
                await asyncio.sleep(0.02)
asyncio.run(main())
"""


class Project:
    """The project on an empty database, with a store in it or elsewhere."""

    def __init__(self, orders: str, store: str, messages: str) -> None:
        self._orders = orders
        self._store = store
        self._messages = messages  # SQL that gives those that are in the store
        self._relayed = orders != store
        self.run("manage.py", "migrate", "--run-syncdb", "-v", "0")
        if self._relayed:
            self.run("-m", "ringpost", "outbox", "create", "--outbox", orders)

    def run(self, *command: str, **environment: str) -> str:
        own = {
            "DJANGO_SETTINGS_MODULE": "settings",
            "ORDERS_DB": self._orders,
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

    def order(self) -> list[list[object]]:
        """Order what there is and what there isn't. A program that leaves its messages in a table knows no store."""
        stores = {} if self._relayed else {"RINGPOST_STORE": self._store}
        return list(json.loads(self.run("-c", DURING, **stores)))

    def order_hastily(self) -> None:
        self.run("-c", DURING, "hasty", RINGPOST_STORE=self._store)

    def handle(self, id: object) -> None:
        """Run the service, and the relay where there is one, until a message is handled."""
        relayed = {"RINGPOST_OUTBOX": self._orders} if self._relayed else {}
        self.run("-c", SERVING, str(id), RINGPOST_STORE=self._store, **relayed)

    def orders(self) -> list[object]:
        return _column(self._orders, "SELECT id FROM orders_order")

    def confirmed(self) -> list[object]:
        return _column(self._store, "SELECT order_id FROM confirmed")

    def messages(self) -> int:
        """Count those that are in the store."""
        return len(_column(self._store, self._messages))


def _column(url: str, sql: str) -> list[object]:
    return [row[0] for row in asyncio.run(Business(url).execute(sql))]


async def _made(url: str) -> None:
    store = store_for(url, Settings(durability="buffered"))
    await store.open(create=True)
    await store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    if request.param == "sqlite":
        orders, store = (f"sqlite:///{tmp_path}/{name}.db" for name in ("orders", "messages"))
        asyncio.run(_made(store))
        return Project(orders, store, "SELECT seq FROM ringpost_message WHERE kind = 2")
    stores: PostgresStores = request.getfixturevalue("stores")
    stores.empty(Settings(durability="buffered"))
    return Project(stores.url, stores.url, "SELECT seq FROM ringpost.message WHERE kind = 2")


def test_an_order_and_its_message_are_one(project: Project) -> None:
    (taken, id), (refused, _) = project.order()
    assert (taken, refused) == (200, 409)
    project.handle(id)
    assert len(project.orders()) == project.messages() == 1
    assert project.confirmed() == project.orders()


def test_a_view_that_sends_at_once_is_found(project: Project) -> None:
    project.order_hastily()
    assert project.messages() == 2, "one of them about an order that isn't there"
    assert len(project.orders()) == 1
