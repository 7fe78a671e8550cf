"""Services that end before or after each durable step of a handler's transaction, and again while they recover from it.

usage: transaction_points.py [--store URL] [--works NAMES] [--points N] [--pairs N] [--seed N] [--twin NAME]

For each point of each kind of work (a message or a call under a key, which writes at once or leaves it to the commit) a
service lives until it gets there and is killed at once. For a pair the one that recovers is killed at a point too. Then
a last one does all that was asked for again, under the same keys, and looks: each number stands in the books once, with
the token that was answered, and was told once. It prints what is wrong, and ends with 1 if anything is. The same seed
does the same again. It knows only points that are passed in a life without a crash, or in the recovery from one.

This process has no loop and no thread, so that its forks are whole.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

import asyncpg
import books_points
import msgspec
import points
from crash_points import Words, ended, forked
from ledger import Books, Entry, How, books, entries
from msgspec import Struct

from ringpost import Client, serve
from ringpost.contract.errors import Unavailable
from ringpost.core import lease
from ringpost.service import upkeep
from ringpost.settings import Settings
from ringpost.store import hostclock, store_for
from ringpost.store.hostclock import HostClock
from ringpost.store.port import Filter
from ringpost.store.sqlite import store as sqlite

EACH = 3  # how many numbers a run has
SWEEP_S = 0.05  # who could write for so long sweeps others' leases: a third of one is long for many runs
LATER_MS = 100_000  # by so much each process of a run lives later than the one before it
KILLED = -signal.SIGKILL
LOOK_S = 0.02
_LATER = """
DO $$ BEGIN UPDATE ringpost.message SET lease_ms = 0 WHERE state = 5;
EXCEPTION WHEN undefined_table OR invalid_schema_name THEN NULL; END $$
"""


class Work(Struct, frozen=True):
    """What a service is asked for: messages or calls under a key, and how their handlers write."""

    name: str
    how: How
    called: bool = False


WORKS = {
    work.name: work
    for work in (
        Work("execute", "execute"),
        Work("defer", "defer"),
        Work("called execute", "execute", called=True),
        Work("called defer", "defer", called=True),
    )
}


class Answered(Struct, frozen=True):
    """What somebody was told."""

    number: int
    token: str


# --- what the processes do


class Life(Struct, frozen=True):
    """One process of a run: where it lives, what it is asked for, and at which point it ends."""

    home: Path
    url: str
    work: Work
    first: int  # the first of the numbers that are asked for
    age: int  # how many processes lived before it, in all runs
    point: str = ""
    twin: str = ""

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + EACH)


async def lived(life: Life) -> int:
    """Serve, ask for everything, and tell each answer, until the point comes."""
    await _settle_in(life)
    words = Words(life.home / "words")
    async with serve(books, store=life.url, http=None) as client:
        await asyncio.gather(*(_asked(client, life, number, words) for number in life.numbers))
    for point in dict.fromkeys(books_points.passed):
        Words(life.home / "passed").say(point)
    return 0


async def ended_well(life: Life, after: int) -> int:
    """Do what is left, then say what is wrong, looking after a place in the store; gives the last place."""
    await _settle_in(life)
    words = Words(life.home / "words")
    store = store_for(life.url, Settings(durability="buffered"))
    async with serve(books, store=life.url, http=None) as client:
        await asyncio.gather(*(_asked(client, life, number, words) for number in life.numbers))
        await store.open()
        while any(depth.ready + depth.running + depth.scheduled for depth in await store.depths()):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
    told = await store.find(Filter("books.noted", after=after, limit=1000))
    await store.close()
    rows = [row for row in await entries(life.url) if row[0] in life.numbers]
    complaints = Words(life.home / "wrong")
    for complaint in _complaints(life, rows, Counter(msgspec.json.decode(one.body, type=int) for one in told)):
        complaints.say(complaint)
    return max([one.ref for one in told], default=after)


def _complaints(life: Life, rows: list[tuple[int, str, int]], told: Counter[int]) -> list[str]:
    tokens = {number: token for number, token, _ in rows}
    times = Counter(row[0] for row in rows)
    wrong = [f"{number} stands in the books {times[number]} times" for number in life.numbers if times[number] != 1]
    wrong += [f"of {number} {told[number]} messages told" for number in life.numbers if told[number] != 1]
    for answer in Words.read(life.home / "words", Answered):
        if answer.token != tokens.get(answer.number):
            wrong.append(f"{answer.number} was answered otherwise than it stands in the books")
    return wrong


async def _asked(client: Client, life: Life, number: int, words: Words) -> None:
    """Ask for a number under its key until there is an answer, and tell it."""
    entry, key = Entry(number, life.work.how), str(number)
    while True:
        try:
            if life.work.called:
                written = await client.call(Books.write, entry, idempotency_key=key)
            else:
                written = await (await client.send(Books.write, entry, idempotency_key=key)).result()
        except Unavailable as error:
            if "still being handled" not in str(error):
                raise
            await asyncio.sleep(LOOK_S)  # until it is seen that the lease of who was killed is over
        else:
            words.say(Answered(number, written.token))
            return


async def _settle_in(life: Life) -> None:
    """Live later than those before, whose leases are over, and don't wait long until that is believed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what handlers say is for other tests
    points.want(life.point)
    books_points.install()
    if life.twin:
        books_points.TWINS[life.twin]()
    lease.sweep_after_s = upkeep.sweep_after_s = lambda lease_s: SWEEP_S  # type: ignore[attr-defined]
    clock = HostClock(uptime_ms=lambda: hostclock.uptime_ms() + life.age * LATER_MS)
    sqlite.HostClock = lambda: clock  # type: ignore[assignment,misc]
    if life.url.startswith("postgresql:"):
        server = await asyncpg.connect(life.url)
        await server.execute(_LATER)
        await server.close()


