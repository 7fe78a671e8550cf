"""The fault tests for long: `make soak`, or `make soak ARGS="power --times 20000 --seed 5"` for one of them.

power   cut the power at so many moments of recorded lives
sync    look at so many receipts for the sync before them
errors  let every n-th operation of a life fail, in every way
flips   flip so many bits of a file and of a log, and cut off a tenth as many ends
points  end a process at each operation, and so many pairs with one in the recovery
kill    kill -9 senders and receivers in so many cycles; --store URL and --script FILE for another store or town
books   the same where handlers write in their transactions, on SQLite and on PostgreSQL, or on --store URL alone
steps   kill -9 at each step of a handler's transaction, and so many pairs with one in the recovery, on both stores
forward kill -9 a sender and a receiver with a store each, so often, at points on the way from one to the other
cuts    break connections between services and PostgreSQL so often, in every way, and lose answers
restart end a PostgreSQL server under load so often, by INT and KILL

Each prints its seed and how far it is. What is wrong is printed with the command that does it again.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from cutting import a_cutting
from damage import cut_off, flipped, look_at, sound_store
from errors import ERRORS, lived_with
from far_lives import two_towns
from killing import LOOK_S, Killing, judged
from ledger import entries
from msgspec import Struct
from receipts import covered
from scene import a_scene
from servers.postgres import RealPostgres
from surveys import a_folder, lived, small_steps, survey
from test_fsync_before_receipt import sent
from written_rows import a_load

LEASE_S = 2.0
POWER_CUTS_A_LIFE = 2_000
BOOKS = Path(__file__).parents[1] / "integration" / "ledger.py"
BREAKS_A_LIFE = 25
KILLS_A_LIFE = 4  # a message that was lost with five workers is given up


class Asked(Struct):
    """What one soak is to do."""

    times: int
    seed: int
    store: str | None
    script: Path | None


def told(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", flush=True)


async def power(asked: Asked) -> list[str]:
    wrong: list[str] = []
    for life in range(max(1, asked.times // POWER_CUTS_A_LIFE)):
        with a_folder() as folder:
            trace = await lived(folder, asked.seed + life, 250)
            found = await survey(trace, min(asked.times, POWER_CUTS_A_LIFE), asked.seed + life)
        wrong += [f"life {life}: {complaint}, at {moments}" for complaint, moments in found.wrong.items()]
        told(f"{(life + 1) * found.images} of {asked.times} images, {len(wrong)} wrong")
    return wrong


async def sync(asked: Asked) -> list[str]:
    with a_folder() as folder:
        found = covered(await sent(folder, asked.times))
    told(f"{found.receipts} receipts, {found.early} early, {found.syncs / found.receipts:.4f} syncs a message")
    return [f"{found.early} receipts came before their sync"] if found.early else []


async def errors(asked: Asked) -> list[str]:
    wrong: list[str] = []
    for error in ERRORS:
        for number in range(1, asked.times + 1):
            with a_folder() as folder:
                seen = await lived_with(error, number, folder, 200)
            wrong += [f"{error.name} at operation {number}: {one}" for one in seen.wrong]
            if not seen.reached:
                told(f"{error.name}: {number - 1} operations, {len(wrong)} wrong")
                break
    return wrong


async def flips(asked: Asked) -> list[str]:
    chance, wrong, silent = random.Random(asked.seed), list[str](), 0
    with a_folder() as folder, small_steps():
        sound = await sound_store(folder)
        for path in sound.files:
            size = path.stat().st_size
            for number in range(asked.times):
                offset, bit = chance.randrange(size), chance.randrange(8)
                with a_folder() as copy:
                    damage = cut_off if number % 11 == 10 else None
                    if damage is None:
                        flipped(sound, copy / "it", path.name, offset, bit)
                    else:
                        damage(sound, copy / "it", path.name, offset)
                    seen = await look_at(copy / "it")
                in_log = path.name.endswith("-wal")
                silent += seen.silent
                if seen.wrong_bodies or (seen.silent and in_log):
                    wrong.append(f"{path.name}, bit {bit} of byte {offset}: {seen.wrong_bodies} wrong bodies")
                if number % 500 == 499:
                    told(f"{path.name}: {number + 1} of {asked.times}, {silent} silent, {len(wrong)} wrong")
    return wrong


async def points(asked: Asked) -> list[str]:
    command = [sys.executable, str(Path(__file__).parents[1] / "faults" / "crash_points.py")]
    command += ["--pairs", str(asked.times), "--seed", str(asked.seed)]
    process = await asyncio.create_subprocess_exec(*command)
    return [] if await process.wait() == 0 else ["see above"]


async def kill(asked: Asked) -> list[str]:
    return await _killed(asked, asked.store, "town")


async def books(asked: Asked) -> list[str]:
    asked.script = asked.script or BOOKS
    wrong: list[str] = []
    async for url in _stores(asked):
        told(f"on {url or 'a SQLite file'}")
        wrong += await _killed(asked, url, "books")
    return wrong


async def _killed(asked: Asked, url: str | None, receiver: str) -> list[str]:
    """Kill in so many cycles. What a receiver called `books` has done is what it wrote."""
    with tempfile.TemporaryDirectory(prefix="ringpost-") as folder:
        async with a_scene(Path(folder), LEASE_S, url) as scene:
            scene.script = asked.script or scene.script
            killing = Killing(scene, "sender", asked.seed, receiver=receiver)
            await killing.start()
            for number in range(1, asked.times + 1):
                await killing.cycle()
                if number % 10 == 0:
                    told(f"{number} of {asked.times} cycles")
            looks = await killing.quiet()
            written = [row[0] for row in await entries(scene.url)] if receiver == "books" else None
            verdict = await judged(scene, killing.most, written)
    told(f"{len(verdict.receipted)} receipts, {len(verdict.effects)} effects, quiet after {looks * LOOK_S:.1f} s")
    stuck = [f"something was stuck for {looks * LOOK_S:.1f} s"] if looks * LOOK_S > 2 * LEASE_S else []
    return verdict.faults + stuck


async def _stores(asked: Asked) -> AsyncIterator[str | None]:
    """Give the store that was named, or else a file and a server of our own."""
    if asked.store is not None:
        yield asked.store
        return
    yield None
    async for server in _server():
        yield server.url(server.new_database())


async def _server() -> AsyncIterator[RealPostgres]:
    """Give a server of our own, once."""
    server = await asyncio.to_thread(RealPostgres, fsync=True)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


async def steps(asked: Asked) -> list[str]:
    wrong: list[str] = []
    async for url in _stores(asked):
        command = [sys.executable, str(Path(__file__).parents[1] / "faults" / "transaction_points.py")]
        command += ["--pairs", str(asked.times), "--seed", str(asked.seed)]
        command += [] if url is None else ["--store", url]
        process = await asyncio.create_subprocess_exec(*command)
        if await process.wait():
            wrong.append("see above")
    return wrong


async def forward(asked: Asked) -> list[str]:
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="ringpost-") as folder:
        async with two_towns(Path(folder)) as towns:
            for number in range(1, asked.times + 1):
                told(f"{number} of {asked.times}: {await towns.killed_by_chance(chance, str(number))}")
                if number % KILLS_A_LIFE and number < asked.times:
                    continue
                pair = [await towns.billing(), await towns.shop()]
                await towns.quiet()
                for one in pair:
                    await one.kill()
            return await towns.faults()


async def cuts(asked: Asked) -> list[str]:
    chance, wrong = random.Random(asked.seed), list[str]()
    async for server in _server():
        for first in range(0, asked.times, BREAKS_A_LIFE):
            async with a_cutting(server) as cutting:
                for number in range(first, min(first + BREAKS_A_LIFE, asked.times)):
                    what = await cutting.broken_by_chance(chance)
                    told(f"{number + 1} of {asked.times}: {what}; went on within {await cutting.load.goes_on():.1f} s")
                counted = await cutting.load.ended()
            told(f"{counted.sent} receipts, {len(counted.faults)} kinds of fault")
            wrong += counted.faults
    return wrong


async def restart(asked: Asked) -> list[str]:
    chance = random.Random(asked.seed)
    async for server in _server():
        async with a_load(server, server.url, LEASE_S) as load:
            for number in range(1, asked.times + 1):
                how = chance.choice([signal.SIGINT, signal.SIGKILL])
                await asyncio.to_thread(server.end, how)
                await asyncio.to_thread(server.relaunch)
                told(f"{number} of {asked.times}: {how.name}; went on within {await load.goes_on():.1f} s")
            counted = await load.ended()
        told(f"{counted.sent} receipts")
        return counted.faults
    raise AssertionError("there is always a server")


SOAKS: dict[str, tuple[Callable[[Asked], Awaitable[list[str]]], int]] = {
    "power": (power, 20_000),
    "sync": (sync, 100_000),
    "errors": (errors, 5_000),
    "flips": (flips, 5_000),
    "points": (points, 1_000),
    "kill": (kill, 500),
    "books": (books, 500),
    "steps": (steps, 2_000),
    "forward": (forward, 100),
    "cuts": (cuts, 500),
    "restart": (restart, 100),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which; default: all", metavar="|".join(SOAKS))
    parser.add_argument("--times", type=int, help="how often, instead of each one's own number")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--store", help="the URL of another store, for kill, books and steps")
    parser.add_argument("--script", type=Path, help="another town, for kill")
    given = parser.parse_args()
    unknown = set(given.names) - SOAKS.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SOAKS)}")
    logging.getLogger("ringpost").setLevel(logging.CRITICAL + 1)
    failed = 0
    for name in given.names or SOAKS:
        soak, times = SOAKS[name]
        asked = Asked(given.times or times, given.seed, given.store, given.script)
        told(f"{name}: {asked.times} times, seed {asked.seed}")
        wrong = asyncio.run(_awaited(soak, asked))
        for one in wrong[:20]:
            told(f"WRONG  {one}")
        if wrong:
            failed += 1
            told(f'again: make soak ARGS="{name} --times {asked.times} --seed {asked.seed}"')
    told("all is well" if not failed else f"{failed} failed")
    return 1 if failed else 0


async def _awaited(soak: Callable[[Asked], Awaitable[list[str]]], asked: Asked) -> list[str]:
    return await soak(asked)


if __name__ == "__main__":
    sys.exit(main())
