"""The PostgreSQL store against every case of the suite, on a real server."""

from collections.abc import Iterator

import pytest
from postgres_stores import PostgresStores
from servers.postgres import RealPostgres

from ringpost.testing.conformance import CASES, Case, check


@pytest.fixture(scope="module")
def stores(fast_postgres: RealPostgres) -> Iterator[PostgresStores]:
    made = PostgresStores(fast_postgres)
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_postgres_store(case: Case, stores: PostgresStores) -> None:
    if not await check(case, stores.empty):
        pytest.skip(f"needs {', '.join(case.needs)}")
