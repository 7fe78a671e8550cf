"""`ringpost doctor` at outbox tables: how many wait there, for how long, and who relays them."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from business import Business
from click.testing import CliRunner

from ringpost.cli.main import ringpost
from ringpost.core import notes
from ringpost.core.message import Message
from ringpost.relay.relay import Relay
from ringpost.relay.row import row_of
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Note
from ringpost.store.sqlite.store import SqliteStore

LEASE_S = 600  # a slow machine may take its time
TOML = 'store = "sqlite:///store.db"\noutbox = "sqlite:///shop.db"\nhttp = "127.0.0.1:1"\n'


class Place:
    """A folder with a business database, a store, and their configuration."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "ringpost.toml").write_text(TOML)
        self.business = Business(f"sqlite:///{folder}/shop.db")
        asyncio.run(self.business.prepare())
        asyncio.run(self._note(None))

    def send(self, number: int, ago_s: float = 0) -> None:
        row = row_of(Message(number.to_bytes(16, "big"), "mail.welcome", b"{}"), wall_ms() - round(ago_s * 1000))
        asyncio.run(self.business.write([row]))

    def say(self, **fields: Any) -> None:
        """Say what who relays would say."""
        asyncio.run(self._note(notes.Relay(host="here", pid=5, at_ms=wall_ms(), **fields)))

    def lead(self) -> None:
        """Say it by the relay itself."""
        asyncio.run(self._lead())

    async def _note(self, relay: notes.Relay | None) -> None:
        store = await self._opened()
        if relay is not None:
            await store.note_put(Note(notes.relay(self.business.url), notes.encode(relay), lease_s=LEASE_S))
        await store.close()

    async def _lead(self) -> None:
        store, table = await self._opened(), self.business.table()
        await Relay(table, store)._lead()
        (note,) = await store.notes(notes.RELAY)
        await store.note_put(Note(note.name, note.value, lease_s=LEASE_S))
        await table.close()
        await store.close()

    async def _opened(self) -> SqliteStore:
        store = SqliteStore(self._folder / "store.db", Settings(durability="buffered"))
        await store.open(create=True)
        return store

    def doctor(self) -> tuple[str, str, str]:
        """Give what is found at the outbox: its level, what is said, what to do."""
        result = CliRunner().invoke(ringpost, ["doctor", "--json"])
        (found,) = [one for one in json.loads(result.stdout) if one["what"] == "outbox"]
        assert result.exit_code == (found["level"] == "fail")
        return found["level"], found["said"], found["to_do"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def test_a_table_that_is_relayed_is_well(place: Place) -> None:
    place.send(1)
    place.lead()
    level, said, _ = place.doctor()
    assert level == "ok"
    assert f"{place.business.url}: 1 wait, the oldest for " in said
    assert f"; relayed by process {os.getpid()} on " in said


def test_one_that_nobody_relays_is_told_of(place: Place) -> None:
    place.send(1, ago_s=7_200)
    level, said, to_do = place.doctor()
    assert (level, "nobody relays it" in said, "`ringpost relay`" in to_do) == ("warn", True, True)
    assert re.search(r"1 wait, the oldest for 7[2-9]\d\d s", said)


def test_what_waits_for_long_or_is_aside_or_in_trouble_is_told_of(place: Place) -> None:
    place.send(1, ago_s=7_200)
    place.say()
    level, said, to_do = place.doctor()
    assert (level, "relayed by process 5 on here" in said, "ringpost queues" in to_do) == ("warn", True, True)
    asyncio.run(place.business.execute("UPDATE ringpost_outbox SET trouble = 'no'"))
    level, said, to_do = place.doctor()
    assert (level, "1 are set aside" in said, "outbox show" in to_do) == ("warn", True, True)
    place.say(trouble="the store did not answer")
    level, said, _ = place.doctor()
    assert (level, "which can't: the store did not answer" in said) == ("warn", True)


def test_one_that_is_only_relayed_elsewhere_is_told_of(place: Place, tmp_path: Path) -> None:
    (tmp_path / "ringpost.toml").write_text(TOML.replace("outbox", "# outbox"))
    place.say(waiting=3, oldest_ms=wall_ms())
    level, said, _ = place.doctor()
    assert (level, f"{place.business.url}: 3 wait" in said) == ("ok", True)


def test_one_that_is_not_there_fails_unless_its_relay_reaches_it(place: Place, tmp_path: Path) -> None:
    (tmp_path / "shop.db").unlink()
    level, said, _ = place.doctor()
    assert (level, "unable to open" in said) == ("fail", True)
    place.say(waiting=3, oldest_ms=wall_ms())
    level, said, _ = place.doctor()
    assert (level, "3 wait" in said) == ("ok", True)


def test_a_table_in_the_store_s_own_file_fails(place: Place, tmp_path: Path) -> None:
    (tmp_path / "ringpost.toml").write_text(TOML.replace("shop.db", "store.db"))
    level, said, _ = place.doctor()
    assert (level, "is the file of a store" in said) == ("fail", True)
