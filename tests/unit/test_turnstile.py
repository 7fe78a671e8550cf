"""The fair turn: whoever waits goes before the one who has just been, and everything that writes waits for it."""

import asyncio
import fcntl
import os
import threading
import time
from pathlib import Path

from ringpost.core import ids
from ringpost.core.message import Message
from ringpost.settings import Settings
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.turnstile import Turnstile

GUARD_S = 10.0


class RoomOnly(Turnstile):
    """A broken twin: one lock, so that whoever leaves can be first again."""

    def take(self) -> None:
        fcntl.flock(self._room, fcntl.LOCK_EX)


def held(path: Path, what: str) -> bool:
    """Say whether somebody has one of the two locks."""
    file = os.open(f"{path}.{what}", os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def order_of_two(path: Path, kind: type[Turnstile]) -> list[str]:
    """Let one wait while another has the turn, leaves, and at once wants it again; say who comes first."""
    mine, yours = kind(path), kind(path)
    order: list[str] = []

    def wait() -> None:
        begun.set()
        yours.take()
        order.append("who waited")
        yours.leave()

    begun = threading.Event()
    mine.take()
    waiting = threading.Thread(target=wait)
    waiting.start()
    begun.wait(GUARD_S)
    if kind is Turnstile:
        end_s = time.monotonic() + GUARD_S
        while not held(path, "gate"):
            assert time.monotonic() < end_s, "nobody waits at the gate"
    mine.leave()
    mine.take()
    order.append("who has been")
    mine.leave()
    waiting.join(GUARD_S)
    mine.close()
    yours.close()
    return order


def test_who_leaves_is_not_first_again(tmp_path: Path) -> None:
    for _ in range(20):
        assert order_of_two(tmp_path / "a.db", Turnstile) == ["who waited", "who has been"]


def test_with_one_lock_it_would_be(tmp_path: Path) -> None:
    orders = [order_of_two(tmp_path / "a.db", RoomOnly) for _ in range(200)]
    assert ["who has been", "who waited"] in orders


async def test_a_put_a_claim_and_a_renewal_wait_for_the_turn(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore(path, Settings())
    await store.open(create=True)
    other = Turnstile(path)
    for write in (
        lambda: store.put([Message(ids.uuid7(1, 1), "mail.welcome", b"{}")]),
        lambda: store.claim({"mail.welcome": 1}, 7, 30.0),
        lambda: asyncio.to_thread(store.renew, 7, 30.0),
    ):
        await asyncio.to_thread(other.take)
        writing = asyncio.ensure_future(write())
        async with asyncio.timeout(GUARD_S):
            while not await asyncio.to_thread(held, path, "gate"):  # noqa: ASYNC110 (a lock, not an event)
                await asyncio.sleep(0)
        assert not writing.done()
        other.leave()
        await asyncio.wait_for(writing, GUARD_S)
    other.close()
    await store.close()
