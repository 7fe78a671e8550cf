"""The commands of `ringpost dead`, put together."""

import click

from ringpost.cli.dead.dropping import drop
from ringpost.cli.dead.editing import edit
from ringpost.cli.dead.listing import list_dead
from ringpost.cli.dead.replaying import replay
from ringpost.cli.dead.showing import show


@click.group()
def dead() -> None:
    """List, show, replay, edit and drop dead letters."""


for command in (list_dead, show, replay, edit, drop):
    dead.add_command(command)
