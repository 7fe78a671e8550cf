"""Real servers, one of a kind for all tests of a process, started by the first that asks. And what a process has
learned of the targets that it calls doesn't reach from one test to the next."""

from collections.abc import Iterator

import pytest
from servers.postgres import RealPostgres
from servers.programs import NoServer, missing

from ringpost.client.guards import PROCESS


def _running(*, fsync: bool) -> Iterator[RealPostgres]:
    server = RealPostgres(fsync=fsync)
    try:
        server.start()
        yield server
    except NoServer as exc:
        missing("POSTGRESQL", exc)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[RealPostgres]:
    """A server whose receipts are durable."""
    yield from _running(fsync=True)


@pytest.fixture(scope="session")
def fast_postgres() -> Iterator[RealPostgres]:
    """A server that syncs nothing, for tests that assert nothing about durability."""
    yield from _running(fsync=False)


@pytest.fixture(autouse=True)
def _targets_are_unknown() -> Iterator[None]:
    PROCESS.forget()
    yield
    PROCESS.forget()
