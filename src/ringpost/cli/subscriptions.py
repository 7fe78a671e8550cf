"""`ringpost subscriptions`: who listens to which event. A subscription stays until it is removed here."""

import asyncio
from typing import Final

import click
from msgspec import Struct

from ringpost.cli.asked import json_option, settings_of, store_option
from ringpost.cli.output import age, instant, print_json, print_table
from ringpost.cli.stores import instances, opened
from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Store

UNSEEN_S: Final = 24 * 3600.0
_EMPTY: Final = "Nobody subscribes to an event here."


class Row(Struct):
    """A subscription as it is shown. `missed`: events that a suspended one didn't get."""

    event: str
    queue: str
    service: str
    state: str  # live, unseen, suspended
    seen_s: float
    waiting: int
    missed: int
    missed_since: str | None


@click.group()
def subscriptions() -> None:
    """List and remove subscriptions to events."""


@subscriptions.command("list")
@store_option
@json_option
def list_subscriptions(store: str | None, as_json: bool) -> int:
    """Show who subscribes to what, when it was last seen, and what waits for it.

    \b
    Example:
      ringpost subscriptions list
    """

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            _print(await read_subscriptions(opened_store), as_json=as_json)
        return 0

    return asyncio.run(work())


@subscriptions.command()
@click.argument("event", metavar="EVENT")
@click.argument("queue", metavar="QUEUE")
@click.option("--force", is_flag=True, help="Even while a process is running that will subscribe again.")
@store_option
@json_option
def remove(event: str, queue: str, force: bool, store: str | None, as_json: bool) -> int:
    """Remove the subscription of QUEUE to EVENT: it gets no event any more. What waits there stays.

    \b
    Example:
      ringpost subscriptions remove accounts.registered analytics.on.accounts.registered
    """
    return asyncio.run(_remove(settings_of(store), event, queue, force=force, as_json=as_json))


async def read_subscriptions(store: Store) -> list[Row]:
    """Read the subscriptions of a store."""
    depths = {depth.queue: depth.ready + depth.scheduled + depth.waiting for depth in await store.depths()}
    alive = {queue for instance in (await instances(store)).values() for queue in instance.queues}
    now_ms = wall_ms()
    found: list[Row] = []
    for note in await store.notes(notes.SUBSCRIPTION):
        event, _, queue = note.name.removeprefix(notes.SUBSCRIPTION).partition("/")
        noted = notes.decode_subscription(note.value)
        seen_s = 0.0 if queue in alive else max(0.0, (now_ms - noted.seen_ms) / 1000)
        state = "suspended" if noted.suspended else "unseen" if seen_s > UNSEEN_S else "live"
        since = instant(noted.gap_from_ms) if noted.gap_from_ms else None
        found.append(Row(event, queue, noted.service, state, seen_s, depths.get(queue, 0), noted.gap_count, since))
    return found


async def _remove(settings: Settings, event: str, queue: str, *, force: bool, as_json: bool) -> int:
    async with opened(settings) as store:
        known = await read_subscriptions(store)
        row = next((one for one in known if one.event == event and one.queue == queue), None)
        if row is None:
            there = [f"{one.event} {one.queue}" for one in known if event in (one.event, one.queue)] or [
                f"{one.event} {one.queue}" for one in known
            ]
            hint = f"There is {'; '.join(there[:5])}." if there else _EMPTY
            raise UsageError(f"{queue} doesn't subscribe to {event}. {hint}")
        alive = [one for one in (await instances(store)).values() if queue in one.queues]
        if alive and not force:
            raise UsageError(
                f"{row.service or 'its service'} is running (pid {alive[0].pid} on {alive[0].host}) and would "
                "subscribe again: stop it or take the handler out first, or use --force."
            )
        await store.note_drop(notes.subscription(event, queue))
        if as_json:
            print_json({"removed": {"event": event, "queue": queue}, "waiting": row.waiting})
            return 0
        click.echo(f"{queue} doesn't get {event} any more")
        if row.waiting:
            click.echo(f"{row.waiting:,} that came before wait there still", err=True)
    return 0


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    cells = [(row.event, row.queue, row.service, row.state, _seen(row), f"{row.waiting:,}", _gap(row)) for row in rows]
    print_table("", ("event", "queue", "service", "state", "seen#", "waiting#", ""), cells, empty=_EMPTY)


def _seen(row: Row) -> str:
    return "now" if not row.seen_s else f"{age(row.seen_s)} ago"


def _gap(row: Row) -> str:
    return f"missed {row.missed:,} since {row.missed_since}: lost" if row.missed else ""
