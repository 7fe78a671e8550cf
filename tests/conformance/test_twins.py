"""Broken twins: stores that each break one promise. The suite is good for something only if it fails every one."""

import pytest
from twins import (
    claiming,
    events,
    farewells,
    forwarding,
    keeping,
    leases,
    lines,
    logs,
    moving,
    orders,
    putting,
    reading,
    register,
    reserving,
    settling,
    timing,
)
from twins.twin import Twin, first_broken, twins_of

from ringpost.store.memory.store import MemoryStore
from ringpost.testing.conformance import reading as reading_cases

CHAPTERS = (
    putting,
    reserving,
    claiming,
    settling,
    events,
    logs,
    lines,
    timing,
    leases,
    orders,
    farewells,
    keeping,
    forwarding,
    register,
    reading,
    moving,
)
TWINS = [twin for chapter in CHAPTERS for twin in twins_of(chapter)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what never comes."""
    monkeypatch.setattr(reading_cases, "SOON_S", 0.7)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
async def test_the_suite_fails_a_store_that_breaks_a_promise(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    twin.install(monkeypatch)
    assert await first_broken(twin.kind), f"no case noticed: {twin.breaks}"


async def test_the_suite_fails_nothing_but_broken_stores() -> None:
    assert await first_broken(MemoryStore) == ""
