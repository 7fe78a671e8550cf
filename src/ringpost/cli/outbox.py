"""`ringpost outbox`: the table in a business database that messages leave from with a commit."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import click

from ringpost.cli.asked import json_option, outbox_option
from ringpost.cli.output import age, instant, print_json, print_table
from ringpost.contract.errors import UsageError
from ringpost.relay import table
from ringpost.relay.port import Aside, Table, TableAway, Waiting, table_for
from ringpost.settings import load
from ringpost.store.hostclock import wall_ms
from ringpost.store.lent import Dialect

_SHOWN_MAX = 100


@click.group()
def outbox() -> None:
    """Make the table ringpost_outbox in a business database, and look into it."""


@outbox.command()
@click.option("--dialect", type=click.Choice(table.DIALECTS), default="sqlite", show_default=True)
def ddl(dialect: Dialect) -> None:
    """Print the statement that makes the table, for a migration.

    \b
    Example:
      ringpost outbox ddl | sqlite3 shop.db
    """
    click.echo(f"{table.ddl(dialect)};")


@outbox.command()
@outbox_option
def create(outbox: str | None) -> None:
    """Make the table, where it isn't there yet.

    \b
    Example:
      ringpost outbox create --outbox sqlite:///shop.db
    """

    async def make() -> str:
        async with _opened(outbox) as found:
            await found.make()
            return found.shown

    click.echo(f"the table {table.NAME} is in {asyncio.run(make())}")


@outbox.command()
@outbox_option
@json_option
def show(outbox: str | None, as_json: bool) -> int:
    """Show how many messages wait in the table, and those that are in trouble. The exit code is 1 where any is.

    \b
    Example:
      ringpost outbox show --outbox sqlite:///shop.db
    """

    async def look() -> tuple[str, Waiting, list[Aside]]:
        async with _opened(outbox) as found:
            return found.shown, await found.waiting(), await found.aside(_SHOWN_MAX)

    shown, waiting, aside = asyncio.run(look())
    if as_json:
        print_json({"outbox": shown, "waiting": waiting, "aside": aside})
    else:
        oldest_s = None if waiting.oldest_ms is None else (wall_ms() - waiting.oldest_ms) / 1000
        click.echo(f"{shown}: {waiting.count:,} wait, the oldest for {age(oldest_s)}; {waiting.aside:,} are set aside")
        if aside:
            rows = [(one.seq, one.id, one.target, instant(one.sent_ms), one.trouble) for one in aside]
            print_table("", ("seq#", "id", "target", "sent", "trouble"), rows, empty="")
    return 1 if waiting.aside else 0


@asynccontextmanager
async def _opened(outbox: str | None) -> AsyncGenerator[Table, None]:
    settings = load({} if outbox is None else {"outbox": outbox})
    if settings.outbox is None:
        raise UsageError("no outbox is configured: name one with --outbox sqlite:///shop.db, or set `outbox`.")
    found = table_for(settings.outbox, settings.store)
    try:
        yield found
    except TableAway as error:
        raise UsageError(f"{found.shown} can't be used: {error}.") from error
    finally:
        await found.close()
