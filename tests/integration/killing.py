"""Kill -9 of senders and receivers at random moments, and what the history says afterwards.

Which store it is, the scene says; which handlers and senders there are, its script and their roles. An effect is what a
handler says that it has done; where handlers write in their transactions, it is what is found written in the end.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct
from scene import Running, Scene

from ringpost.core import ids
from ringpost.core.message import State

LIVE = (State.SCHEDULED, State.WAITING, State.READY, State.RUNNING)
LOOK_S = 0.02
QUIET_S_MAX = 60


class Verdict(Struct):
    """What the history says: sets of job numbers."""

    receipted: set[int]
    effects: set[int]
    lost: set[int]  # acknowledged, and neither done nor dead nor anywhere
    repeated: set[int]  # written more than once
    unexpected: set[int]  # done, and never sent
    sunk: list[str]  # taken over without a higher fence
    doubled: set[int]  # more than one message staged by one
    unstaged: set[int]  # done, and what it staged never came

    @property
    def faults(self) -> list[str]:
        """Say in words what is wrong."""
        kinds = ("lost", "repeated", "unexpected", "sunk", "doubled", "unstaged")
        return [f"{kind}: {found}" for kind in kinds if (found := getattr(self, kind))]


async def judged(scene: Scene, most: int, written: Sequence[int] | None = None) -> Verdict:
    """Judge by the diary; `written`: the numbers of the rows that handlers wrote."""
    diary = scene.diary
    receipted = {line["receipt"] for line in diary.all(receipt=...)}
    effects = {line["effect"] for line in diary.all(effect=...)} if written is None else set(written)
    known = {line["id"] for line in diary.all(receipt=...)}
    left = {ids.text(record.id) for record in await scene.rows(*LIVE, State.DEAD)}
    kept = {line["receipt"] for line in diary.all(receipt=...) if line["id"] in left & known}
    fences: dict[str, list[int]] = {}
    for line in diary.all(began=...):
        fences.setdefault(line["id"], []).append(line["fence"])
    noted: dict[int, set[str]] = {}
    for line in diary.all(noted=...):
        noted.setdefault(line["noted"], set()).add(line["id"])
    return Verdict(
        receipted,
        effects,
        lost=receipted - (effects | kept),
        repeated={number for number, times in Counter(written or ()).items() if times > 1},
        unexpected={number for number in effects if not 0 <= number < most},
        sunk=[id for id, seen in fences.items() if any(a >= b for a, b in pairwise(seen))],
        doubled={number for number, seen in noted.items() if len(seen) > 1},
        unstaged=effects - noted.keys(),
    )


class Killing:
    """Two processes, killed again and again."""

    def __init__(self, scene: Scene, sender: str, seed: int, *, receiver: str = "town") -> None:
        self.scene = scene
        self.random = random.Random(seed)
        self._role = sender
        self._receiver = receiver
        self._next = 0
        self._deck: list[str] = []  # who is killed next: each as often as the others
        self.sender: Running
        self.receiver: Running

    async def start(self) -> None:
        self.receiver = await self.scene.start(self._receiver)
        await self._start_sender()

    async def _start_sender(self) -> None:
        self.sender = await self.scene.start(self._role, self._next)

    async def cycle(self) -> None:
        """Wait until both are at work, then for a random moment; kill one or both, and start what was killed."""
        diary = self.scene.diary
        now = len(diary.lines)
        await diary.until(1, now, effect=..., pid=self.receiver.pid)
        await diary.until(1, now, receipt=..., pid=self.sender.pid)
        await asyncio.sleep(self.random.uniform(0.02, 0.4))
        if not self._deck:
            self._deck = self.random.sample(("sender", "receiver", "both"), 3)
        whom = self._deck.pop()
        if whom != "sender":
            await self.receiver.kill()
            self.receiver = await self.scene.start(self._receiver)
        if whom != "receiver":
            await self.sender.kill()
            self._next = max(line["receipt"] for line in diary.all(receipt=...)) + 1000
            await self._start_sender()

    async def quiet(self) -> int:
        """End the sender, wait until the receiver is at work, and then until nothing is left; give the most looks in a
        row between which nothing ended. A slow machine takes longer for what has piled up, and is not stuck."""
        self.sender.process.stdin.close()  # type: ignore[union-attr]
        await self.sender.ended()
        await self.scene.diary.until(effect=..., pid=self.receiver.pid)
        longest = looks = ended = 0
        async with asyncio.timeout(QUIET_S_MAX):
            while any(depth.ready + depth.running + depth.scheduled for depth in await self.scene.store.depths()):
                before, ended = ended, sum(depth.ends for depth in await self.scene.store.depths())
                looks = looks + 1 if ended == before else 0
                longest = max(longest, looks)
                await asyncio.sleep(LOOK_S)
        return longest

    @property
    def most(self) -> int:
        return self._next + 1_000_000