# --- the process that starts them


class Runs:
    """Run after run on one store."""

    def __init__(self, folder: Path, url: str, twin: str) -> None:
        self._folder = folder
        self._url = url
        self._twin = twin
        self._runs = 0
        self._lives = 0
        self._after = 0
        self.wrong: list[str] = []
        self.killed = 0

    def census(self, work: Work) -> tuple[list[str], list[str]]:
        """Give the points of a life, and those of a recovery from the one in the middle of them."""
        home = self._home()
        self._live(home, work, "")
        own = Words.read(home / "passed", str)
        home = self._home()
        self._live(home, work, own[len(own) // 2])
        self._live(home, work, "")
        return own, Words.read(home / "passed", str)

    def run(self, work: Work, *ends: str) -> None:
        """Kill one at a point, and perhaps those that recover, then look."""
        home = self._home()
        codes = [self._live(home, work, point) for point in ends]
        self.killed += codes.count(KILLED)
        last = self._life(home, work, "")
        code = ended(forked(ended_well(last, self._after), home))
        where = f"{work.name}: {', '.join(ends)}"
        if not {*codes} <= {0, KILLED} or code:
            self.wrong.append(f"{where}: processes ended with {codes}, the last with {code}")
        else:
            self._after = Words.read(home / "gave", int)[-1]
            self.wrong += [f"{where}: {complaint}" for complaint in Words.read(home / "wrong", str)]
        shutil.rmtree(home)

    def _home(self) -> Path:
        self._runs += 1
        home = self._folder / str(self._runs)
        home.mkdir()
        return home

    def _live(self, home: Path, work: Work, point: str) -> int:
        return ended(forked(lived(self._life(home, work, point)), home))

    def _life(self, home: Path, work: Work, point: str) -> Life:
        self._lives += 1
        return Life(home, self._url, work, self._runs * EACH, self._lives, point, self._twin)


def main(told: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", help="the URL of the store; default: a SQLite file in memory")
    parser.add_argument("--works", default=",".join(WORKS), help="which works, with commas between")
    parser.add_argument("--points", type=int, default=10**9, help="how many single kills; default: at every point")
    parser.add_argument("--pairs", type=int, default=100, help="how many kills with another during recovery")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--twin", default="", choices=["", *books_points.TWINS], help="what is broken on purpose")
    asked = parser.parse_args()
    told(f"seed {asked.seed}")
    chance = random.Random(asked.seed)
    folder = Path(tempfile.mkdtemp(prefix="ringpost-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    os.environ.update(RINGPOST_TX_HOLD_MAX="5", RINGPOST_DURABILITY="buffered")
    os.chdir(folder)
    try:
        runs = Runs(folder, asked.store or f"sqlite:///{folder / 'store.db'}", asked.twin)
        singles: list[tuple[Work, str]] = []
        pairs: list[tuple[Work, str, str]] = []
        for work in [WORKS[name] for name in asked.works.split(",")]:
            own, recovering = runs.census(work)
            told(f"{work.name}: {len(own)} points in a life, {len(recovering)} in a recovery")
            singles += [(work, point) for point in own]
            pairs += [(work, first, second) for first in own for second in recovering]
        chosen = singles if asked.points >= len(singles) else chance.sample(singles, asked.points)
        both = pairs if asked.pairs >= len(pairs) else chance.sample(pairs, asked.pairs)
        for number, (work, *ends) in enumerate([*chosen, *both], 1):
            runs.run(work, *ends)
            if number % 100 == 0:
                told(f"{number} of {len(chosen) + len(both)} runs, {len(runs.wrong)} wrong")
    finally:
        os.chdir("/")
        shutil.rmtree(folder)
    for complaint in runs.wrong[:20]:
        told(complaint)
    told(f"{len(chosen)} of {len(singles)} points, {len(both)} of {len(pairs)} pairs, {runs.killed} killed, "
         f"{len(runs.wrong)} wrong")  # fmt: skip
    return 1 if runs.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
