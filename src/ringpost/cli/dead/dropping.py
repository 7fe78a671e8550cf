"""`ringpost dead drop`: remove dead letters for good."""

import asyncio
import sys

import click

from ringpost.cli.asked import json_option, settings_of, store_option
from ringpost.cli.dead.choosing import check_asked, check_queue, dead_ones
from ringpost.cli.dead.orders import Orders
from ringpost.cli.dead.plan import Plan
from ringpost.cli.stores import opened
from ringpost.contract.errors import UsageError


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--queue", metavar="QUEUE", help="With --all: of this queue alone.")
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@store_option
@json_option
def drop(ids: tuple[str, ...], queue: str | None, every: bool, yes: bool, store: str | None, as_json: bool) -> int:
    """Remove dead letters for good: by ID, or all of a queue. The store notes who did it.

    \b
    Examples:
      ringpost dead drop 01a205a1-ee60-74a2-a575-523908deee40
      ringpost dead drop --queue mail.welcome --all --yes
    """
    check_asked(ids, queue, every, "drop")
    if every and not yes and not _confirmed(queue):
        return 1

    async def work() -> Orders:
        async with opened(settings_of(store)) as opened_store:
            orders = Orders(opened_store, "drop")
            if ids:
                await orders.give(await dead_ones(opened_store, ids), "by id")
                return orders
            if queue is not None:
                await check_queue(opened_store, queue)
            await orders.follow(Plan(queue=queue))
            return orders

    return asyncio.run(work()).tell(as_json=as_json)


def _confirmed(queue: str | None) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("dropping them all can't be undone: add --yes.")
    return click.confirm(f"Drop every dead letter{f' of {queue}' if queue else ''} for good?", err=True)
