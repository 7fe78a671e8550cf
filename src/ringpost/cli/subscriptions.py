"""`ringpost subscriptions`: who listens to which event. A subscription stays until it is removed here."""

import asyncio
from typing import Final

import click
from msgspec import Struct

from ringpost.cli.asked import json_option, settings_of, store_option
from ringpost.cli.output import age, instant, print_json, print_table
from ringpost.cli.stores import instances, opened, process_of
from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.core.subscription import refilled
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import CaughtUp, Note, Store

UNSEEN_S: Final = 24 * 3600.0
_EMPTY: Final = "Nobody subscribes to an event here."


class Row(Struct):
    """A subscription as it is shown. `missed`: events that a suspended one didn't get; `refillable`: a log has them."""

    event: str
    queue: str
    service: str
    state: str  # live, unseen, suspended, catching up
    seen_s: float
    waiting: int
    missed: int
    missed_since: str | None
    refillable: bool


@click.group()
def subscriptions() -> None:
    """List, refill and remove subscriptions to events."""


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
@store_option
@json_option
def refill(event: str, queue: str, store: str | None, as_json: bool) -> int:
    """Give the subscription of QUEUE what it missed of EVENT while it was suspended, out of the event's log, in order.

    What comes meanwhile it gets after that. Where its queue is full, or its service isn't back yet, the service goes on
    with it. Repeating it is harmless.

    \b
    Example:
      ringpost subscriptions refill accounts.registered analytics.on.accounts.registered
    """
    return asyncio.run(_refill(settings_of(store), event, queue, as_json=as_json))


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
        state = "catching up" if noted.behind else "unseen" if seen_s > UNSEEN_S else "live"
        state = "suspended" if noted.suspended else state
        since = instant(noted.gap_from_ms) if noted.gap_from_ms else None
        gap = (noted.gap_count, since, bool(noted.gap_at))
        found.append(Row(event, queue, noted.service, state, seen_s, depths.get(queue, 0), *gap))
    return found


async def _refill(settings: Settings, event: str, queue: str, *, as_json: bool) -> int:
    async with opened(settings) as store:
        await _known(store, event, queue)
        name = notes.subscription(event, queue)
        before = await _set_behind(store, name)
        given, done = 0, CaughtUp(behind=True, more=True)
        while done.behind and done.more:
            done = await store.catch_up(event, queue)
            given += done.given
            click.echo(f"\r{given:,} given of {before.gap_count:,} missed ", nl=False, err=True)
        click.echo("", err=True)
        if as_json:
            print_json(
                {"event": event, "queue": queue, "missed": before.gap_count, "given": given, "ends": not done.behind}
            )
        elif not done.behind:
            click.echo(f"{queue} got {given:,} events of {event}, and gets new ones at once again")
        else:
            why = (
                "its service isn't back yet" if before.suspended else "so many wait in its queue, or somebody publishes"
            )
            click.echo(f"{queue} got {given:,} events of {event} so far; {why}: its service goes on with it")
    return 0


async def _set_behind(store: Store, name: str) -> notes.Subscription:
    """Let a subscription read on from what it missed first; gives it as it was. One that does so already stays so."""
    while True:
        (note,) = [one for one in await store.notes(name) if one.name == name]
        before = notes.decode_subscription(note.value)
        event, queue = notes.subscribed(name)
        if before.behind:
            return before
        if not before.gap_count:
            raise UsageError(f"{queue} missed nothing of {event}: there is nothing to refill.")
        if not before.gap_at:
            raise UsageError(
                f"{queue} missed {before.gap_count:,} of {event}, and no log had them: they are lost. With `keep=` an "
                "event has one from then on."
            )
        if await store.note_put(Note(name, notes.encode(refilled(before))), expect=note.version):
            return before  # else somebody just published or came back: it is read anew


async def _known(store: Store, event: str, queue: str) -> Row:
    """Give a subscription. Raises UsageError, which says what there is."""
    known = await read_subscriptions(store)
    row = next((one for one in known if one.event == event and one.queue == queue), None)
    if row is None:
        there = [f"{one.event} {one.queue}" for one in known if event in (one.event, one.queue)] or [
            f"{one.event} {one.queue}" for one in known
        ]
        hint = f"There is {'; '.join(there[:5])}." if there else _EMPTY
        raise UsageError(f"{queue} doesn't subscribe to {event}. {hint}")
    return row


async def _remove(settings: Settings, event: str, queue: str, *, force: bool, as_json: bool) -> int:
    async with opened(settings) as store:
        row = await _known(store, event, queue)
        alive = [one for one in (await instances(store)).values() if queue in one.queues]
        if alive and not force:
            raise UsageError(
                f"{row.service or 'its service'} is running ({process_of(alive[0])}) and would "
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
    fate = "refill gives it" if row.refillable else "lost"
    return f"missed {row.missed:,} since {row.missed_since}: {fate}" if row.missed else ""
