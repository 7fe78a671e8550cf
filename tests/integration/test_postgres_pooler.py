"""A store behind pgbouncer in transaction mode: the suite, more stores than connections, a pooler that goes away."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from postgres_stores import PostgresStores
from servers.pgbouncer import POOL_SIZE, RealPgbouncer
from servers.postgres import RealPostgres
from servers.programs import NoServer, missing

from ringpost.contract.errors import StoreError
from ringpost.core.message import Settlement, State
from ringpost.settings import Settings
from ringpost.store.postgres.store import PostgresStore
from ringpost.testing.conformance import CASES, Case, check
from ringpost.testing.conformance.suite import LEASE_S, QUEUE, message

SETTINGS = Settings(durability="buffered")
COUNT = 200


@pytest.fixture(scope="module")
def pooler(fast_postgres: RealPostgres) -> Iterator[RealPgbouncer]:
    made = RealPgbouncer(fast_postgres)
    try:
        made.start()
        yield made
    except NoServer as exc:
        missing("PGBOUNCER", exc)
    finally:
        made.stop()


@pytest.fixture(scope="module")
def stores(fast_postgres: RealPostgres, pooler: RealPgbouncer) -> Iterator[PostgresStores]:
    made = PostgresStores(fast_postgres, pooler.url)
    yield made
    made.close()


# Statements are the same as without a pooler, only how they are sent differs: a third of the cases shows that.
@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.name)
async def test_the_suite(case: Case, stores: PostgresStores) -> None:
    if not await check(case, stores.empty):
        pytest.skip(f"needs {', '.join(case.needs)}")


async def test_more_stores_than_connections_share_the_work(stores: PostgresStores) -> None:
    first, _ = stores.empty(SETTINGS)
    made = [first, *(PostgresStore(stores.url, SETTINGS) for _ in range(2 * POOL_SIZE))]
    for store in made:
        await store.open()
    sent = [message(b"%d" % number) for number in range(COUNT)]
    await first.put(sent)

    async def work(store: PostgresStore, holder: int) -> list[bytes]:
        done: list[bytes] = []
        settlements: list[Settlement] = []
        while True:
            claimed = await store.claim({QUEUE: 7}, holder, LEASE_S, settlements)
            assert all(claimed.settled)
            if not claimed.deliveries:
                return done
            done += [one.id for one in claimed.deliveries]
            settlements = [Settlement(one, State.SUCCEEDED) for one in claimed.deliveries]

    parts = await asyncio.gather(*(work(store, 100 + at) for at, store in enumerate(made)))
    assert sorted(id for part in parts for id in part) == sorted(one.id for one in sent)
    for store in made:
        await store.close()


async def test_a_pooler_that_was_away(stores: PostgresStores, pooler: RealPgbouncer) -> None:
    store, _ = stores.empty(SETTINGS)
    await store.open()
    await store.put([message(b"before")])
    pooler.cut()
    await store.put([message(b"after")])
    claimed = await store.claim({QUEUE: 9}, 1, LEASE_S)
    assert [one.body for one in claimed.deliveries] == [b"before", b"after"]
    await store.close()


async def test_what_is_kept_in_a_session_is_lost_there(stores: PostgresStores) -> None:
    first, _ = stores.empty(SETTINGS)
    url = stores.url.partition("?")[0]
    others = [PostgresStore(url, SETTINGS) for _ in range(2 * POOL_SIZE)]
    with pytest.raises((StoreError, asyncpg.PostgresError)):
        for store in others:
            await store.open()
        for _ in range(20):
            await asyncio.gather(*(store.put([message()]) for store in others))
    for store in others:
        await store.close()
    await first.open()
    await first.put([message()])
    await first.close()
