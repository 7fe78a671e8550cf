"""A thousand towns under crashes and bad weather: nothing is done twice, too late, or never. Each twin is caught.

A seed that fails: `make simulate ARGS="--seed N --trace"`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from simulated.seed import simulate
from simulated.twins import TWINS, Twin

SEEDS = 1000
PART = 100
TWIN_SEEDS = 150  # the most that a twin needs; it is caught with the first seed that shows it

pytestmark = pytest.mark.timeout(240)


def simulated(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Simulate in a process of its own, where a seed decides everything."""
    argv = [sys.executable, str(Path(__file__).parent / "simulate.py"), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_a_town_holds_what_is_promised(first: int) -> None:
    done = simulated("--first", first, "--seeds", PART, "--processes", 1)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_is_replayed_to_the_letter() -> None:
    trace = simulated("--seed", 4711, "--trace").stdout
    assert trace.count("\n") > 100
    assert simulated("--seed", 4711, "--trace").stdout == trace


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_a_twin_is_caught(twin: Twin) -> None:
    for seed in range(TWIN_SEEDS):
        with twin():
            if simulate(seed)[0]:
                return
    pytest.fail(f"{twin.__name__}: nothing was seen in {TWIN_SEEDS} seeds")
