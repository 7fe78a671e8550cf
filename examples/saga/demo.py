"""The saga, live: orders are placed while its services are killed, and the books are checked at the end.

usage: python demo.py [--once]     (with --once it ends by itself; exit code 0 only if every order's story is whole)
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from books import contradictions, open_orders
from rich.console import Console
from rich.live import Live
from rich.table import Table
from saga_processes import NAMES, Processes
from trade import Order, Orders

from ringpost import Client

ORDERS = 200
KILLS = 8
WAIT_S = 60.0


def orders_of(chance: random.Random) -> list[Order]:
    """Make orders of which some can't be paid for and some can't be shipped."""
    cards, addresses = ["visa", "visa", "visa", "empty"], ["Bath", "Bath", "Bath", "moon"]
    return [Order(f"tea{i}", chance.choice(cards), chance.choice(addresses), 900) for i in range(ORDERS)]


def picture(processes: Processes, killed: Counter[str]) -> Table:
    """Show how many orders stand where."""
    states = Counter(str(state) for (state,) in processes.query("SELECT state FROM sale"))
    table = Table("pending", "paid", "refunding", "shipped", "cancelled", "killed -9")
    names = ("pending", "paid", "refunding", "shipped", "cancelled")
    table.add_row(*[str(states[name]) for name in names], ", ".join(f"{n} × {name}" for name, n in killed.items()))
    return table


async def buy(processes: Processes, chance: random.Random, live: Live) -> bool:
    """Send all orders, kill services meanwhile, and wait until every order has ended; False if one doesn't."""
    killed: Counter[str] = Counter()
    bought = orders_of(chance)
    size = ORDERS // KILLS
    async with Client(store=processes.store) as client:
        for first in range(0, ORDERS, size):
            await client.send_all(Orders.place, bought[first : first + size])
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            name = chance.choice(NAMES)
            processes.kill(name)
            killed[name] += 1
            live.update(picture(processes, killed))
            processes.start(name)
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        live.update(picture(processes, killed))
        if processes.query("SELECT count(*) FROM sale") == [(ORDERS,)] and not open_orders(processes.query):
            return True
        await asyncio.sleep(0.05)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the story")
    once = parser.parse_args().once
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    seed = random.randrange(1 << 32)
    console.print(f"{ORDERS} orders, three processes, {KILLS} of them killed with -9 on the way (seed {seed})")
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder)) as processes:
        with Live(console=console, refresh_per_second=10) as live:
            all_ended = asyncio.run(buy(processes, random.Random(seed), live))
        console.print()
        wrong = contradictions(processes.query)
        for line in wrong:
            console.print(f"[red]✗[/] {line}")
        whole = all_ended and not wrong
        console.print(
            "[green]✓[/] every order has ended: shipped and paid for, or cancelled and not paid for"
            if whole
            else "[red]✗[/] not every order's story is whole"
        )
        if not once:
            console.print(
                f"Look around with `ringpost queues --store {processes.store}`; Ctrl-C ends it.", soft_wrap=True
            )
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
