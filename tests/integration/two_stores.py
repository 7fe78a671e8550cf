"""Two services, each on its own store, for tests of what goes from one to the other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import repeat
from pathlib import Path

from servers.programs import free_port

from ringpost import Client, Context, Contract, Operation, Outcome, Problem, Reject, Service, Ticket
from ringpost.core.message import State
from ringpost.http.run import serve
from ringpost.settings import Settings
from ringpost.store.port import Filter
from ringpost.store.sqlite.store import SqliteStore

FORWARD = "forward.to.billing"  # the queue of what is to be sent there
SOON_S = 30


class CardRefused(Problem, status=402):
    card: str


class Billing(Contract):
    """What the receiver serves."""

    charge = Operation(str, str, raises=[CardRefused])
    note = Operation(str)


class Shop(Contract):
    """What the sender serves."""

    paid = Operation(Outcome[str, str])
    order = Operation(str, str)


class Receiver:
    """The service behind the address: it may be down, and counts its effects."""

    def __init__(self, folder: Path, name: str = "receiver") -> None:
        self.store = f"sqlite:///{folder / name}.db"
        self.port = free_port()
        self.effects: list[str] = []
        self.keys: list[str] = []
        self.gate = asyncio.Event()  # what is charged slowly waits for it
        self.began = asyncio.Event()
        self.seen: Context | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def service(self) -> Service:
        service = Service(Billing)

        @service.implements(Billing.charge)
        async def charge(card: str, ctx: Context) -> str:
            self.seen = ctx
            self.began.set()
            if card.startswith("slow"):
                await self.gate.wait()
            if card.startswith("refused"):
                raise CardRefused(card=card)
            if card.startswith("rejected"):
                raise Reject("no such card")
            self.effects.append(card)
            return f"{card} is charged"

        @service.implements(Billing.note)
        async def note(text: str) -> None:
            self.effects.append(text)

        return service

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Client]:
        async with serve(self.service(), store=self.store, http=f"127.0.0.1:{self.port}") as client:
            yield client


async def made(folder: Path, name: str = "sender") -> str:
    """Make an empty store; gives its URL."""
    store = SqliteStore(folder / f"{name}.db", Settings())
    await store.open(create=True)
    await store.close()
    return f"sqlite:///{folder / name}.db"


@contextlib.asynccontextmanager
async def looking_into(url: str) -> AsyncIterator[SqliteStore]:
    """Open a store beside those who use it."""
    store = SqliteStore(Path(url.removeprefix("sqlite:///")), Settings())
    await store.open(create=False)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def a_client(folder: Path, address: str, name: str = "sender") -> AsyncIterator[Client]:
    store = await made(folder, name)
    async with Client(store=store, addresses={"billing": address}) as client:
        yield client


def told(ticket: object) -> Ticket[str]:
    assert isinstance(ticket, Ticket)
    return ticket


def ordering(address: str, *, failing: int = 0, wait: float = 5.0) -> Service:
    """Give a service that asks the receiver in its handler, and fails that often after it."""
    shop = Service(Shop)
    left = [failing]

    @shop.implements(Shop.order)
    async def order(card: str, ctx: Context) -> str:
        got = await ctx.call_or_send(Billing.charge, card, wait=wait)
        if left[0]:
            left[0] -= 1
            raise RuntimeError("after it")
        return got if isinstance(got, str) else f"{got.level} {got.id}"

    @shop.implements(Shop.paid)
    async def paid(outcome: Outcome[str, str]) -> None: ...

    return shop


async def until(store: SqliteStore, state: State, count: int) -> None:
    """Wait until so many messages are in a state."""
    async with asyncio.timeout(SOON_S):
        for pause_s in repeat(0.02):
            if len(await store.find(Filter(FORWARD, (state,)))) == count:
                return
            await asyncio.sleep(pause_s)
