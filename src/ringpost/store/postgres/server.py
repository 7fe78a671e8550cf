"""Reaching a PostgreSQL server: what its URL says, opening connections, and what the server is worth."""

import asyncio
import re
import secrets
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from msgspec import Struct

from ringpost.contract.errors import StoreError
from ringpost.core.receipt import Level
from ringpost.settings import Settings
from ringpost.store.postgres.db import Db, Lost, Row, idle_ms, is_lost, is_said, open_driver, refused
from ringpost.store.postgres.session import end_soon

VERSION_MIN = 15
CONNECT_S = 5.0
GONE_MAX = 1000  # sessions that are remembered to be ended
STATEMENT_S = 20.0  # a statement that takes longer has lost its server
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_RANKS: dict[Level, int] = {"staged": 0, "buffered": 0, "replicated": 1, "durable": 2}
_SETTINGS = (
    "SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),"
    " pg_is_in_recovery(), current_setting('transaction_read_only'),"
    " set_config('idle_in_transaction_session_timeout', $1, $2)"
)
_PROXIED = "statement_cache_size"
_HINT = (
    "Write 'postgresql://user@host/database'; '?schema=' names another schema than ringpost,"
    " '&statement_cache_size=0' is for a pooler such as pgbouncer in transaction mode."
)


class Probed(Struct, frozen=True):
    """What the server is really set to."""

    version: int
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    standbys: str
    in_recovery: bool
    read_only: str

    @property
    def level(self) -> Level:
        """Say what a commit on this server is worth."""
        waits = self.synchronous_commit != "off"
        if waits and self.fsync == "on" and self.full_page_writes == "on":
            return "durable"
        return "replicated" if waits and self.synchronous_commit != "local" and self.standbys else "buffered"

    @property
    def weak(self) -> str:
        """Name the setting without which a commit isn't durable, and how to change it."""
        for name in ("fsync", "full_page_writes"):
            if getattr(self, name) != "on":
                return f"the server has {name} = {getattr(self, name)} (set it on in postgresql.conf)"
        return "the server has synchronous_commit = off (ALTER ROLE … SET synchronous_commit = on)"


class Server:
    """One server as a URL names it. `shown` is the URL without password, for people."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._wanted: Level = settings.durability
        parts = _split(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.schema = options.pop("schema", "ringpost")
        cache = options.pop(_PROXIED, "")
        self._name = options.pop("application_name", "ringpost")[:40]
        if _NAME.fullmatch(self.schema) is None:
            raise StoreError(f"a schema is named by a-z, 0-9 and _, not {self.schema!r}. {_HINT}")
        if cache and not cache.isdecimal():
            raise StoreError(f"{_PROXIED} is a number, 0 behind a pooler. {_HINT}")
        self.pooled = cache == "0"
        self._cache = int(cache) if cache else 200
        self._dsn = urlunsplit(parts._replace(query=urlencode(options)))
        self._listen_dsn = self._dsn if settings.listen_url is None else settings.listen_url
        self.listens = settings.listen_url is not None or not self.pooled
        user = f"{unquote(parts.username)}@" if parts.username else ""
        port = f":{parts.port}" if parts.port else ""
        self.shown = f"postgresql://{user}{parts.hostname or options.get('host', '')}{port}{parts.path}"
        self.probed: Probed | None = None
        self._gone: dict[str, None] = {}  # sessions that may live on there, though their connections are gone

    async def connect(self) -> Db:
        """Open a connection. Raises StoreError where the server isn't there, refuses, or is worth less than asked."""
        db = await self._connect(self._dsn)
        try:
            async with asyncio.timeout(CONNECT_S):
                probed = await _probe(db, pooled=self.pooled)
                self._accept(probed)
                await self._end_gone(db)
        except BaseException as exc:
            db.terminate()
            if isinstance(exc, (Lost, TimeoutError)):
                raise refused(exc, self.shown) from exc
            raise
        self.probed = probed
        return db

    async def connect_to_listen(self) -> Db:
        """Open a connection that notifications reach."""
        return await self._connect(self._listen_dsn)

    async def _end_gone(self, db: Db) -> None:
        """Have sessions ended whose connections are gone: the server learns of that after hours, and has only so many
        to give."""
        gone = list(self._gone)
        if gone and not self.pooled:
            await end_soon(db, gone)
            for name in gone:
                self._gone.pop(name, None)

    def _is_gone(self, session: str) -> None:
        self._gone[session] = None
        if len(self._gone) > GONE_MAX:
            self._gone.pop(next(iter(self._gone)), None)

    async def _connect(self, dsn: str) -> Db:
        session = None if self.pooled else f"{self._name}-{secrets.token_hex(6)}"
        try:
            driver = await open_driver(
                dsn, name=session, connect_s=CONNECT_S, statement_s=STATEMENT_S, cached=self._cache
            )
        except ValueError as exc:  # its text may repeat the URL
            raise StoreError(f"the URL of the store {self.shown} can't be read. {_HINT}") from exc
        except BaseException as exc:
            if session is not None and not isinstance(exc, ConnectionError):
                self._is_gone(session)  # the server may have heard of it
            if is_said(exc) or is_lost(exc):
                raise refused(exc, self.shown) from exc
            raise
        return Db(driver, self.schema, pooled=self.pooled, session=session, gone=self._is_gone)

    def _accept(self, probed: Probed) -> None:
        if probed.version < VERSION_MIN * 10_000:
            raise StoreError(
                f"{self.shown} is PostgreSQL {probed.version // 10_000}; Ringpost needs {VERSION_MIN} or later"
            )
        if probed.in_recovery:
            raise StoreError(f"{self.shown} is a replica (pg_is_in_recovery); name the primary as `store`")
        if probed.read_only == "on":
            raise StoreError(f"{self.shown} is read only (default_transaction_read_only = on); a store writes")
        if _RANKS[probed.level] < _RANKS[self._wanted]:
            raise StoreError(
                f"a receipt of {self.shown} would not be {self._wanted}: {probed.weak}."
                f' Change that, or ask for less: durability = "{probed.level}"'
            )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise StoreError(f"this is no URL of a PostgreSQL server. {_HINT}") from exc
    if not url.startswith("postgresql://") or not parts.path.strip("/"):
        raise StoreError(f"the URL of the store names no database. {_HINT}")
    return parts


async def _probe(db: Db, *, pooled: bool) -> Probed:
    """Ask what the server is set to, and bound how long a turn of this session may stand idle (behind a pooler, where
    the next to ask would get it, each turn says so itself)."""
    row: Row = (await db.fetch(_SETTINGS, str(idle_ms()), pooled))[0]
    return Probed(*row[:-1])
