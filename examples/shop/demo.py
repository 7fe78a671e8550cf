"""The shop's story: what calling is good for, what sending is good for, and what happens when things break.

usage: python demo.py [--once] [--untimed]     (with --once it ends by itself; exit code 0 only if every claim held)
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from claims import Claims
from contracts import Accounts, Analytics, Item, NewUser, Pricing, ReportOrder
from post_office import Mailboxes, PostOffice
from processes import Process, free_port
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ringpost import Client, blocking

ROOT = Path(__file__).resolve().parents[2]
CROWD = 1000  # registrations while the mail is down
SMALL_CROWD = 100  # the same where nothing is said about seconds
SAMPLE = 200  # registrations to know how fast it is when all is well
T = TypeVar("T")
ITEMS = [Item("teapot"), Item("kettle")]


class Shop:
    """The processes, the post office, and a client that uses them over HTTP."""

    def __init__(self, console: Console, folder: Path, *, timed: bool) -> None:
        self.console = console
        self.claims = Claims(console, timed=timed)
        self.crowd = CROWD if timed else SMALL_CROWD
        self.folder = folder
        self.store = f"sqlite:///{folder / 'shop.db'}"
        self.post_office = PostOffice(folder / "mailboxes", free_port())
        environment = {
            "RINGPOST_STORE": self.store,
            "RINGPOST_LEASE": "3",  # a killed worker's letters are taken over after three seconds, not thirty
            "SHOP_SMTP": self.post_office.address,
            "SHOP_ACCOUNTS": str(folder / "accounts.db"),
            "SHOP_ANALYTICS": str(folder / "analytics.db"),
        }
        names = ("accounts", "mail", "pricing", "analytics")
        self.processes = {name: Process(name, folder, environment) for name in names}

    @contextlib.contextmanager
    def open(self) -> Iterator[Mailboxes]:
        with self.post_office as boxes:
            try:
                for process in self.processes.values():
                    process.start()
                for process in self.processes.values():
                    process.wait_ready()
                yield boxes
            finally:
                for process in self.processes.values():
                    process.interrupt()
                for process in self.processes.values():
                    process.wait()

    def ringpost(self, *arguments: str) -> str:
        """Use the command line as a person would, and show it."""
        self.console.print(f"  [dim]$ ringpost {' '.join(arguments)}[/]")
        command = [sys.executable, "-m", "ringpost", *arguments, "--store", self.store]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        for line in (done.stdout + done.stderr).rstrip().splitlines():
            self.console.print(Text.assemble("  ", ("│ ", "dim"), line), soft_wrap=True)
        return done.stdout


class Clock:
    """How long something took."""

    def __enter__(self) -> "Clock":
        self._start = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.perf_counter() - self._start


def about(seconds: float, expected: float) -> bool:
    """Whether a time is what the sleeping supplier explains, give or take what a busy machine adds."""
    return expected <= seconds < expected + 1.5


async def two_questions(shop: Shop, client: Client) -> None:
    """Two 2-second calls: one after the other, side by side, sent, and from plain threads."""
    shop.console.rule("[bold]1 · Two questions of two seconds each", align="left")
    took = shop.claims.time
    with Clock() as clock:
        one_by_one = [await client.call(Pricing.quote, item) for item in ITEMS]
    took(about(clock.seconds, 4), f"called one after the other: {clock.seconds:.2f} s")
    with Clock() as clock:
        side_by_side = await client.call_all(Pricing.quote, ITEMS)
    took(about(clock.seconds, 2), f"called side by side:        {clock.seconds:.2f} s")
    with Clock() as clock:
        tickets = [await client.send(Pricing.quote, item) for item in ITEMS]
        sent_s = time.perf_counter() - clock._start
        by_message = [await ticket.result(timeout=30) for ticket in tickets]
    took(sent_s < 0.5, f"sent: both letters are on disk after {sent_s * 1000:.1f} ms, the sender is free")
    took(about(clock.seconds, 2), f"      their answers are there after {clock.seconds:.2f} s")
    with Clock() as clock:
        from_threads = await asyncio.to_thread(ask_from_threads, shop)
    took(about(clock.seconds, 2), f"called from plain threads:  {clock.seconds:.2f} s")
    shop.claims.check(one_by_one == side_by_side == by_message == from_threads, "the four ways gave the same answers")


def ask_from_threads(shop: Shop) -> list[object]:
    """Do it as a Flask view or a script would: no await anywhere."""
    with blocking.Client(store=shop.store) as client, ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda item: client.call(Pricing.quote, item), ITEMS))


async def registration(shop: Shop, client: Client, boxes: Mailboxes) -> None:
    """One registration answers at once; letter and count follow."""
    shop.console.rule("[bold]2 · A registration answers at once, the rest follows", align="left")
    with Clock() as clock:
        user = await client.call(Accounts.register, NewUser("ada@example.com", "Ada"))
        answered_s = time.perf_counter() - clock._start
        await until(lambda: boxes.by_address["ada@example.com"] == 1)
    shop.claims.check(user.email == "ada@example.com", f"answered after {answered_s * 1000:.1f} ms: {user}")
    shop.claims.check(
        clock.seconds > answered_s, f"the welcome mail was in the mailbox after {clock.seconds * 1000:.1f} ms"
    )
    with Clock() as clock:
        await until(lambda: counted(shop) == 1)
    shop.claims.check(counted(shop) == 1, "analytics has counted it")


async def outage(shop: Shop, client: Client, boxes: Mailboxes) -> None:
    """The mail process is killed; nobody at the counter notices, and no letter is missing afterwards."""
    shop.console.rule("[bold]3 · The mail process is killed with -9", align="left")
    claim = shop.claims.check
    before = await register_many(shop, client, boxes, "before", SAMPLE, kill_at=SAMPLE // 2)
    claim(len(before) == SAMPLE, f"{SAMPLE} registrations, the mail killed in the middle of its work")
    there = boxes.letters
    during = await register_many(shop, client, boxes, "during", shop.crowd)
    usual, now = statistics.median(before) * 1000, statistics.median(during) * 1000
    claim(len(during) == shop.crowd, f"{shop.crowd} registrations more while it was down; all of them answered")
    shop.claims.time(now < 3 * usual + 2, f"as fast as before: median {now:.2f} ms, with the mail up {usual:.2f} ms")
    claim(boxes.letters == there, "meanwhile not one letter went out; they wait:")
    shop.ringpost("queues")
    shop.processes["mail"].start()
    with Clock() as clock:
        await follow(shop, boxes, 1 + SAMPLE + shop.crowd)
    wanted = {f"before{i}@example.com" for i in range(SAMPLE)} | {f"during{i}@example.com" for i in range(shop.crowd)}
    claim(
        wanted <= set(boxes.by_address),
        f"the mail is back: no letter is missing ({boxes.letters}, {clock.seconds:.1f} s)",
    )
    claim(set(boxes.by_address.values()) == {1}, f"each is in its mailbox once; SMTP repeats dropped: {boxes.repeats}")
    await until(lambda: counted(shop) == 1 + SAMPLE + shop.crowd)
    claim(counted(shop) == 1 + SAMPLE + shop.crowd, f"analytics has counted every one: {counted(shop)}")


async def register_many(
    shop: Shop, client: Client, boxes: Mailboxes, name: str, how_many: int, *, kill_at: int | None = None
) -> Sequence[float]:
    """Register users one after the other and give the seconds each answer took."""
    seconds: list[float] = []
    with Live(console=shop.console, refresh_per_second=10, transient=True) as live:
        for i in range(how_many):
            if i == kill_at:
                shop.processes["mail"].kill()
            with Clock() as clock:
                await client.call(Accounts.register, NewUser(f"{name}{i}@example.com", f"{name.title()} {i}"))
            seconds.append(clock.seconds)
            live.update(
                Text(
                    f"  registrations {i + 1:5}/{how_many}   last answer {clock.seconds * 1000:6.2f} ms   "
                    f"letters in mailboxes {boxes.letters:5}"
                )
            )
    return seconds


async def follow(shop: Shop, boxes: Mailboxes, wanted: int, timeout_s: float = 40) -> None:
    """Show the letters arriving."""
    columns = (
        TextColumn("  letters in mailboxes"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
    )
    with Progress(*columns, console=shop.console, transient=True) as bar:
        task = bar.add_task("", total=wanted)
        end = time.monotonic() + timeout_s
        while boxes.letters < wanted and time.monotonic() < end:
            bar.update(task, completed=boxes.letters)
            await asyncio.sleep(0.05)


async def poison(shop: Shop, client: Client, boxes: Mailboxes) -> None:
    """A letter that nobody takes becomes a dead letter: seen, understood, replayed."""
    shop.console.rule("[bold]4 · A poison message", align="left")
    address = "eve@example.com"
    boxes.refuse.add(address)
    await client.call(Accounts.register, NewUser(address, "Eve"))
    message_id = await until(lambda: dead_letter(shop))
    shop.claims.check(bool(message_id), f"the mailbox of {address} says 550: the letter is dead, with its cause")
    shop.ringpost("dead", "show", str(message_id))
    boxes.refuse.clear()
    shop.ringpost("dead", "replay", str(message_id))
    await until(lambda: boxes.by_address[address] == 1)
    shop.claims.check(boxes.by_address[address] == 1, "the mailbox is mended, the letter replayed and delivered")


def dead_letter(shop: Shop) -> str | None:
    """Give the id of the dead letter, as `ringpost dead list --json` has it."""
    command = [sys.executable, "-m", "ringpost", "dead", "list", "--json", "--store", shop.store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    listed = json.loads(done.stdout)
    return listed[0]["id"] if listed else None


async def long_job(shop: Shop, client: Client) -> None:
    """A report takes its time: watched by its progress, and its outcome comes back to an operation."""
    shop.console.rule("[bold]5 · A long job", align="left")
    order = ReportOrder("November", pages=12)
    ticket = await client.send(Analytics.report, order, reply_to=Analytics.report_done)
    seen: list[float] = []
    with Progress(console=shop.console, transient=True) as bar:
        task = bar.add_task("  report", total=1.0)
        async for status in ticket.updates():
            if status.progress is not None:
                seen.append(status.progress)
                bar.update(task, completed=status.progress, description=f"  report, {status.note}")
    done = await ticket.result()
    shop.claims.time(len(set(seen)) >= 3, f"its progress was seen on the way: {len(set(seen))} steps")
    shop.claims.check(done.registrations == counted(shop), f"the ticket has the answer: {done}")
    kept = await until(lambda: reported(shop, order.title))
    shop.claims.check(kept == done.registrations, "the outcome came back by reply_to, and a handler has kept it")


def counted(shop: Shop) -> int:
    return query(shop, "SELECT count(*) FROM seen") or 0


def reported(shop: Shop, title: str) -> int | None:
    return query(shop, "SELECT registrations FROM reports WHERE title = ?", title)


def query(shop: Shop, sql: str, *arguments: object) -> int | None:
    """Look into the analysts' database."""
    with contextlib.closing(sqlite3.connect(shop.folder / "analytics.db", timeout=10)) as db:
        row = db.execute(sql, arguments).fetchone()
    return row[0] if row else None


