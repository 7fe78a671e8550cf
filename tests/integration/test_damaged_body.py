"""A message whose bytes have changed in the store: it is never handled, and whoever looks is told of it."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers.postgres import RealPostgres

from ringpost.cli.main import ringpost
from ringpost.core import ids
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Store
from ringpost.testing.conformance.suite import HOLDER, LEASE_S, QUEUE, message


class Damaged:
    """A store of which one of two messages was damaged, by its URL."""

    def __init__(self, url: str, damage: Callable[[], object]) -> None:
        self.url = url
        self._damage = damage
        self.id = ""

    def store(self) -> Store:
        return store_for(self.url, Settings(durability="buffered"))

    async def make(self) -> None:
        store = self.store()
        await store.open(create=True)
        first, second = message(body=b'"hit"'), message(body=b'"well"')
        await store.put([first, second])
        await store.close()
        self.id = ids.text(first.id)
        self._damage()

    async def claim(self) -> list[bytes]:
        store = self.store()
        await store.open()
        claimed = await store.claim({QUEUE: 10}, HOLDER, LEASE_S)
        await store.close()
        return [delivery.body for delivery in claimed.deliveries]

    async def ran(self, *arguments: str) -> str:
        def run() -> str:
            environment = {"RINGPOST_DURABILITY": "buffered"}
            return CliRunner().invoke(ringpost, [*arguments, "--store", self.url], env=environment).output

        return await asyncio.to_thread(run)


@pytest.fixture(params=["sqlite", "postgresql"])
async def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Damaged]:
    if request.param == "sqlite":
        path = tmp_path / "a.db"

        def damage() -> None:
            with closing(sqlite3.connect(path)) as db:
                db.execute("UPDATE ringpost_payload SET body = ? WHERE body = ?", (b'"bit"', b'"hit"'))
                db.commit()

        made = Damaged(f"sqlite:///{path}", damage)
    else:
        server: RealPostgres = request.getfixturevalue("fast_postgres")
        database = server.new_database()
        sql = "UPDATE ringpost.letter SET body = '\"bit\"'::bytea WHERE body = '\"hit\"'::bytea"
        made = Damaged(server.url(database), lambda: server.execute(database, sql))
    await made.make()
    yield made


async def test_it_is_dead_and_all_who_look_are_told(damaged: Damaged, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "ringpost.store"):
        assert await damaged.claim() == [b'"well"']
    (said,) = caplog.messages
    assert said.startswith(f"1 of {QUEUE} are dead (checksum)")
    assert damaged.id in said
    assert "ringpost dead show" in said
    doctor = await damaged.ran("doctor")
    assert "what is stored of 1 dead letters has changed" in doctor
    assert damaged.id in doctor
    assert "no damage was met" not in doctor
    shown = await damaged.ran("dead", "show", damaged.id)
    assert "has changed on the disk" in shown
    assert "dead drop" in shown
    assert "dead replay" not in shown


async def test_where_nothing_was_damaged_nobody_says_so(damaged: Damaged, caplog: pytest.LogCaptureFixture) -> None:
    assert "has changed" not in await damaged.ran("doctor"), "nobody has met it yet"
