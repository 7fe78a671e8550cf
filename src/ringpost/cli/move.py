"""`ringpost move`: what waits doesn't follow a changed URL by itself."""

import asyncio
import sys

import click

from ringpost.cli.asked import LENGTH, json_option, settings_of
from ringpost.cli.output import plain, print_json
from ringpost.cli.stores import opened, operator
from ringpost.store.moving import Moved, Terms
from ringpost.store.moving import move as move_rows


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--live", is_flag=True, help="Though processes work OLD: its queues are paused under them.")
@click.option("--without-ended", is_flag=True, help="Leave what has ended, with its keys and results, where it is.")
@click.option("--wait", type=LENGTH, default="60s", show_default=True, help="How long to wait for what runs in OLD.")
@json_option
def move(old: str, new: str, live: bool, without_ended: bool, wait: float, as_json: bool) -> int:
    """Move all messages from the store OLD to the store NEW, as they are: what waits, is scheduled or dead, what has
    ended, and the logs of events. Both are URLs; NEW must be there.

    Ids, keys, attempts, errors and the order of each ordering key stay. If it is stopped, the same command goes on.
    Exit code 1: something stays in OLD, whose queues stay paused then.

    \b
    Examples:
      ringpost move sqlite:///ringpost.db postgresql://shop@db.example/shop
      ringpost move postgresql://shop@old.example/shop postgresql://shop@new.example/shop --live
    """

    async def work() -> Moved:
        async with opened(settings_of(old)) as source, opened(settings_of(new)) as target:
            terms = Terms(who=operator(), live=live, ended=not without_ended, wait_s=wait)
            return await move_rows(source, target, terms, _show)

    moved = asyncio.run(work())
    if sys.stderr.isatty():
        click.echo(err=True)
    if as_json:
        print_json(moved)
    else:
        _tell(moved)
    return 0 if moved.complete else 1


def _show(moved: Moved) -> None:
    if sys.stderr.isatty():
        waiting = f", {moved.running:,} are running" if moved.running else ""
        click.echo(f"\rmoved {moved.total + moved.told:,}{waiting}    ", nl=False, err=True)


def _stays(event: str) -> str:
    return (
        f"the log of {event} stays in the old store, or a part of it: services work the new one, {event} was published "
        "there since, or something of it is damaged"
    )


def _tell(moved: Moved) -> None:
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(moved.rows.items()))
    click.echo(f"moved {moved.total:,} messages{f': {states}' if states else ''}")
    if moved.told:
        click.echo(f"moved {moved.told:,} events of logs")
    if moved.known:
        click.echo(f"{moved.known:,} of them were there already")
    for event in moved.logs:
        click.echo(plain(_stays(event)), err=True)
    if moved.running:
        click.echo(f"ringpost: {moved.running:,} are still running there; repeat this when they have ended", err=True)
    if moved.left:
        click.echo(f"ringpost: {moved.left:,} stay where they are:", err=True)
        for one in moved.examples:
            click.echo(plain(f"  {one.id} ({one.queue}): {one.why}"), err=True)
    if not moved.complete:
        click.echo("ringpost: its queues stay paused until a move comes to its end; see `ringpost queues`", err=True)
