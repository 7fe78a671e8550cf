"""`ringpost dead replay`: have dead letters handled again, by a plan, or see first what would become of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import click

from ringpost.cli.asked import LENGTH, Rate, json_option, settings_of, store_option
from ringpost.cli.dead.choosing import check_asked, check_queue, dead_ones
from ringpost.cli.dead.orders import Orders
from ringpost.cli.dead.plan import Plan, found
from ringpost.cli.dead.rehearsal import Findings, Rehearsing
from ringpost.cli.running import here_on_path, load_service
from ringpost.cli.stores import opened
from ringpost.contract.errors import UsageError
from ringpost.core.message import Cause, Record
from ringpost.service.rehearsal import Rehearsal
from ringpost.service.service import Service
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Store


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--queue", metavar="QUEUE", help="With --all: of this queue alone.")
@click.option("--all", "every", is_flag=True, help="Every dead letter.")
@click.option("--cause", type=click.Choice([cause.word for cause in Cause]), help="With --all: of this cause alone.")
@click.option("--error", metavar="TEXT", help="With --all: whose last error says this.")
@click.option("--within", type=LENGTH, help="With --all: that died within this time, as 2h.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--rate", type=Rate(), help="At most so many a second.")
@click.option("--canary", type=click.IntRange(1), help="One first, then so many, the rest once those ended well.")
@click.option("--dry-run", is_flag=True, help="Replay nothing; say what would become of them.")
@click.option(
    "--service",
    "targets",
    multiple=True,
    metavar="MODULE:SERVICE",
    help="With --dry-run: run its handlers that allow it, without effect.",
)
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
    targets: tuple[str, ...],
    wait: float,
    store: str | None,
    as_json: bool,
) -> int:
    """Have dead letters handled again: by ID, or all of a queue. They keep their ids; attempts begin anew.

    They go the oldest first, so those of one ordering key keep their order. If it is stopped, the same command goes on
    with what is still dead.

    --dry-run says which requests are read by what their services have noted. With --service it reads them with that
    code, and runs handlers that are declared with dry_run=True: what they send is shown and not sent, their Transaction
    is undone, and the letters stay as they are.

    \b
    Examples:
      ringpost dead replay 01a205a1-ee60-74a2-a575-523908deee40
      ringpost dead replay --queue mail.welcome --all --canary 10 --rate 50
      ringpost dead replay --all --cause handler_error --error "connection refused" --within 2h
      ringpost dead replay --queue mail.welcome --all --dry-run --service mail:mail
    """
    check_asked(ids, queue, every, "replay")
    if ids and (cause or error or within or canary):
        raise UsageError("--cause, --error, --within and --canary are for --all; ids are chosen already.")
    if targets and not dry_run:
        raise UsageError("--service is for --dry-run: a replay is handled by the services that run.")
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
        here_on_path()
        services = [load_service(target) for target in targets]
        code = asyncio.run(_rehearsed(ids, plan, settings, services, aloud=not as_json)).tell(as_json=as_json)
        if not services:
            click.echo("ringpost: no handler was run; --service MODULE:SERVICE runs those that allow it.", err=True)
        return code
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


async def _rehearsed(
    ids: Sequence[str], plan: Plan, settings: Settings, services: Sequence[Service], *, aloud: bool
) -> Findings:
    async with opened(settings) as store:
        if plan.queue is not None:
            await check_queue(store, plan.queue)
        records = _each(await dead_ones(store, ids, bodies=True)) if ids else found(store, plan, bodies=True)
        async with _rehearsal(services, store, settings) as rehearsal:
            return await Rehearsing(store, settings, rehearsal, aloud=aloud).findings(records)


@asynccontextmanager
async def _rehearsal(
    services: Sequence[Service], store: Store, settings: Settings
) -> AsyncGenerator[Rehearsal | None, None]:
    """Give what runs the handlers; None without services."""
    if not services:
        yield None
        return
    async with Rehearsal(services, store, settings) as rehearsal:
        yield rehearsal


async def _each(records: Sequence[Record]) -> AsyncIterator[Record]:
    for record in records:
        yield record
