"""Bits that flip and ends that are lost: a wrong body is never given out, a lost tail is named, the others go on."""

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from damage import IN_FILE, IN_LOG, SETTLED, Seen, Sound, cut_off, flipped, look_at, sound_store
from surveys import a_folder, small_steps

from ringpost.core.message import Message
from ringpost.store.sqlite import claim as sqlite_claim
from ringpost.store.sqlite import highwater as highwater
from ringpost.store.sqlite.store import SqliteStore

FLIPS, CUTS = 500, 100  # in the file, and as many in the log
FILE, LOG = "a.db", "a.db-wal"
EVERYTHING = set(range(1, IN_FILE + IN_LOG + 1))


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("ringpost.store").setLevel(logging.CRITICAL + 1)


@pytest.fixture
async def sound() -> AsyncIterator[Sound]:
    with a_folder() as folder, small_steps():
        yield await sound_store(folder)


class Damages:
    """Damage one copy after the other, and look at each."""

    def __init__(self, sound: Sound, name: str, seed: int) -> None:
        self.sound = sound
        self.name = name
        self.chance = random.Random(seed)
        self.seen: list[tuple[int, Seen]] = []

    async def flip(self, count: int) -> None:
        size = (self.sound.folder / self.name).stat().st_size
        for _ in range(count):
            offset = self.chance.randrange(size)
            with a_folder() as folder:
                flipped(self.sound, folder / "it", self.name, offset, self.chance.randrange(8))
                self.seen.append((offset, await look_at(folder / "it")))

    async def cut(self, count: int) -> None:
        size = (self.sound.folder / self.name).stat().st_size
        for _ in range(count):
            length = self.chance.randrange(size)
            with a_folder() as folder:
                cut_off(self.sound, folder / "it", self.name, length)
                self.seen.append((length, await look_at(folder / "it")))

    def said(self) -> Counter[str]:
        return Counter(_word(seen) for _, seen in self.seen)


def _word(seen: Seen) -> str:
    if seen.refused or seen.failed:
        return "refused" if seen.refused else "failed"
    return "silent" if seen.silent else "quarantined" if seen.quarantined else "well"


def new_seed() -> int:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return seed


async def test_a_sound_store_gives_out_all_that_is_not_over(sound: Sound) -> None:
    seen = await look_at(sound.folder)
    assert seen == Seen(given_out=EVERYTHING - set(range(1, SETTLED + 1)))


async def test_a_flipped_bit_in_the_file_never_gives_out_a_wrong_body(sound: Sound) -> None:
    damages = Damages(sound, FILE, new_seed())
    in_file, in_log = (sound.bodies(path) for path in sound.files)
    await damages.flip(FLIPS)
    hits = 0
    for offset, seen in damages.seen:
        assert seen.wrong_bodies == 0
        assert seen.again == 0, f"bit at {offset}"
        for number, at in in_file.items():
            if at <= offset < at + len(sound.body(number)) and number not in in_log and number > SETTLED:
                hits += 1
                assert seen.quarantined == {number}
                assert seen.given_out == EVERYTHING - set(range(1, SETTLED + 1)) - {number}
    print(f"{hits} bodies were hit; {dict(damages.said())}")
    assert hits > FLIPS / 10


async def test_a_flipped_bit_in_the_log_is_named_when_the_store_is_opened(sound: Sound) -> None:
    damages = Damages(sound, LOG, new_seed())
    await damages.flip(FLIPS)
    print(dict(damages.said()))
    for offset, seen in damages.seen:
        assert seen.wrong_bodies == 0
        assert not seen.silent, f"bit at {offset}"
        assert not seen.refused or "gone" in seen.refused


@pytest.mark.parametrize("name", [FILE, LOG])
async def test_a_lost_end_is_never_silent_and_never_a_wrong_body(sound: Sound, name: str) -> None:
    damages = Damages(sound, name, new_seed())
    await damages.cut(CUTS)
    print(dict(damages.said()))
    assert not any(seen.wrong_bodies for _, seen in damages.seen)
    if name == LOG:
        assert not any(seen.silent for _, seen in damages.seen)


async def test_who_accepts_the_loss_goes_on_and_is_asked_only_once(sound: Sound, tmp_path: Path) -> None:
    cut_off(sound, tmp_path / "it", LOG, sound.log_bytes - 100)  # the last commit there settled
    assert "settlements" in (await look_at(tmp_path / "it")).refused
    store = SqliteStore(tmp_path / "it" / FILE)
    await store.open(accept_loss=True)
    await store.put([Message(b"sixteen bytes...", "a.b", b"{}")])
    await store.close()
    store = SqliteStore(tmp_path / "it" / FILE)
    await store.open()
    await store.close()


# --- twins


class Anything(int):
    """A checksum that fits everything."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


async def test_without_a_checksum_wrong_bodies_are_given_out(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_claim, "crc32", lambda data, seed: Anything())
    damages = Damages(sound, FILE, 1)
    await damages.flip(40)
    assert any(seen.wrong_bodies for _, seen in damages.seen)


async def test_a_mark_that_knows_only_numbers_misses_lost_settlements(
    sound: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(highwater.HighWater, "lost_pages", lambda self, db, end: 0)
    damages = Damages(sound, LOG, 1)
    await damages.cut(60)
    assert any(seen.silent for _, seen in damages.seen)
