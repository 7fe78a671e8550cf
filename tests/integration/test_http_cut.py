"""Connections between a client and a service break in every way: what has a key takes effect once, the rest at most
once, and all goes on by itself."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
from breaking import MODES
from servers.programs import free_port
from tcp_proxy import TcpProxy

from ringpost import Client, Contract, Operation, RingpostError, Service, Transaction
from ringpost.client import remote
from ringpost.http.run import serve

GUARD_S = 45.0
_PACE_S = 0.005
_LOOK_S = 0.02


class Desk(Contract):
    called = Operation(str, int, timeout=2)
    sent = Operation(str)


class Tables:
    """The desk's table."""


async def tables(tx: Transaction) -> Tables:
    await tx.execute("CREATE TABLE IF NOT EXISTS effect (what TEXT)")
    return Tables()


desk = Service(Desk, resources=[tables])


@desk.implements(Desk.called)
async def called(what: str, tx: Transaction) -> int:
    await tx.execute("INSERT INTO effect VALUES (?)", (what,))
    return len(what)


@desk.implements(Desk.sent)
async def sent(what: str, tx: Transaction) -> None:
    tx.defer("INSERT INTO effect VALUES (?)", (what,))


Try = Callable[[Client, str], Awaitable[object]]

TRIES: dict[str, Try] = {
    "keyed call": lambda client, what: client.call(Desk.called, what, idempotency_key=what),
    "keyed send": lambda client, what: client.send(Desk.sent, what, idempotency_key=what),
    "call": lambda client, what: client.call(Desk.called, what),
    "send": lambda client, what: client.send(Desk.sent, what),
}


class Callers:
    """One of each kind, who asks again under its key until there is an answer, or once where it has none."""

    def __init__(self, client: Client, path: Path) -> None:
        self._path = path
        self._over = False
        self.answered: dict[str, list[str]] = {kind: [] for kind in TRIES}
        self._tasks = [asyncio.ensure_future(self._ask(client, kind)) for kind in TRIES]

    async def _ask(self, client: Client, kind: str) -> None:
        number = 0
        while not self._over:
            number += 1
            await self._until_answered(client, kind, f"{kind} {number}")
            await asyncio.sleep(_PACE_S)

    async def _until_answered(self, client: Client, kind: str, what: str) -> None:
        while True:
            try:
                await TRIES[kind](client, what)
            except RingpostError:  # nobody knows whether it has taken effect
                if not kind.startswith("keyed"):
                    return
                await asyncio.sleep(_PACE_S)
            else:
                self.answered[kind].append(what)
                return

    async def go_on(self) -> float:
        """Wait until all kinds have got on; says how long it took."""
        since_s = time.monotonic()
        before = {kind: len(answered) + 1 for kind, answered in self.answered.items()}
        try:
            async with asyncio.timeout(GUARD_S):
                while any(len(self.answered[kind]) <= before[kind] for kind in TRIES):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise AssertionError(
                f"before {before}, after { ({k: len(a) for k, a in self.answered.items()}) }"
            ) from None
        return time.monotonic() - since_s

    def effects(self) -> Counter[str]:
        db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return Counter(row[0] for row in db.execute("SELECT what FROM effect"))
        finally:
            db.close()

    async def faults(self) -> list[str]:
        """Ask no more, wait for all effects, and say what is wrong."""
        self._over = True
        wanted: set[str] = set()
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*self._tasks)
            wanted.update(*self.answered.values())
            while not wanted <= self.effects().keys():  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
        return [f"{what}: {often} times" for what, often in self.effects().items() if often != 1]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way in a black hole ends with its own time, which is 10 s for a message."""
    monkeypatch.setattr(remote, "SEND_S", 2.0)


@asynccontextmanager
async def cut_off(folder: Path) -> AsyncIterator[tuple[TcpProxy, Callers]]:
    """A service, callers, and a proxy between them."""
    path, port = folder / "store.db", free_port()
    async with (
        serve(desk, store=f"sqlite:///{path}", http=f"127.0.0.1:{port}"),
        TcpProxy("127.0.0.1", port) as proxy,
        Client(addresses={"desk": proxy.url}) as client,
    ):
        callers = Callers(client, path)
        try:
            await callers.go_on()
            yield proxy, callers
        finally:
            callers.stop()
            proxy.heal()


async def test_it_goes_on_after_every_break(chance: random.Random, tmp_path: Path) -> None:
    async with cut_off(tmp_path) as (proxy, callers):
        for mode in chance.sample(MODES, len(MODES)):
            await mode(proxy)
            print(f"{mode.__name__}: went on within {await callers.go_on():.1f} s")
        assert await callers.faults() == []


REQUESTS = [b"POST /desk/called", b"POST /desk/sent"]


async def test_answers_are_lost(chance: random.Random, tmp_path: Path) -> None:
    async with cut_off(tmp_path) as (proxy, callers):
        for request in chance.sample(REQUESTS * 10, 20):
            await proxy.lose_answer(request, chance.choice(["reset", "close"])).wait()
        for request in REQUESTS:
            await proxy.lose_answer(request, "silence").wait()
        assert await callers.faults() == []


# --- broken twin


async def test_who_asks_again_under_a_new_key_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("call", "send"):
        monkeypatch.setitem(TRIES, f"keyed {kind}", TRIES[kind])
        monkeypatch.delitem(TRIES, kind)
    async with cut_off(tmp_path) as (proxy, callers):
        for request in REQUESTS:
            await proxy.lose_answer(request).wait()
        assert len(await callers.faults()) == len(REQUESTS)
