"""`ringpost init`: a project of two services that runs, small enough to be read in a minute."""

import asyncio
import os
from pathlib import Path

import click

from ringpost.contract.errors import UsageError
from ringpost.settings import FILE_NAME, PREFIX, load, resolved
from ringpost.store import store_for

VARIABLE = f"{PREFIX}STORE"
CONFIGURATION = """\
# Everything that runs in this folder reads this file. Each key can also be RINGPOST_<KEY> or an argument.
store = "sqlite:///ringpost.db"
http = "127.0.0.1:8000"
"""

CONTRACTS = '''\
"""What the services share: names and types."""

from dataclasses import dataclass

from ringpost import Contract, Event, Operation, Problem


@dataclass
class NewUser:
    email: str
    name: str


@dataclass
class User:
    id: str
    email: str


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class Accounts(Contract):
    """Who may sign in."""

    register = Operation(NewUser, User, raises=[EmailTaken], timeout=2)
    registered = Event(User)


class Mail(Contract):
    """What is written to users."""

    welcome = Operation(User)
'''

SERVICES = '''\
"""Two services. Run both with: ringpost run services:accounts services:mail"""

from contracts import Accounts, EmailTaken, Mail, NewUser, User

from ringpost import Context, Service

accounts = Service(Accounts)
mail = Service(Mail)
users: dict[str, User] = {}


@accounts.implements(Accounts.register)
async def register(new: NewUser, ctx: Context) -> User:
    if new.email in users:
        raise EmailTaken(new.email)
    user = users[new.email] = User(id=str(len(users) + 1), email=new.email)
    await ctx.send(Mail.welcome, user)  # leaves when this handler succeeds, not before
    await ctx.publish(Accounts.registered, user)
    return user


@mail.implements(Mail.welcome)
async def welcome(user: User) -> None:
    print(f"Dear {user.email}, welcome!", flush=True)
'''

FILES = {FILE_NAME: CONFIGURATION, "contracts.py": CONTRACTS, "services.py": SERVICES}

NEXT = """\
Next{where}:
  ringpost run services:accounts services:mail
and in another terminal{there}:
  ringpost call accounts.register '{{"email": "ada@example.com", "name": "Ada"}}'
  ringpost send accounts.register '{{"email": "bob@example.com", "name": "Bob"}}' --watch
  ringpost queues
"""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
def init(folder: Path) -> None:
    """Make a small project that runs, in FOLDER (default: here), and its store.

    Nothing is overwritten: where a ringpost.toml is already, only the store that it names is made. RINGPOST_STORE is
    not heeded, as a URL with a password is not to be written into a file.

    \b
    Example:
      ringpost init shop
    """
    if (folder / FILE_NAME).exists():
        click.echo(f"{folder / FILE_NAME} is there already: nothing was written")
        _make_store(folder)
        return
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise UsageError(f"{', '.join(there)} in {folder} would be overwritten; name an empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
            click.echo(f"wrote {folder / name}")
    except OSError as error:
        raise UsageError(f"{error.filename or folder} can't be written: {error.strerror}.") from error
    _make_store(folder)
    where = "" if str(folder) == "." else f", in {folder}"
    click.echo(f"\n{NEXT.format(where=where, there=where and ' there')}", nl=False)


def _make_store(folder: Path) -> None:
    settings = load(folder=folder, environ={})
    if settings.store is None:
        raise UsageError(f'{folder / FILE_NAME} names no store: write store = "sqlite:///ringpost.db" into it.')

    async def make(url: str) -> None:
        store = store_for(url, settings)
        await store.open(create=True)
        await store.close()

    asyncio.run(make(settings.store))
    click.echo(f"the store is {settings.store}")
    _say_ignored(folder, settings.store)


def _say_ignored(folder: Path, made: str) -> None:
    """Tell whoever has set another store, by a variable that all other commands heed."""
    named = os.environ.get(VARIABLE)
    if named and resolved(named, folder.resolve()) != made:
        click.echo(
            f"ringpost: {VARIABLE} names another store, which was not made: write it into {folder / FILE_NAME} and"
            f" repeat this, or unset {VARIABLE}, which wins over the file wherever it is set",
            err=True,
        )
