"""Power cuts of a SQLite store, many at a time: live once on a disk that remembers, then look at what cuts leave.

What is opened after a cut is the product's own store, on a host that has booted anew.
"""

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from disk import Recorder, watched
from life import LEASE_S, Ledger, Life, examine, work_off
from msgspec import Struct, field
from power import cuts

from ringpost.contract.errors import StoreError
from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
from ringpost.store.sqlite import disk as sqlite_disk
from ringpost.store.sqlite.store import SqliteStore

SETTINGS = Settings(lease_s=LEASE_S)
CHECKPOINT_PAGES = 60  # so that a short life has many checkpoints
WORKED_OFF_EACH = 8  # of so many images one is worked off to the end: it takes longer than all the rest
Make = Callable[[Path, HostClock], SqliteStore]


class Trace(Struct):
    """What a disk was asked to do, with the words of those who were told something between."""

    folder: Path
    steps: list[Any]


class Survey(Struct):
    """What was found in the images."""

    images: int = 0
    wrong: dict[str, list[int]] = field(default_factory=dict[str, list[int]])  # complaint → moments

    def complain(self, moment: int, complaint: str) -> None:
        self.wrong.setdefault(complaint, []).append(moment)

    @property
    def bad_images(self) -> int:
        return len({moment for moments in self.wrong.values() for moment in moments})


def a_store(path: Path, clock: HostClock) -> SqliteStore:
    return SqliteStore(path, SETTINGS, clock=clock)


@contextmanager
def small_steps() -> Iterator[None]:
    """Let the log be checkpointed after a few pages, and the ballast be light."""
    before = sqlite_disk.PASSIVE_PAGES, sqlite_disk.RESTART_PAGES, sqlite_disk.BALLAST_BYTES
    sqlite_disk.PASSIVE_PAGES, sqlite_disk.RESTART_PAGES = CHECKPOINT_PAGES, 3 * CHECKPOINT_PAGES
    sqlite_disk.BALLAST_BYTES = 4096
    try:
        yield
    finally:
        sqlite_disk.PASSIVE_PAGES, sqlite_disk.RESTART_PAGES, sqlite_disk.BALLAST_BYTES = before


@contextmanager
def a_folder() -> Iterator[Path]:
    """A folder for images: in memory where the host has that, as they are many and nobody needs them to be durable."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="ringpost-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def lived(folder: Path, seed: int, messages: int, make: Make = a_store) -> Trace:
    """Let two processes' stores live on one file; give what the disk was asked to do."""
    recorder = Recorder()
    with small_steps(), watched(recorder):
        stores = [make(folder / "a.db", HostClock()) for _ in range(2)]
        for store in stores:
            await store.open(create=True)
        lives = [Life(store, seed + n, recorder.trace.append, holder=n + 1) for n, store in enumerate(stores)]
        await asyncio.gather(*(life.live(messages // 2) for life in lives))
        for store in stores:
            await store.close()
    assert not any(life.failures for life in lives), lives[0].failures + lives[1].failures
    return Trace(folder, recorder.trace)


async def survey(trace: Trace, images: int, seed: int, told: Callable[[int], None] = lambda done: None) -> Survey:
    """Cut the power at so many moments; `told` is called with how many images are done."""
    found = Survey()
    chance = random.Random(seed)
    ledger, at = Ledger(()), 0
    with small_steps(), a_folder() as folder:
        for moment, machine in cuts(trace.steps, trace.folder, images, seed):
            for word in trace.steps[at:moment]:
                ledger.take(word)
            at = moment
            image = folder / str(found.images)
            image.mkdir()
            machine.cut(chance, image)
            (image / "a.db.ballast").write_bytes(bytes(chance.choice((0, 4096))))
            for complaint in await _looked_at(image, ledger, thorough=found.images % WORKED_OFF_EACH == 0):
                found.complain(moment, complaint)
            shutil.rmtree(image)
            found.images += 1
            told(found.images)
    return found


async def _looked_at(image: Path, ledger: Ledger, *, thorough: bool) -> Sequence[str]:
    now_ms = 1_000_000

    def pass_time() -> None:
        nonlocal now_ms
        now_ms += 9_000

    store = a_store(image / "a.db", HostClock(uptime_ms=lambda: now_ms, boot_id=lambda: "after the cut"))
    try:
        await store.open(create=True)
    except StoreError as error:
        return [f"it can't be opened: {error}"]
    try:
        wrong = await examine(store, ledger)
        if store._writer.db.pragma("integrity_check") != "ok":
            wrong.append("the file is corrupt")
        if thorough:
            wrong += await work_off(store, ledger, pass_time)
    except StoreError as error:
        wrong = [f"it can't be used: {error}"]
    await store.close()
    return wrong
