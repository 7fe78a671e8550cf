"""A service whose handlers write in their transactions, and the books in which what they wrote is counted.

As a script it is one of the processes of a scene: `ledger.py ROLE [FIRST]`, with the roles of ROLES. POINT and
POINT_HOW are those of `points.py`, with the points of `books_points.py`; TWIN breaks a promise; with PATIENT handlers
wait for the file `go`. Whoever is killed or stopped whenever, each number that was sent stands in the books once.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import apsw
import asyncpg
from msgspec import Struct
from points import forget_leases, say, until_told, wanted
from town import sending

from ringpost import Client, Context, Contract, Operation, Service, Transaction, run

How = Literal["execute", "defer"]
HOWS: Sequence[How] = get_args(How)
PAUSE_S = 0.05  # between two lots: a handler that writes by `execute` has a commit of its own


class Entry(Struct):
    number: int
    how: How = "execute"
    length_s: float = 0.0


class Written(Struct):
    """A row of the books. Each attempt to write one has a token of its own."""

    number: int
    token: str


class Books(Contract):
    write = Operation(Entry, Written, timeout=30)
    noted = Operation(int)


class Tables:
    """The books' tables."""


async def tables(tx: Transaction) -> Tables:
    await tx.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER, token TEXT, pid INTEGER)")
    return Tables()


books = Service(Books, resources=[tables])
_INSERT = "INSERT INTO entry VALUES (:number, :token, :pid)"


@books.implements(Books.write)
async def write(entry: Entry, ctx: Context, tx: Transaction) -> Written:
    say(began=entry.number, id=ctx.message_id, fence=ctx.fence, attempt=ctx.attempt)
    if os.environ.get("PATIENT"):
        await until_told("go")
    await asyncio.sleep(entry.length_s)
    await ctx.send(Books.noted, entry.number)
    written = Written(entry.number, secrets.token_hex(4))
    values = {"number": written.number, "token": written.token, "pid": os.getpid()}
    if entry.how == "defer":
        tx.defer(_INSERT, values)
    else:
        await tx.execute(_INSERT, values)
    say(effect=entry.number, id=ctx.message_id)
    return written


@books.implements(Books.noted)
async def noted(number: int, ctx: Context) -> None:
    say(noted=number, id=ctx.message_id)


async def entries(url: str) -> list[tuple[int, str, int]]:
    """Read the books: number, token and process of each row."""
    select = "SELECT number, token, pid FROM entry ORDER BY number"
    if url.startswith("sqlite:///"):
        file = apsw.Connection(url.removeprefix("sqlite:///"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return file.execute(select).fetchall()
        finally:
            file.close()
    server = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await server.fetch(select)]
    finally:
        await server.close()


# --- processes


async def _send(client: Client, numbers: list[int]) -> None:
    tickets = await client.send_all(Books.write, [Entry(number, HOWS[number % 2], 0.01) for number in numbers])
    for number, ticket in zip(numbers, tickets, strict=True):
        say(receipt=number, id=ticket.id)


async def _send_hastily(client: Client, numbers: list[int]) -> None:
    """Say that it is kept before it is."""
    for number in numbers:
        say(receipt=number, id="")
    await asyncio.sleep(0.2)
    await client.send_all(Books.write, [Entry(number) for number in numbers])


def _run() -> None:
    from books_points import TWINS, install, tell_settlements

    tell_settlements()
    if wanted():
        install()
    for twin in filter(None, os.environ.get("TWIN", "").split()):
        TWINS[twin]()
    run(books)


def _careless() -> None:
    """Leave it to the fence alone to refuse who is late."""
    forget_leases()
    _run()


ROLES: dict[str, Callable[[], None]] = {
    "books": _run,
    "careless": _careless,
    "sender": lambda: asyncio.run(sending(int(sys.argv[2]), _send, PAUSE_S)),
    "hasty": lambda: asyncio.run(sending(int(sys.argv[2]), _send_hastily, PAUSE_S)),
}


if __name__ == "__main__":
    ROLES[sys.argv[1]]()
