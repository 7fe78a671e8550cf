"""What the SQL of one handling leaves behind in its session, the next one doesn't find; and no handler makes a commit
worth less."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace
from servers.postgres import RealPostgres

from ringpost.contract.errors import StoreError, UsageError
from ringpost.core.message import Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import SqlTransaction
from ringpost.store.postgres import db as postgres_db
from ringpost.store.postgres.db import Again, Forbidden
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.postgres.writer import _told
from ringpost.testing.conformance.suite import HOLDER, LEASE_S, QUEUE, message

LEFT = """
SELECT set_config('app.tenant', 'alice', false), set_config('search_path', 'elsewhere', false),
  pg_advisory_lock(4711)
"""
FOUND = """
SELECT pg_backend_pid(), coalesce(current_setting('app.tenant', true), ''), current_setting('search_path'),
  to_regclass('pg_temp.left_behind')::text,
  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())::int
"""


class Shop:
    """A store, and what is done in it as handlers do it."""

    def __init__(self, server: RealPostgres, database: str) -> None:
        self._server = server
        self.database = database
        self.store = PostgresStore(server.url(database), Settings(durability="buffered"))

    def execute(self, *statements: str) -> list[Any]:
        """Run statements as the server's owner; gives the rows of the last."""
        return [self._server.execute(self.database, sql) for sql in statements][-1]

    def url_of(self, role: str) -> str:
        """Give the URL of a new role that may log in."""
        self.execute(f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN")
        return self._server.url(self.database, user=role)

    async def held(self) -> Settlement:
        """Give the settlement of a message that is held."""
        await self.store.put([message()])
        (delivery,) = (await self.store.claim({QUEUE: 1}, HOLDER, LEASE_S)).deliveries
        return Settlement(delivery, State.SUCCEEDED)

    def begin(self) -> SqlTransaction:
        return self.store.begin(lambda: "")

    async def found(self) -> tuple[Any, ...]:
        """Look around as the next handling: its session first, then all that may have been left."""
        transaction = self.begin()
        await transaction.lock()
        (row,) = await transaction.execute((FOUND, ()))
        await transaction.rollback()
        return row


@pytest.fixture
async def shop(fast_postgres: RealPostgres) -> AsyncIterator[Shop]:
    database = await asyncio.to_thread(fast_postgres.new_database)
    shop = Shop(fast_postgres, database)
    await shop.store.open(create=True)
    yield shop
    await shop.store.close()


async def leave_things_behind(shop: Shop, how: str) -> None:
    settlement = await shop.held()
    transaction = shop.begin()
    await transaction.execute(("CREATE TEMP TABLE left_behind (what text)", ()))
    await transaction.execute((LEFT, ()))
    if how == "rolled back":
        await transaction.rollback()
    elif how == "committed alone":
        assert await transaction.commit(None)
    else:
        assert await transaction.commit(replace(settlement, to=State.DEAD) if how == "committed dead" else settlement)


ENDS = ["rolled back", "committed alone", "committed", "committed dead"]


@pytest.mark.parametrize("how", ENDS)
async def test_the_next_handling_finds_nothing(how: str, shop: Shop) -> None:
    before = await shop.found()
    await leave_things_behind(shop, how)
    assert await shop.found() == before, "its session is the same, and nothing is in it"


@pytest.mark.parametrize("how", ENDS)
async def test_without_tidying_it_finds_what_was_left(how: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await shop.found()
    (db,) = [link._db for link in shop.store._opened.pool._idle]  # type: ignore[union-attr]
    monkeypatch.setattr(db, "_tidy", "")
    await leave_things_behind(shop, how)
    monkeypatch.undo()
    assert (await shop.found())[4] == before[4] + 1, "a lock of a session outlives ROLLBACK"


async def test_a_single_statement_that_only_reads_leaves_no_lock(shop: Shop) -> None:
    before = await shop.found()
    await shop.begin().execute(("SELECT pg_advisory_lock(4711)", ()))
    assert await shop.found() == before


# --- what a commit is worth


WATCHED = (
    "CREATE TABLE worth (what text)",
    "CREATE TABLE watched (what text)",
    """CREATE FUNCTION note_worth() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN INSERT INTO worth VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$""",
    """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED
       FOR EACH ROW EXECUTE FUNCTION note_worth()""",
    """CREATE FUNCTION weaken() RETURNS text LANGUAGE sql AS
       'SELECT set_config(''synchronous_commit'', ''local'', true)'""",
)


async def commit_weakened(shop: Shop, how: str) -> None:
    """Set what the commit is worth, and write a row whose trigger notes at COMMIT what it is."""
    settlement = await shop.held()
    statements = [("INSERT INTO watched VALUES ('it')", ()), ("SELECT weaken()", ())]
    if how == "deferred":
        assert await shop.store.settle([replace(settlement, sql=statements)]) == [True]
        return
    transaction = shop.begin()
    for statement in statements:
        await transaction.execute(statement)
    assert await transaction.commit(settlement)


@pytest.mark.parametrize("how", ["executed", "deferred"])
async def test_no_handler_makes_a_commit_worth_less(how: str, shop: Shop) -> None:
    shop.execute(*WATCHED)
    await commit_weakened(shop, how)
    assert shop.execute("SELECT what FROM worth") == [("on",)]


@pytest.mark.parametrize("how", ["executed", "deferred"])
async def test_who_lets_it_is_found_out(how: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.execute(*WATCHED)
    monkeypatch.setattr(postgres_db, "_WORTH", "SELECT 1")
    await commit_weakened(shop, how)
    assert shop.execute("SELECT what FROM worth") == [("local",)]


async def test_what_is_deferred_sets_nothing_for_others(shop: Shop) -> None:
    settlement = await shop.held()
    setting = replace(settlement, sql=[("SELECT set_config('app.tenant', 'alice', true)", ())])
    claimed = await shop.store.claim({}, HOLDER, LEASE_S, [setting])
    assert isinstance(claimed.unsettled[0], UsageError)
    assert "set_config is not for tx.defer" in str(claimed.unsettled[0])


# --- a role that may not


async def test_a_role_without_rights_is_told_what_it_needs(shop: Shop) -> None:
    url = shop.url_of("weak")
    for other, create in ((f"{url}&schema=weak", True), (url, False)):
        with pytest.raises(Forbidden, match=r"permission denied .*GRANT CREATE ON DATABASE"):
            await PostgresStore(other, Settings(durability="buffered")).open(create=create)


async def test_a_right_that_is_taken_away_is_an_error_of_the_store(shop: Shop) -> None:
    url = shop.url_of("poor")
    kinds = ("ALL ON ALL TABLES IN", "ALL ON ALL SEQUENCES IN", "USAGE ON")
    shop.execute(*(f"GRANT {kind} SCHEMA ringpost TO poor" for kind in kinds))
    store = PostgresStore(url, Settings(durability="buffered"))
    await store.open()
    await store.put([message()])
    shop.execute("REVOKE ALL ON ringpost.letter FROM poor")
    with pytest.raises(StoreError, match="permission denied for table letter"):
        await store.put([message()])
    shop.execute("GRANT ALL ON ringpost.letter TO poor")
    await store.put([message()])
    await store.close()
    shop.execute("DROP OWNED BY poor", "DROP ROLE poor")


async def test_a_right_that_a_handlers_own_check_misses_is_the_handlers_error(shop: Shop) -> None:
    shop.execute(
        "CREATE TABLE checked (what text)",
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'not yours' USING ERRCODE = 'insufficient_privilege'; END $$""",
        """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON checked DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION refuse()""",
    )
    settlement = await shop.held()
    transaction = shop.begin()
    await transaction.execute(("INSERT INTO checked VALUES ('it')", ()))
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not yours"):
        await transaction.commit(settlement)


def test_who_was_always_in_the_way_is_told_of_as_the_stores_error() -> None:
    told = _told(Again(), "postgresql://h/d")
    assert isinstance(told, StoreError)
    assert "Repeating it is safe" in str(told)
