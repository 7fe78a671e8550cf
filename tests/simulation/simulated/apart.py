"""Simulate in a process of its own, where a seed decides everything."""

import subprocess
import sys
from pathlib import Path

PART = 100  # seeds of one test
WITHIN_S = 200


def simulated(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `simulate.py` to its end."""
    argv = [sys.executable, str(Path(__file__).parent.parent / "simulate.py"), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=False)


def hold(first: int) -> None:
    """Fail where one of the towns from this seed on breaks a promise."""
    done = simulated("--first", first, "--seeds", PART, "--processes", 2)
    assert done.returncode == 0, done.stdout + done.stderr
