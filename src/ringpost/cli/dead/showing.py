"""`ringpost dead show`: everything that is known of one dead letter."""

import asyncio

import click

from ringpost.cli.asked import json_option, settings_of, store_option
from ringpost.cli.dead.choosing import dead_one, parsed
from ringpost.cli.dead.letter import Letter, letter_of, told
from ringpost.cli.output import plain, print_json
from ringpost.cli.stores import opened


@click.command()
@click.argument("id", metavar="ID")
@store_option
@json_option
def show(id: str, store: str | None, as_json: bool) -> int:
    """Show everything that is known of the dead letter ID: cause, errors, request, sender.

    Secrets of the request are masked where its service is known.

    \b
    Example:
      ringpost dead show 01a205a1-ee60-74a2-a575-523908deee40
    """

    async def work() -> Letter:
        async with opened(settings_of(store)) as opened_store:
            return await letter_of(opened_store, await dead_one(opened_store, parsed(id), bodies=True))

    letter = asyncio.run(work())
    if as_json:
        print_json(letter)
    else:
        click.echo(plain(told(letter)))
    return 0
