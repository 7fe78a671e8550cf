"""Breakers through a store: processes show those that aren't closed, and operators hold them by the command line."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from far_door import Door, Far, a_door, answered, fail, refuse, say

from ringpost import Client, Unavailable
from ringpost.cli.main import ringpost
from ringpost.client import breaker_notes
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store.port import Note
from ringpost.store.sqlite.store import SqliteStore

PATIENCE_S = 20.0


class Place:
    def __init__(self, door: Door, client: Client, store: SqliteStore, url: str) -> None:
        self.door, self.client, self.store, self.url = door, client, store, url

    async def command(self, *words: str, code: int = 0) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, ringpost, ["breakers", *words, "--store", self.url])
        assert done.exit_code == code, done.output
        return done.output

    async def until(self, so: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not so():  # noqa: ASYNC110 (what is waited for happens in a store)
                await asyncio.sleep(0.01)


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(breaker_notes, "LOOK_S", 0.0)
    store = SqliteStore(tmp_path / "store.db", Settings())
    await store.open(create=True)
    async with a_door() as door:
        client = Client._attached(store, None, Settings(addresses={"far": door.url}))
        try:
            yield Place(door, client, store, f"sqlite:///{tmp_path}/store.db")
        finally:
            await client.close()
            await store.close()


async def test_an_open_breaker_is_shown_and_gone_once_it_has_closed(here: Place) -> None:
    assert "No breaker is open" in await here.command()
    here.door.answering = answered(refuse("handler_error", 500))
    await fail(here.client, 20)
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await here.store.notes(notes.BREAKERS)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    (shown,) = notes.decode_breakers(found[0].value).breakers
    assert (shown.operation, shown.target, shown.state) == ("far.write", here.door.url, "open")
    assert "handler_error" in shown.error
    assert 0 <= time.time() * 1000 - shown.since_ms < PATIENCE_S * 1000
    assert found[0].lease_s is not None
    said = await here.command()
    assert "far.write" in said and "open" in said and "handler_error" in said
    here.door.answering = answered(say(200, 7))
    async with asyncio.timeout(PATIENCE_S):
        while await here.store.notes(notes.BREAKERS):
            try:
                await here.client.call(Far.write, 1)
            except Unavailable:
                await asyncio.sleep(0.01)


async def test_an_operator_holds_it_open_and_lets_it_go(here: Place) -> None:
    assert await here.client.call(Far.write, 1) == 7
    await here.command("open", "far.write", "--reason", "moving")
    (row,) = [one for one in json.loads(await here.command("--json")) if not one["process"]]
    assert row["state"] == "held open" and "moving" in row["said"]

    async def refused() -> bool:
        try:
            await here.client.call(Far.write, 1)
        except Unavailable as error:
            assert "an operator has opened its breaker" in str(error) and error.processed == "no"
            return True
        return False

    async with asyncio.timeout(PATIENCE_S):
        while not await refused():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await here.client.call(Far.other, 1) == 7
    await here.command("auto", "far.write")
    async with asyncio.timeout(PATIENCE_S):
        while await refused():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_one_that_is_held_closed_lets_everything_out(here: Place) -> None:
    await here.command("close", "far", "--at", here.door.url)
    await here.client.call(Far.other, 1)
    await here.until(lambda: [one.forced for one in here.client.statistics()] == ["closed"])
    here.door.seen.clear()
    here.door.answering = answered(refuse("handler_error", 500))
    await fail(here.client, 30)
    assert len(here.door.seen) == 30


async def test_what_looks_like_a_slip_is_refused_with_what_was_meant(here: Place) -> None:
    described = notes.encode(notes.Described("operation", "far"))
    await here.store.note_put(Note(notes.operation("far.write"), described))
    for command in ("open", "close"):
        assert "Did you mean far.write?" in await here.command(command, "far.wirte", code=2)
    assert "Did you mean far?" in await here.command("open", "fer", code=2)
    assert await here.store.notes(notes.OVERRIDE) == []
    await here.command("open", "far.wirte", "--force")
    assert "Did you mean far.write?" in await here.command("open", "far.wrte", code=2)
    for name in ("far.write", "far", "billing.charge"):  # the last one is called by others, as far as anybody knows
        await here.command("open", name)
    assert len(await here.store.notes(notes.OVERRIDE)) == 4


async def test_wrong_names_are_refused_with_what_there_is(here: Place) -> None:
    assert "neither a contract nor an operation" in await here.command("open", "Far", code=2)
    assert "isn't held open or closed. Nothing is." in await here.command("auto", "far.write", code=2)
    await here.command("close", "far.other")
    assert "What is held: far.other." in await here.command("auto", "far.write", code=2)


FORKED = """
import asyncio, os, sys
from ringpost.client.breaker_notes import BreakerNotes
from ringpost.client.guards import PROCESS
from ringpost.store.memory.store import MemoryStore

async def name() -> None:
    notes = BreakerNotes(MemoryStore(), PROCESS)
    print(notes._name, flush=True)
    await notes.close()

asyncio.run(name())
for _ in range(2):
    if not (child := os.fork()):
        asyncio.run(name())
        os._exit(0)
    os.waitpid(child, 0)
"""


async def test_workers_that_were_forked_write_notes_of_their_own() -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", FORKED], timeout=60, check=True, capture_output=True, text=True
    )
    names = done.stdout.split()
    assert len(set(names)) == len(names) == 3