async def until(true: Callable[[], T], timeout_s: float = 30) -> T:
    """Wait until something is so, and give it; the last word after the time, whatever it is."""
    end = time.monotonic() + timeout_s
    while not (value := await asyncio.to_thread(true)) and time.monotonic() < end:  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.01)
    return value


async def story(shop: Shop, boxes: Mailboxes) -> None:
    async with Client(store=shop.store) as client:
        await two_questions(shop, client)
        await registration(shop, client, boxes)
        await outage(shop, client, boxes)
        await poison(shop, client, boxes)
        await long_job(shop, client)


HELP = """
The shop stays open. Try, in another terminal:
  # an answer; the same again: 409, a declared Problem
  curl -i {accounts}/accounts/register -d '{{"email": "grace@example.com", "name": "Grace"}}'
  # 400, and which field
  curl -i {accounts}/accounts/register -d '{{"email": 5}}'
  # 202 at once, and where to look; with wait=5 the answer, as it is there in time
  curl -i {pricing}/pricing/quote -H 'Prefer: respond-async' -d '{{"sku": "teapot"}}'
  curl -i {pricing}/pricing/quote -H 'Prefer: respond-async, wait=5' -d '{{"sku": "teapot"}}'
  {ringpost} queues --store {store}
  ls {mailboxes}
Ctrl-C ends it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the story")
    parser.add_argument("--untimed", action="store_true", help="judge nothing about seconds, with a smaller crowd")
    parser.add_argument("--folder", type=Path, help="a new one for its files (default: .demo, emptied first)")
    asked = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    folder: Path = asked.folder or ROOT / ".demo"
    if asked.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        parser.error(f"{folder} is there already: name a new folder")
    folder.mkdir()
    shop = Shop(console, folder, timed=not asked.untimed)
    console.print(
        "[bold]The Ringpost shop[/]: accounts, mail, pricing and analytics, four processes on one SQLite file\n"
    )
    with contextlib.suppress(KeyboardInterrupt), shop.open() as boxes:
        asyncio.run(story(shop, boxes))
        if shop.claims.broken:
            console.print(f"\n[bold red]{len(shop.claims.broken)} claims did not hold.[/]")
        else:
            console.print("\n[bold green]Every claim held.[/]")
        if not asked.once:
            names = {name: process.url for name, process in shop.processes.items()}
            command = Path(sys.executable).parent / "ringpost"
            console.print(HELP.format(**names, store=shop.store, mailboxes=folder / "mailboxes", ringpost=command))
            while True:
                time.sleep(3600)
    return 1 if shop.claims.broken else 0


if __name__ == "__main__":
    sys.exit(main())
