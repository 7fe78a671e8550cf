"""The conformance suite: what every store must do, as cases that any test runner can run.

A store that passes them all keeps the promises that Ringpost makes in its name:

    from ringpost.testing.conformance import CASES, check

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    async def test_my_store(case, tmp_path):
        await check(case, lambda settings: make(tmp_path, settings))

where `make(…)` gives a new, empty store and a function that moves the store's clocks on by seconds. `check` raises
`Violation` with the promise that was broken, and gives False where the store lacks a capability that the case needs.
"""

from collections.abc import Sequence

from ringpost.testing.conformance import (
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
    racing,
    reading,
    register,
    settling,
    timing,
    transactions,
    transitions,
)
from ringpost.testing.conformance.suite import Advance, Case, MakeStore, Subject, Violation, check

CHAPTERS = (
    putting,
    claiming,
    settling,
    transactions,
    timing,
    lines,
    leases,
    orders,
    events,
    logs,
    farewells,
    forwarding,
    keeping,
    moving,
    register,
    reading,
    racing,
    transitions,
)
CASES: Sequence[Case] = tuple(case for chapter in CHAPTERS for case in chapter.CHAPTER)

__all__ = ["CASES", "Advance", "Case", "MakeStore", "Subject", "Violation", "check"]
