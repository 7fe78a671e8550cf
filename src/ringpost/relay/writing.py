"""Writing into an outbox table, by a transaction that was lent."""

import os
from collections.abc import Sequence

from ringpost.contract.errors import UsageError
from ringpost.core.message import Message
from ringpost.relay import table
from ringpost.relay.row import row_of
from ringpost.store import users_sql
from ringpost.store.hostclock import wall_ms
from ringpost.store.lent import Lent
from ringpost.store.port import Put
from ringpost.store.sqlite.url import ONE_LIBRARY, file_of, is_file

_LOOK_SQLITE = (
    "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'ringpost_outbox'),"
    " (SELECT file FROM pragma_database_list WHERE name = 'main'),"
    " EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'ringpost_message')"
)
_LOOK_POSTGRES = "SELECT to_regclass('ringpost_outbox') IS NOT NULL"


async def write(lent: Lent, messages: Sequence[Message], store_url: str | None) -> list[Put]:
    """Write messages into the outbox table of a database, one answer each: they are there once the transaction
    commits, or never. Raises UsageError, before anything is written, where there is no such table, or the database is
    the file of a store."""
    if not await _has_table(lent, store_url):
        raise _no_table(lent.dialect, store_url)
    now_ms = wall_ms()
    for sql, values in table.inserts(lent.dialect, [row_of(message, now_ms) for message in messages]):
        await lent.fetch(sql, *values)
    return [Put(message.id) for message in messages]


def _no_table(dialect: str, store_url: str | None) -> UsageError:
    where, or_else = (
        "this session is on another database than the client's store",
        "keep the store in the session's own database, where that is PostgreSQL",
    )
    if store_url is None:
        where = "this client is told of no store"
        or_else = (
            "name the store, where it is in the session's own database: Client(store='postgresql://…'), RINGPOST_STORE,"
            " or `store` in ringpost.toml"
        )
    return UsageError(
        f"{where}, and there is no table {table.NAME} in the session's database. Make it once, with what `ringpost "
        f"outbox ddl --dialect {dialect}` prints or by client.outbox(session).create_table(), and let a relay bring "
        f"what stands in it to the store (RINGPOST_OUTBOX). Or {or_else}"
    )


async def make(lent: Lent, store_url: str | None) -> None:
    """Make the table, if it isn't there."""
    if lent.dialect == "postgresql":
        await lent.fetch(users_sql.ALONE)
    if not await _has_table(lent, store_url):
        await lent.fetch(table.ddl(lent.dialect))


async def _has_table(lent: Lent, store_url: str | None) -> bool:
    """Say whether the table is there; refuse a store's file."""
    if lent.dialect == "postgresql":
        return bool((await lent.fetch(_LOOK_POSTGRES))[0][0])
    there, file, is_store = (await lent.fetch(_LOOK_SQLITE))[0]
    _check_file(file, store_url, is_store=bool(is_store))
    return bool(there)


def _check_file(file: str | bytes | None, store_url: str | None, *, is_store: bool) -> None:
    """Two SQLite libraries in one process drop each other's locks on a file: acknowledged messages could be lost."""
    path = os.fsdecode(file or "")
    store = file_of(store_url)
    if is_store or (store is not None and path and is_file(path, store)):
        raise UsageError(f"this session is on {path}, the file of a store. {ONE_LIBRARY}.")
