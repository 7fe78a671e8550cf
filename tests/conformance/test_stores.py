"""Every store against every case of the suite."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Store
from ringpost.store.sqlite.store import SqliteStore
from ringpost.testing.conformance import CASES, Advance, Case, check

Make = Callable[[Path, Settings], tuple[Store, Advance]]
_BEGIN_MS = 1_800_000_000_000


class Clock:
    """A wall and a monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.passed_ms = 0

    def advance(self, seconds: float) -> None:
        self.passed_ms += round(seconds * 1000)

    def wall_ms(self) -> int:
        return _BEGIN_MS + self.passed_ms

    def uptime_ms(self) -> int:
        return 1_000_000 + self.passed_ms


def memory(folder: Path, settings: Settings) -> tuple[Store, Advance]:
    clock = Clock()
    return MemoryStore(settings, clock.wall_ms), clock.advance


def sqlite(folder: Path, settings: Settings) -> tuple[Store, Advance]:
    clock = Clock()
    host = HostClock(clock.wall_ms, clock.uptime_ms)
    return SqliteStore(folder / "store.db", settings, clock=host), clock.advance


@pytest.mark.parametrize("make", [memory, sqlite], ids=["memory", "sqlite"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_store(case: Case, make: Make, tmp_path: Path) -> None:
    if not await check(case, lambda settings: make(tmp_path, settings)):
        pytest.skip(f"needs {', '.join(case.needs)}")


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) > 150
