"""`ringpost backup`: a copy of the store while everything runs."""

import sys
from pathlib import Path

import click

from ringpost.cli.asked import settings_of, store_option
from ringpost.contract.errors import StoreError, UsageError

_SQLITE = "sqlite:///"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@store_option
def backup(file: Path, store: str | None) -> int:
    """Copy the store into the new FILE while others use it: one instant of it, checked before it has its name.

    Of a store in PostgreSQL the database's own tools make backups; then this says how.

    \b
    Example:
      ringpost backup shop-2026-11-26.db
    """
    url = settings_of(store).store
    if url is None:
        raise StoreError("no store is configured: run this where ringpost.toml is, or name one with --store.")
    if url.startswith("postgresql:"):
        raise UsageError(
            f"a store in PostgreSQL is backed up by pg_dump --format=custom --file={file} and its database, which holds"
            " the messages in the schema ringpost."
        )
    if not url.startswith(_SQLITE):
        raise UsageError("only a store in a file can be backed up; one in memory is gone with its process.")
    from ringpost.store.sqlite_backup import back_up  # loads the driver

    size = back_up(Path(url.removeprefix(_SQLITE)).absolute(), file.absolute(), _show)
    if sys.stderr.isatty():
        click.echo(err=True)
    click.echo(f"{file}: {size / 1e6:,.1f} MB, checked")
    return 0


def _show(done: int, pages: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done:,} of {pages:,} pages", nl=False, err=True)
