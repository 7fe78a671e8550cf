"""Services that are killed before or after each durable step of a handler's transaction, and during the recovery."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from servers.postgres import RealPostgres

SCRIPT = Path(__file__).with_name("transaction_points.py")
PAIRS = 16  # all pairs in the soak
POINTS_ON_POSTGRES, PAIRS_ON_POSTGRES = 24, 6  # all in the soak: each process opens its connections anew


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    print(found.stdout, found.stderr)
    return found


def test_each_effect_comes_once_wherever_a_service_on_sqlite_is_killed() -> None:
    found = run("--pairs", PAIRS, "--seed", random.randrange(2**32))
    assert found.returncode == 0, found.stdout + found.stderr


def test_each_effect_comes_once_wherever_a_service_on_postgres_is_killed(fast_postgres: RealPostgres) -> None:
    url = fast_postgres.url(fast_postgres.new_database())
    asked = ("--points", POINTS_ON_POSTGRES, "--pairs", PAIRS_ON_POSTGRES, "--seed", random.randrange(2**32))
    found = run("--store", url, *asked)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(("twin", "seed"), [("in-two-commits", 3), ("keyless", 3)])
def test_a_broken_service_is_found_out(twin: str, seed: int) -> None:
    found = run("--works", "called execute", "--points", 8, "--pairs", 0, "--seed", seed, "--twin", twin)
    assert found.returncode == 1
    assert "stands in the books 2 times" in found.stdout
