"""`ringpost breakers`: which calls are broken off, in which process and why; how to hold a breaker open or closed."""

import asyncio
import difflib
import re
from typing import Final, Literal

import click
from msgspec import Struct

from ringpost.cli.asked import SOME_LENGTH, json_option, settings_of, store_option
from ringpost.cli.output import age, by, plain, print_json, print_table
from ringpost.cli.stores import opened, operator
from ringpost.client.target import target_of
from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Note, Store

_EMPTY: Final = "No breaker is open, and none is held by an operator."
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,40}(\.[a-z][a-z0-9_]{0,40})?")


class Row(Struct):
    """A breaker that isn't closed, or what an operator asks for. `process`: host and pid, empty for what is asked."""

    operation: str
    target: str
    state: str
    since_s: float | None
    process: str
    said: str


@click.group(invoke_without_command=True)
@store_option
@json_option
@click.pass_context
def breakers(ctx: click.Context, store: str | None, as_json: bool) -> int:
    """Show which calls are broken off; hold a breaker open or closed, or let it go.

    \b
    Examples:
      ringpost breakers
      ringpost breakers open billing.charge --for 10m --reason "their database is being moved"
      ringpost breakers auto billing.charge
    """
    return 0 if ctx.invoked_subcommand is not None else asyncio.run(_show(settings_of(store), as_json=as_json))


def _holding(forced: Literal["open", "closed"], text: str) -> click.Command:
    @click.argument("name", metavar="CONTRACT[.OPERATION]")
    @click.option("--at", metavar="URL", help="Only at this target (default: wherever it is called).")
    @click.option("--for", "length_s", type=SOME_LENGTH, help="Let it go by itself after so long (default: never).")
    @click.option("--reason", default="", help="For whoever looks at it later.")
    @click.option("--force", is_flag=True, help="Even where it looks like a slip of another name.")
    @store_option
    def command(name: str, at: str | None, length_s: float | None, reason: str, force: bool, store: str | None) -> int:
        value = notes.encode(notes.Override(forced, operator(), wall_ms(), reason))
        note = Note(notes.override(_named(name, at)), value, lease_s=length_s)
        return asyncio.run(_hold(settings_of(store), name, note, f"{name} is held {forced}", force=force))

    return breakers.command("open" if forced == "open" else "close", help=text)(command)


_holding("open", "Don't call it any more, in any process on the store, until it is let go.")
_holding("closed", "Call it whatever happens, in any process on the store, until it is let go.")


@breakers.command()
@click.argument("name", metavar="CONTRACT[.OPERATION]")
@click.option("--at", metavar="URL", help="As it was said when it was held.")
@store_option
def auto(name: str, at: str | None, store: str | None) -> int:
    """Let go what was held open or closed: the breaker decides by itself again."""
    return asyncio.run(_let_go(settings_of(store), _named(name, at)))


async def read_breakers(store: Store) -> list[Row]:
    """Read what processes show, and what operators ask for."""
    now_ms = wall_ms()
    rows: list[Row] = []
    for note in await store.notes(notes.OVERRIDE):
        asked = notes.decode_override(note.value)
        name, _, target = note.name.removeprefix(notes.OVERRIDE).partition("@")
        held_s = (now_ms - asked.at_ms) / 1000
        rows.append(Row(name, target, f"held {asked.forced}", held_s, "", by(asked.who, asked.reason)))
    for note in await store.notes(notes.BREAKERS):
        shown = notes.decode_breakers(note.value)
        for one in shown.breakers:
            since_s = (now_ms - one.since_ms) / 1000 if one.since_ms else None
            state = one.state.replace("_", " ") + (f", held {one.forced}" if one.forced else "")
            rows.append(Row(one.operation, one.target, state, since_s, f"{shown.host} {shown.pid}", one.error))
    return sorted(rows, key=lambda row: (row.operation, row.target, row.process))


async def _show(settings: Settings, *, as_json: bool) -> int:
    async with opened(settings) as store:
        rows = await read_breakers(store)
    if as_json:
        print_json(rows)
        return 0
    cells = [
        (row.operation, row.target or "everywhere", row.state, age(row.since_s), row.process, plain(row.said))
        for row in rows
    ]
    print_table("", ("operation", "target", "state", "for#", "process", ""), cells, empty=_EMPTY)
    return 0


async def _hold(settings: Settings, name: str, note: Note, said: str, *, force: bool) -> int:
    async with opened(settings) as store:
        if not force:
            await _check_meant(settings, store, name)
        await store.note_put(note)
    click.echo(f"{said}; processes that call it see it within about a second of their next call")
    return 0


async def _check_meant(settings: Settings, store: Store, name: str) -> None:
    """Refuse a name that nobody here has heard of where it is close to one that somebody has. Others may well be right:
    what is behind an address is known to those who call it alone."""
    if name.partition(".")[0] in settings.addresses:
        return
    known = {note.name.removeprefix(notes.OPERATION) for note in await store.notes(notes.OPERATION)}
    known.update(row.operation for row in await read_breakers(store) if row.process)
    known |= {one.partition(".")[0] for one in known}
    near = [] if name in known else difflib.get_close_matches(name, sorted(known), 1)
    if near:
        raise UsageError(f"nobody here has ever served or called {name}. Did you mean {near[0]}? If not, use --force.")


async def _let_go(settings: Settings, name: str) -> int:
    async with opened(settings) as store:
        held = [note.name.removeprefix(notes.OVERRIDE) for note in await store.notes(notes.OVERRIDE)]
        if name not in held:
            there = f"What is held: {', '.join(held)}." if held else "Nothing is."
            raise UsageError(f"{name} isn't held open or closed. {there}")
        await store.note_drop(notes.override(name))
    click.echo(f"{name} is left to itself again")
    return 0


def _named(name: str, at: str | None) -> str:
    """Give the name of what is held, as the note has it."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is neither a contract nor an operation: write billing or billing.charge.")
    return name if at is None else f"{name}@{target_of(at).url}"
