"""`ringpost maintenance` and `ringpost queues pause`: what they write into the store, and what they refuse."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result

from ringpost.cli.main import ringpost
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store.port import Note, Store
from ringpost.store.sqlite.store import SqliteStore

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ringpost.toml").write_text('store = "sqlite:///shop.db"\n')

    async def make(store: Store) -> None:
        await store.note_put(Note(notes.queue("shop.order"), notes.encode(notes.Queue(service="shop"))))

    with_store(tmp_path / "shop.db", make)
    return tmp_path / "shop.db"


def with_store(path: Path, use: Callable[[Store], Awaitable[T]]) -> T:
    async def work() -> T:
        store = SqliteStore(str(path), Settings())
        await store.open(create=True)
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(work())


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(ringpost, list(arguments))


def test_a_window_is_opened_shown_and_ended(path: Path) -> None:
    started = ran("maintenance", "start", "shop", "--for", "30m", "--rate", "100", "--reason", "new disk")
    assert started.exit_code == 0, started.output
    (shown,) = json.loads(ran("maintenance", "--json").stdout)
    assert (shown["service"], shown["state"], shown["rate"], shown["reason"]) == ("shop", "closed", 100.0, "new disk")
    assert 1_700 < shown["remaining_s"] <= 1_800
    assert "new disk" in ran("maintenance").stdout
    assert "100 messages/s" in ran("maintenance", "end", "shop").stdout
    (shown,) = json.loads(ran("maintenance", "--json").stdout)
    assert shown["state"] == "draining"
    assert ran("maintenance", "end", "shop", "--rate", "0").exit_code == 0
    assert json.loads(ran("maintenance", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("start", "shpo", "--for", "1h"), "There is shop"),
        (("start", "shop"), "--for"),
        (("start", "shop", "--for", "8d"), "at most 7 days"),
        (("start", "shop", "--for", "1h", "--rate", "-1"), "--rate"),
        (("start", "shop", "--for", "1h", "--reason", "x" * 201), "200"),
        (("start", "shop", "--for", "1h", "--reason", "new\ndisk"), "on one line"),
        (("start", "shop", "--for", "1h", "--rate", "nan"), "--rate"),
        (("end", "shop"), "isn't closed"),
    ],
)
def test_what_cant_be_is_refused(path: Path, arguments: tuple[str, ...], said: str) -> None:
    refused = ran("maintenance", *arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr


def test_a_service_that_never_ran_is_closed_by_force(path: Path) -> None:
    assert ran("maintenance", "start", "later", "--for", "1h", "--force").exit_code == 0


def test_a_queue_is_paused_and_goes_on(path: Path) -> None:
    assert ran("queues", "pause", "shop.order", "--reason", "bad data").exit_code == 0
    (shown,) = [row for row in json.loads(ran("queues", "--json").stdout) if row["queue"] == "shop.order"]
    assert "bad data" in shown["paused"]
    assert ran("queues", "resume", "shop.order").exit_code == 0

    async def read(store: Store) -> list[Note]:
        return await store.notes(notes.PAUSE)

    assert with_store(path, read) == []
    again = ran("queues", "resume", "shop.order")
    assert (again.exit_code, "isn't paused" in again.stderr) == (2, True)
    unknown = ran("queues", "pause", "shop.oder")
    assert (unknown.exit_code, "shop.order" in unknown.stderr) == (2, True)
