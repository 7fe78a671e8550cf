"""`ringpost backup` and `ringpost restore`: a copy of the store while everything runs, and a store of it again."""

import sys
from pathlib import Path

import click

from ringpost.cli.asked import settings_of, store_option
from ringpost.cli.stores import operator
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
    path = _file_of(
        store,
        f"is backed up by pg_dump --format=custom --file={file} and its database, which holds the messages in the"
        " schema ringpost",
    )
    from ringpost.store.sqlite.backup import back_up  # loads the driver

    _say(file, back_up(path, file.absolute(), _show))
    return 0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@store_option
def restore(file: Path, store: str | None) -> int:
    """Make the store of the backup FILE, which stays as it is. A store that is there is never overwritten.

    The store is in the past then: what was handled since the backup is handled again, what was sent since is gone.

    \b
    Example:
      ringpost restore shop-2026-11-26.db
    """
    path = _file_of(store, "is restored by pg_restore into an empty database")
    from ringpost.store.sqlite.backup import restore as restore_into  # loads the driver

    size = restore_into(file.absolute(), path, operator(), _show)
    _say(path, size)
    return 0


def _file_of(store: str | None, on_postgres: str) -> Path:
    """Give the file of the store. Raises UsageError for one that has none, saying what to do."""
    url = settings_of(store).store
    if url is None:
        raise StoreError("no store is configured: run this where ringpost.toml is, or name one with --store.")
    if url.startswith("postgresql:"):
        raise UsageError(f"a store in PostgreSQL {on_postgres}.")
    if not url.startswith(_SQLITE):
        raise UsageError("only a store in a file can be backed up; one in memory is gone with its process.")
    return Path(url.removeprefix(_SQLITE)).absolute()


def _say(made: Path, size: int) -> None:
    if sys.stderr.isatty():
        click.echo(err=True)
    click.echo(f"{made}: {size / 1e6:,.1f} MB, checked")


def _show(done: int, pages: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done:,} of {pages:,} pages", nl=False, err=True)
