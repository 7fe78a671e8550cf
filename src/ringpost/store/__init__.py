"""Where messages wait: the port that every store fulfils, and the adapters.

It must not know services, handlers or HTTP.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, urlsplit

from ringpost.contract.errors import StoreError
from ringpost.settings import Settings
from ringpost.store.lent import Lent
from ringpost.store.port import Store

Failed = Callable[[BaseException], None]


def store_for(url: str, settings: Settings, *, on_failed: Failed | None = None) -> Store:
    """Make the store that a URL names; it is opened by whoever uses it. `on_failed` is called once, on its loop, when
    it can't be trusted any more and takes nothing.

    `memory:` (for tests, gone with the process), `sqlite:///relative/file.db`, `sqlite:////absolute/file.db`,
    `postgresql://user@host/database`. Raises StoreError, saying what to do, for a URL that names none.
    """
    scheme, colon, rest = url.partition(":")
    make = _SCHEMES.get(scheme) if colon else None
    if make is None:
        raise StoreError(f"{_without_password(url)!r} names no store. Write {_FORMS}.")
    return make(rest, settings, on_failed)


async def holds_store(lent: Lent, url: str | None) -> bool:
    """Say whether the store that a URL names may be in the database of a lent transaction, so that its own tables can
    be written by it: the database is asked for them. Nothing is written; whose they are, the store itself says."""
    if lent.dialect != "postgresql" or url is None or not url.startswith("postgresql:"):
        return False
    schema = dict(parse_qsl(urlsplit(url).query)).get("schema", "ringpost")
    return bool((await lent.fetch(_HAS_STORE, f'"{schema}".meta'))[0][0])


def _memory(rest: str, settings: Settings, on_failed: Failed | None) -> Store:
    from ringpost.store.memory.store import MemoryStore

    if rest:
        raise StoreError(f"'memory:{rest}' names no store: the one in memory has no name. Write 'memory:'.")
    return MemoryStore(settings)


def _sqlite(rest: str, settings: Settings, on_failed: Failed | None) -> Store:
    """Make a store in a file. The driver is loaded here only: most programs that import Ringpost need none."""
    from ringpost.store.sqlite.store import SqliteStore

    path = rest.removeprefix("///")
    if not path or path == rest:
        raise StoreError(
            f"'sqlite:{rest}' names no file. Write 'sqlite:///ringpost.db' for a file beside ringpost.toml, "
            "'sqlite:////var/lib/ringpost.db' for an absolute path."
        )
    return SqliteStore(path, settings, on_failed=on_failed)


def _postgresql(rest: str, settings: Settings, on_failed: Failed | None) -> Store:
    """Make a store in a database. Its driver is an extra."""
    try:
        from ringpost.store.postgres.store import PostgresStore
    except ModuleNotFoundError as exc:
        if exc.name != "asyncpg":
            raise
        raise StoreError("a store in PostgreSQL needs its driver: pip install 'ringpost[postgres]'") from exc
    return PostgresStore(f"postgresql:{rest}", settings)


def _not_yet(rest: str, settings: Settings, on_failed: Failed | None) -> Store:
    raise StoreError(f"NATS and Redis as stores are not in this version. Write {_FORMS}.")


def _without_password(url: str) -> str:
    """Hide what a URL may carry before an @: an error message ends up in logs."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url


_HAS_STORE = "SELECT to_regclass($1::text) IS NOT NULL"
_FORMS = "'sqlite:///ringpost.db' for a file, 'postgresql://user@host/database', or 'memory:' for a test"

# One line a store: the scheme of its URL, and what makes it of the rest.
_SCHEMES: Mapping[str, Callable[[str, Settings, Failed | None], Store]] = MappingProxyType(
    {
        "memory": _memory,
        "sqlite": _sqlite,
        "postgresql": _postgresql,
        "nats": _not_yet,
        "redis": _not_yet,
    }
)
