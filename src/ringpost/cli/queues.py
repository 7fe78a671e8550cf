"""`ringpost queues`: what waits and for how long, how fast it comes and goes, and who works it."""

import asyncio
import getpass
import time
from collections.abc import Mapping, Sequence
from typing import Final

import click
from msgspec import Struct
from rich.live import Live
from rich.text import Text

from ringpost.cli.asked import LENGTH, json_option, settings_of, store_option
from ringpost.cli.output import age, console, print_json, print_table, table
from ringpost.cli.stores import instances, opened
from ringpost.contract.errors import UsageError, listed
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Depth, Note, Store

_EMPTY: Final = "No queue has ever had a message here, and no service is running."


class Row(Struct):
    """A queue as it is shown. Rates are per second; `consumers` counts live processes."""

    queue: str
    ready: int
    running: int
    scheduled: int
    waiting: int
    dead: int
    oldest_s: float | None
    in_rate: float
    out_rate: float
    consumers: int
    paused: str  # who paused it and why; empty: it isn't

    @property
    def lacks_consumer(self) -> bool:
        """Say whether something waits here that nobody alive takes."""
        return not self.consumers and bool(self.ready or self.scheduled or self.waiting)


class _Reading(Struct):
    depths: Mapping[str, Depth]
    at_s: float


@click.group(invoke_without_command=True)
@click.option("--watch", is_flag=True, help="Go on showing, until Ctrl-C.")
@click.option("--interval", type=LENGTH, default="1s", show_default=True, help="Between the two readings of a rate.")
@store_option
@json_option
@click.pass_context
def queues(ctx: click.Context, watch: bool, interval: float, store: str | None, as_json: bool) -> int:
    """Show what waits in the store, how long, and who works it; pause queues, and let them go on.

    Rates are from two readings, `--interval` apart.

    \b
    Examples:
      ringpost queues
      ringpost queues --watch
      ringpost queues pause shop.order --reason "bad data"
    """
    if ctx.invoked_subcommand is not None:
        return 0
    interval_s = max(0.1, interval)
    return asyncio.run(_queues(settings_of(store), interval_s, watch=watch, as_json=as_json))


@queues.command()
@click.argument("queue", metavar="QUEUE")
@click.option("--reason", default="", help="Why: it is shown.")
@store_option
def pause(queue: str, reason: str, store: str | None) -> int:
    """Let nobody take messages from QUEUE until it is resumed. What runs goes on; calls aren't touched.

    \b
    Example:
      ringpost queues pause shop.order --reason "bad data"
    """

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            known = {note.name.removeprefix(notes.QUEUE) for note in await opened_store.notes(notes.QUEUE)}
            known |= {depth.queue for depth in await opened_store.depths()}
            if queue not in known:
                there = f"There is {listed(sorted(known))}." if known else _EMPTY
                raise UsageError(f"No queue is called {queue!r} here. {there}")
            noted = notes.Pause(getpass.getuser(), wall_ms(), reason)
            await opened_store.note_put(Note(notes.pause(queue), notes.encode(noted)))
        click.echo(f"{queue} is paused")
        return 0

    return asyncio.run(work())


@queues.command()
@click.argument("queue", metavar="QUEUE")
@store_option
def resume(queue: str, store: str | None) -> int:
    """Let messages be taken from QUEUE again.

    \b
    Example:
      ringpost queues resume shop.order
    """

    async def work() -> int:
        async with opened(settings_of(store)) as opened_store:
            if not await opened_store.note_drop(notes.pause(queue)):
                raise UsageError(f"{queue} isn't paused.")
        click.echo(f"{queue} goes on")
        return 0

    return asyncio.run(work())


async def _queues(settings: Settings, interval_s: float, *, watch: bool, as_json: bool) -> int:
    async with opened(settings) as store:
        last = await _read(store)
        if not watch:
            await asyncio.sleep(interval_s)
            found = await rows(store, last, await _read(store))
            if as_json:
                print_json(found)
            else:
                print_table("", *_shown(found), empty=_EMPTY)
            return 0
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_s)
                reading = await _read(store)
                found = await rows(store, last, reading)
                last = reading
                if as_json:
                    print_json(found)
                else:
                    live.update(table("", *_shown(found)) if found else _EMPTY, refresh=True)


async def read_rows(store: Store) -> list[Row]:
    """Read the queues as they are now, without rates."""
    reading = await _read(store)
    return await rows(store, reading, reading)


async def rows(store: Store, first: _Reading, second: _Reading) -> list[Row]:
    """Make rows of two readings; queues that only consumers know of are among them."""
    consumers: dict[str, int] = {}
    for instance in (await instances(store)).values():
        for queue in instance.queues:
            consumers[queue] = consumers.get(queue, 0) + instance.processes
    paused = {
        note.name.removeprefix(notes.PAUSE): _told(notes.decode_pause(note.value))
        for note in await store.notes(notes.PAUSE)
    }
    length_s = max(0.001, second.at_s - first.at_s)
    now_ms = wall_ms()
    names = sorted({*second.depths, *consumers, *paused})
    return [
        _row(name, first.depths.get(name), second.depths.get(name), length_s, now_ms, consumers, paused)
        for name in names
    ]


async def _read(store: Store) -> _Reading:
    depths = await store.depths()
    return _Reading({depth.queue: depth for depth in depths}, time.monotonic())


def _row(
    name: str,
    first: Depth | None,
    second: Depth | None,
    length_s: float,
    now_ms: int,
    consumers: Mapping[str, int],
    paused: Mapping[str, str],
) -> Row:
    now = second or Depth(name, 0, 0, 0, 0, 0, None, 0, 0)
    before = first or Depth(name, 0, 0, 0, 0, 0, None, 0, 0)
    return Row(
        queue=name,
        ready=now.ready,
        running=now.running,
        scheduled=now.scheduled,
        waiting=now.waiting,
        dead=now.dead,
        oldest_s=None if now.oldest_ms is None else max(0.0, (now_ms - now.oldest_ms) / 1000),
        in_rate=max(0.0, round((now.puts - before.puts) / length_s, 1)),
        out_rate=max(0.0, round((now.ends - before.ends) / length_s, 1)),
        consumers=consumers.get(name, 0),
        paused=paused.get(name, ""),
    )


def _told(pause: notes.Pause) -> str:
    return f"by {pause.who or 'somebody'}{f': {pause.reason}' if pause.reason else ''}"


def _shown(rows: Sequence[Row]) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """Give columns and cells. Of the rare states only those are shown that something is in."""
    rare = [state for state in ("scheduled", "waiting") if any(getattr(row, state) for row in rows)]
    columns = ["queue", "ready#", "running#", *(f"{state}#" for state in rare), "dead#", "oldest#", "in/s#", "out/s#"]
    cells = [
        [
            row.queue,
            f"{row.ready:,}",
            f"{row.running:,}",
            *(f"{getattr(row, state):,}" for state in rare),
            Text(f"{row.dead:,}", style="red" if row.dead else ""),
            age(row.oldest_s),
            f"{row.in_rate:,.1f}",
            f"{row.out_rate:,.1f}",
            row.consumers,
            Text(_remark(row), style="yellow"),
        ]
        for row in rows
    ]
    return [*columns, "consumers#", ""], cells


def _remark(row: Row) -> str:
    if row.paused:
        return f"paused {row.paused}"
    return "no consumer" if row.lacks_consumer else ""
