"""`ringpost maintenance`: close a service for a time; calls are told when to come again, messages wait."""

import asyncio
import getpass
from typing import Final

import click
from msgspec import Struct

from ringpost.cli.asked import LENGTH, Rate, json_option, settings_of, store_option
from ringpost.cli.output import age, instant, print_json, print_table
from ringpost.cli.stores import instances, opened
from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.core.maintenance import Window
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Note, Store

LONGEST_S: Final = 7 * 24 * 3600.0
_EMPTY: Final = "No service is closed."


class Row(Struct):
    """A window as it is shown."""

    service: str
    state: str  # closed, draining
    until: str | None
    remaining_s: float
    rate: float
    who: str
    reason: str


@click.group(invoke_without_command=True)
@store_option
@json_option
@click.pass_context
def maintenance(ctx: click.Context, store: str | None, as_json: bool) -> int:
    """Close services for a time, and show which are.

    A closed service answers calls with 503 and when to come again, or with a ticket where the caller takes one. Its
    messages wait; afterwards they are drained at the rate that was set.

    \b
    Examples:
      ringpost maintenance start accounts --for 30m --rate 100 --reason "new disk"
      ringpost maintenance
      ringpost maintenance end accounts
    """
    if ctx.invoked_subcommand is not None:
        return 0

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            _print(await read_windows(opened_store), as_json=as_json)
        return 0

    return asyncio.run(work())


@maintenance.command()
@click.argument("service")
@click.option("--for", "length_s", type=LENGTH, required=True, help="How long, as 30m; at most 7 days.")
@click.option("--rate", type=Rate(none=True), default=0.0, help="Messages per second and queue afterwards.")
@click.option("--reason", default="", help="Why: it is told to callers.")
@click.option("--force", is_flag=True, help="Even if no process of the service is known.")
@store_option
def start(service: str, length_s: float, rate: float, reason: str, force: bool, store: str | None) -> int:
    """Close SERVICE from now on. Every process on the store obeys within a second. Repeating it sets it anew.

    \b
    Example:
      ringpost maintenance start accounts --for 30m --rate 100 --reason "new disk"
    """
    if not 0 < length_s <= LONGEST_S:
        raise UsageError("--for takes more than 0 and at most 7 days; a service that is away for longer is stopped.")
    if len(reason) > 200 or not reason.isprintable():
        raise UsageError("--reason takes at most 200 characters, on one line.")

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            await _check_service(opened_store, service, force=force)
            now_ms = wall_ms()
            window = Window(now_ms + int(length_s * 1000), rate, reason, getpass.getuser(), now_ms)
            await opened_store.note_put(Note(notes.maintenance(service), notes.encode(window)))
            click.echo(f"{service} is closed until {instant(window.until_ms)}")
        return 0

    return asyncio.run(work())


@maintenance.command()
@click.argument("service")
@click.option("--rate", type=Rate(none=True), help="Drain at this rate instead; 0: as fast as it goes.")
@store_option
def end(service: str, rate: float | None, store: str | None) -> int:
    """Open SERVICE again now. What waited is drained at the rate that was set.

    \b
    Example:
      ringpost maintenance end accounts
    """

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            found = await opened_store.notes(notes.maintenance(service))
            note = next((one for one in found if one.name == notes.maintenance(service)), None)
            if note is None:
                raise UsageError(f"{service} isn't closed.")
            was = notes.decode_maintenance(note.value)
            now_ms = wall_ms()
            window = Window(min(was.until_ms, now_ms), was.rate if rate is None else rate, was.reason, was.who, now_ms)
            if window.rate > 0:
                await opened_store.note_put(Note(note.name, notes.encode(window)))
                click.echo(f"{service} is open again; each of its queues is drained with {window.rate:g} messages/s")
            else:
                await opened_store.note_drop(note.name)
                click.echo(f"{service} is open again")
        return 0

    return asyncio.run(work())


async def read_windows(store: Store) -> list[Row]:
    """Read the windows of a store that say something still."""
    now_ms = wall_ms()
    rows: list[Row] = []
    for note in await store.notes(notes.MAINTENANCE):
        window = notes.decode_maintenance(note.value)
        if not window.over(now_ms):
            rows.append(
                Row(
                    note.name.removeprefix(notes.MAINTENANCE),
                    "closed" if window.closed(now_ms) else "draining",
                    instant(window.until_ms),
                    max(0.0, (window.until_ms - now_ms) / 1000),
                    window.rate,
                    window.who,
                    window.reason,
                )
            )
    return rows


async def _check_service(store: Store, service: str, *, force: bool) -> None:
    """Refuse a name that no process knows: a typing error would close nothing."""
    known = {notes.decode_queue(note.value).service for note in await store.notes(notes.QUEUE)} - {""}
    if service not in known and not force:
        running = "" if await instances(store) else " No process runs."
        there = f"There is {', '.join(sorted(known))}." if known else "No service was ever started on this store."
        raise UsageError(
            f"No service is called {service!r} here. {there}{running} Use --force to close it all the same."
        )


def _print(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    cells = [
        (
            row.service,
            row.state,
            row.until,
            age(row.remaining_s),
            f"{row.rate:g}/s" if row.rate else "",
            row.who,
            row.reason,
        )
        for row in rows
    ]
    print_table("", ("service", "state", "until", "for#", "drained at", "who", "why"), cells, empty=_EMPTY)
