"""`ringpost dead replay`: have dead letters handled again, by a plan, or see first which would be read."""

import asyncio
from collections.abc import Sequence

import click

from ringpost.cli.asked import LENGTH, json_option, settings_of, store_option
from ringpost.cli.dead.choosing import check_asked, check_queue, dead_ones
from ringpost.cli.dead.orders import Orders
from ringpost.cli.dead.plan import Plan
from ringpost.cli.dead.rehearsal import Rehearsal, rehearse
from ringpost.cli.stores import opened
from ringpost.contract.errors import UsageError
from ringpost.core.message import Cause
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--queue", metavar="QUEUE", help="With --all: of this queue alone.")
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--cause", type=click.Choice([cause.word for cause in Cause]), help="With --all: of this cause alone.")
@click.option("--error", metavar="TEXT", help="With --all: whose last error says this.")
@click.option("--within", type=LENGTH, help="With --all: that died within this time, as 2h.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="At most so many a second.")
@click.option("--canary", type=click.IntRange(1), help="One first, then so many, the rest once those ended well.")
@click.option("--dry-run", is_flag=True, help="With --all: only say which fit what their service reads now.")
@click.option("--wait", type=LENGTH, default="60s", show_default=True, help="How long a canary may take.")
@store_option
@json_option
def replay(
    ids: tuple[str, ...],
    queue: str | None,
    every: bool,
    cause: str | None,
    error: str | None,
    within: float | None,
    limit: int | None,
    rate: float | None,
    canary: int | None,
    dry_run: bool,
    wait: float,
    store: str | None,
    as_json: bool,
) -> int:
    """Have dead letters handled again: by ID, or all of a queue. They keep their ids; attempts begin anew.

    They go the oldest first, so those of one ordering key keep their order. If it is stopped, the same command goes on
    with what is still dead.

    \b
    Examples:
      ringpost dead replay 01a205a1-ee60-74a2-a575-523908deee40
      ringpost dead replay --queue mail.welcome --all --canary 10 --rate 50
      ringpost dead replay --all --cause handler_error --error "connection refused" --within 2h
    """
    check_asked(ids, queue, every, "replay")
    if ids and (cause or error or within or canary or dry_run):
        raise UsageError("--cause, --error, --within, --canary and --dry-run are for --all; ids are chosen already.")
    plan = Plan(
        queue=queue,
        cause=cause,
        error=error,
        died_after_ms=None if within is None else wall_ms() - round(within * 1000),
        limit=limit,
        rate=rate,
        canary=canary or 0,
        canary_wait_s=wait,
    )
    settings = settings_of(store)
    if dry_run:
        return asyncio.run(_rehearsed(plan, settings)).tell(as_json=as_json)
    return asyncio.run(_replayed(ids, plan, settings)).tell(as_json=as_json)


async def _replayed(ids: Sequence[str], plan: Plan, settings: Settings) -> Orders:
    async with opened(settings) as store:
        orders = Orders(store, "replay")
        if ids:
            await orders.give(await dead_ones(store, ids), "by id")
            return orders
        if plan.queue is not None:
            await check_queue(store, plan.queue)
        await orders.follow(plan)
        return orders


async def _rehearsed(plan: Plan, settings: Settings) -> Rehearsal:
    async with opened(settings) as store:
        if plan.queue is not None:
            await check_queue(store, plan.queue)
        return await rehearse(store, plan, settings)
