"""Processes that are gone at a chosen operation of their disk, one by one and during the recovery of another."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crash_points.py")
POINTS, PAIRS = 120, 60  # all points and thousands of pairs in the soak


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    print(found.stdout, found.stderr)
    return found


def test_a_crash_at_any_operation_loses_nothing_doubles_nothing_and_leaves_nothing_stuck() -> None:
    found = run("--points", POINTS, "--pairs", PAIRS, "--seed", random.randrange(2**32))
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{POINTS} points and {PAIRS} pairs" in found.stdout


@pytest.mark.parametrize(
    ("twin", "complaint"), [("hasty", "is lost"), ("in-two-commits", "what it staged is not there")]
)
def test_a_broken_store_is_found_out(twin: str, complaint: str) -> None:
    found = run("--points", 60, "--pairs", 0, "--seed", 5, "--twin", twin)
    assert found.returncode == 1
    assert complaint in found.stdout
