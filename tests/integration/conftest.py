"""What several of these tests begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from business import Business
from postgres_stores import PostgresStores
from servers.postgres import RealPostgres


@pytest.fixture(scope="module")
def stores(fast_postgres: RealPostgres) -> Iterator[PostgresStores]:
    """A database with the tables of a store."""
    made = PostgresStores(fast_postgres)
    yield made
    made.close()


@pytest.fixture
async def on_file(tmp_path: Path) -> Business:
    """A business database in a SQLite file."""
    return await Business(f"sqlite:///{tmp_path}/shop.db").prepare()


@pytest.fixture(params=["sqlite", "postgresql"])
async def business(request: pytest.FixtureRequest, tmp_path: Path) -> Business:
    """A business database of each kind."""
    if request.param == "sqlite":
        return await Business(f"sqlite:///{tmp_path}/shop.db").prepare()
    server: RealPostgres = request.getfixturevalue("fast_postgres")
    return await Business(server.url(server.new_database())).prepare()
