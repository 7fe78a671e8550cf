"""Damage to the files of a store that is at rest: what it says, and what it still gives out."""

import random
import shutil
from pathlib import Path

import apsw
from disk import Recorder, watched
from life import LEASE_S
from msgspec import Struct
from power import Machine
from surveys import SETTINGS

from ringpost.contract.errors import StoreError
from ringpost.core.message import Cause, Message, Settlement, State
from ringpost.store.hostclock import HostClock
from ringpost.store.port import Filter
from ringpost.store.sqlite.store import SqliteStore

QUEUE = "mail.welcome"
IN_FILE, IN_LOG, SETTLED = 200, 100, 30
BODY_BYTES = 900


def body_of(number: int) -> bytes:
    return b"<%06d>" % number + random.Random(number).randbytes(BODY_BYTES)


def number_of(id: bytes) -> int:
    return int.from_bytes(id, "big")


class Sound(Struct):
    """A store at rest, part in the file and part in the log."""

    folder: Path

    @property
    def files(self) -> list[Path]:
        return [self.folder / "a.db", self.folder / "a.db-wal"]

    @property
    def log_bytes(self) -> int:
        """Say how long the log is; the file may be longer, with frames of before."""
        return 32 + int.from_bytes((self.folder / "a.db.mark").read_bytes()[-4:], "big") * (24 + 4096)

    @staticmethod
    def body(number: int) -> bytes:
        return body_of(number)

    def bodies(self, path: Path) -> dict[int, int]:
        """Give where in a file each message's body is, by its number, if it's there once and in one piece."""
        data = path.read_bytes()
        found: dict[int, int] = {}
        for number in range(1, IN_FILE + IN_LOG + 1):
            body = body_of(number)
            if data.count(body) == 1:
                found[number] = data.index(body)
        return found


async def sound_store(folder: Path) -> Sound:
    """Make a store; the last of its commits settle something."""
    home = folder / "live"
    target = folder / "sound"
    home.mkdir()
    target.mkdir()
    recorder = Recorder()
    with watched(recorder):
        store = SqliteStore(home / "a.db", SETTINGS)
        await store.open(create=True)
        for number in range(1, IN_FILE + 1, 10):
            await store.put([_message(one) for one in range(number, number + 10)])
        store._writer.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        for number in range(IN_FILE + 1, IN_FILE + IN_LOG + 1, 10):
            await store.put([_message(one) for one in range(number, number + 10)])
        claimed = await store.claim({QUEUE: SETTLED}, 1, LEASE_S)
        await store.settle([Settlement(one, State.SUCCEEDED) for one in claimed.deliveries])
        rest = len(recorder.trace)
        await store.close()
    machine = Machine(home)
    for op in recorder.trace[:rest]:
        machine.did(op)
    machine.copy(target)
    return Sound(target)


def _message(number: int) -> Message:
    return Message(number.to_bytes(16, "big"), QUEUE, body_of(number), keep_s=100_000)


class Seen(Struct):
    """What a damaged store said and did."""

    refused: str = ""  # it can't be opened
    failed: str = ""  # it was opened, and then can't be used
    wrong_bodies: int = 0
    quarantined: set[int] = set()
    given_out: set[int] = set()
    vanished: int = 0  # neither given out nor dead nor over, and not a word said
    again: int = 0  # over, and given out again, and not a word said

    @property
    def silent(self) -> bool:
        """Say whether it lost something without a word."""
        return bool((self.vanished or self.again) and not self.refused and not self.failed)


async def look_at(damaged: Path) -> Seen:
    """Open a store and claim everything."""
    seen = Seen()
    store = SqliteStore(damaged / "a.db", SETTINGS, clock=HostClock(boot_id=lambda: "same"))
    try:
        await store.open()
    except StoreError as error:
        seen.refused = str(error)
        return seen
    try:
        await _claim_all(store, seen)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is a word)
        seen.failed = repr(error)
    await store.close()
    return seen


async def _claim_all(store: SqliteStore, seen: Seen) -> None:
    over = {number_of(one.id) for one in await store.find(Filter(states=(State.SUCCEEDED,), limit=1000))}
    while claimed := (await store.claim({QUEUE: 1000}, 2, LEASE_S)).deliveries:
        for one in claimed:
            seen.given_out.add(number_of(one.id))
            seen.wrong_bodies += one.body != body_of(number_of(one.id))
    dead = await store.find(Filter(states=(State.DEAD,), limit=1000))
    seen.quarantined = {number_of(one.id) for one in dead if one.cause is Cause.CHECKSUM}
    everything = set(range(1, IN_FILE + IN_LOG + 1))
    seen.vanished = len(everything - seen.given_out - seen.quarantined - over)
    seen.again = len(set(range(1, SETTLED + 1)) & seen.given_out)


def flipped(sound: Sound, target: Path, name: str, offset: int, bit: int) -> None:
    """Copy a store, with one bit of one file the other way round."""
    shutil.copytree(sound.folder, target)
    with (target / name).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def cut_off(sound: Sound, target: Path, name: str, size: int) -> None:
    """Copy a store, with the end of one file cut off."""
    shutil.copytree(sound.folder, target)
    with (target / name).open("r+b") as file:
        file.truncate(size)
