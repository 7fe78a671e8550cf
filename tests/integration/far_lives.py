"""A sender and a receiver with a store each, and what their stores say once all is quiet."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from far_town import KINDS, RECEIVING, SENDING, Billing, Shop
from scene import GUARD_S, Running, Scene, a_scene
from servers.programs import free_port
from tcp_proxy import TcpProxy

from ringpost.client.posting import message_of
from ringpost.core.handover import forward_queue
from ringpost.core.message import Record, State
from ringpost.settings import Settings
from ringpost.store.port import Cancel, Filter
from ringpost.store.sqlite.store import SqliteStore

LEASE_S = 1.0
QUEUE = forward_queue("billing")
_LIVE = (State.SCHEDULED, State.WAITING, State.READY, State.RUNNING, State.FORWARDED)
_LOOK_S = 0.02
_ALL = 100_000
_ENDS = {"refused": State.FAILED, "unwanted": State.CANCELLED}


class TwoTowns:
    """Two stores, the processes on them, and a proxy on the way from one to the other."""

    def __init__(self, scene: Scene, there: SqliteStore, proxy: TcpProxy, port: int) -> None:
        self.scene = scene
        self.there = there
        self.proxy = proxy
        self.cards: list[str] = []
        self.notes: list[str] = []
        self._port = port

    async def shop(self, point: str = "", *, twin: str = "", asleep: bool = False) -> Running:
        """Start a sender; it ends at a point, if one is named, or falls asleep there."""
        return await self._start(
            "shop", point, "sleep" if asleep else "kill", twin, addresses=f"billing={self.proxy.url}"
        )

    async def billing(self, point: str = "", *, twin: str = "") -> Running:
        """Start a receiver."""
        return await self._start(
            "billing", point, "kill", twin, store=self.there.facts.url, http=f"127.0.0.1:{self._port}"
        )

    async def _start(self, role: str, point: str, how: str, twin: str, **settings: str) -> Running:
        running = await self.scene.start(role, environ={"POINT": point, "POINT_HOW": how, "TWIN": twin}, **settings)
        running.ending = bool(point)
        return running

    async def send(self, about: str) -> None:
        """Put a message of each kind into the sender's store."""
        settings = Settings(addresses={"billing": self.proxy.url})
        cards = [f"{about} {kind}" for kind in KINDS]
        messages = [message_of(Billing.charge, card, settings=settings, reply_to=Shop.paid) for card in cards]
        messages.append(message_of(Billing.note, f"{about} note", settings=settings))
        for put in await self.scene.store.put(messages):
            assert not put.refused
        self.cards += cards
        self.notes.append(f"{about} note")

    async def killed_by_chance(self, chance: random.Random, about: str) -> str:
        """Send, kill one of the two at a point that chance chose and then the other; say which points it were."""
        await self.send(about)
        points = chance.choice([*SENDING]), chance.choice([*RECEIVING])
        pair = [await self.shop(points[0]), await self.billing(points[1])]
        # Whoever comes to its point first: the other may never come to its own, as that takes both.
        ends = [asyncio.ensure_future(one.ended()) for one in pair]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for one in pair:
            await one.kill()
        await asyncio.wait(ends)
        return f"sender: {points[0]}; receiver: {points[1]}"

    async def escort(self) -> None:
        """Let what waits there go on once it is away from here, and cancel what is unwanted; until cancelled."""
        seen: set[int] = set()
        while True:
            for record in await self.scene.store.find(Filter(QUEUE, (State.FORWARDED,), limit=_ALL)):
                card = msgspec.json.decode(record.body, type=str)
                if record.ref in seen:
                    continue
                seen.add(record.ref)
                if card.endswith("slow"):
                    self.scene.tell(card)
                elif card.endswith("unwanted"):
                    await self.scene.store.change([Cancel(record.id)])
            await asyncio.sleep(_LOOK_S)

    async def quiet(self) -> None:
        """Wait until there is nothing left to do, here or there."""
        try:
            async with asyncio.timeout(GUARD_S):
                for store in (self.scene.store, self.there):
                    while await store.find(Filter(states=_LIVE, limit=1)):
                        assert not self.scene.diary.trouble, self.scene.diary.trouble
                        await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise AssertionError(f"still not quiet after {GUARD_S:g} s: {await self.faults()}") from None

    async def effects(self) -> Counter[str]:
        """Count how often each message took effect."""
        found = await self.there.find(Filter("billing.charged", limit=_ALL))
        return Counter(msgspec.json.decode(record.body, type=str) for record in found)

    async def faults(self) -> list[str]:
        """Say what is wrong: each message is to take effect once, each ticket to end as it should and to be told."""
        effects, records, told = await self.effects(), await self._records(), await self._told()
        wrong = []
        for text in [*self.cards, *self.notes]:
            kind, record = text.split()[-1], records[text]
            if effects[text] != (kind not in _ENDS):
                wrong.append(f"{text!r} took effect {effects[text]} times")
            if record.state is not _ENDS.get(kind, State.SUCCEEDED):
                wrong.append(f"{text!r} is {record.state.name}, {record.cause.word}: {record.failures}")
            elif kind in ("quick", "slow") and not _answers(record, f"{text} is charged"):
                wrong.append(f"{text!r} was answered {record.answer}")
            if told[text] != (text in self.cards):
                wrong.append(f"the outcome of {text!r} was told {told[text]} times")
        return wrong

    async def _records(self) -> dict[str, Record]:
        found = await self.scene.store.find(Filter(QUEUE, limit=_ALL))
        return {msgspec.json.decode(record.body, type=str): record for record in found}

    async def _told(self) -> Counter[str]:
        letters = await self.scene.store.find(Filter("shop.paid", limit=_ALL))
        return Counter(msgspec.json.decode(record.body)["request"] for record in letters)


def _answers(record: Record, reply: str) -> bool:
    return record.answer is not None and msgspec.json.decode(record.answer.body) == reply


@asynccontextmanager
async def two_towns(folder: Path) -> AsyncIterator[TwoTowns]:
    there = SqliteStore(folder / "there.db", Settings(lease_s=LEASE_S))
    await there.open(create=True)
    port = free_port()
    async with a_scene(folder, LEASE_S) as scene, TcpProxy("127.0.0.1", port) as proxy:
        scene.script = Path(__file__).with_name("far_town.py")
        towns = TwoTowns(scene, there, proxy, port)
        escorting = asyncio.ensure_future(towns.escort())
        try:
            yield towns
        finally:
            escorting.cancel()
            await asyncio.wait((escorting,))
            await there.close()
