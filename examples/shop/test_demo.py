"""The demo as a person runs it: real processes, one of them killed, and everything that it claims but for seconds."""

import asyncio
import os
import signal
import sys
from io import StringIO
from pathlib import Path

import pytest
from claims import Claims
from rich.console import Console

DEMO = Path(__file__).resolve().parent / "demo.py"
LONG_S = 80  # it takes 25 s where nothing else runs


async def test_every_claim_of_the_demo_holds(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), "--once", "--untimed", "--folder", str(tmp_path / "demo")]
    pipe = asyncio.subprocess.PIPE
    demo = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        async with asyncio.timeout(LONG_S):
            said = (await demo.communicate())[0].decode()
    finally:
        if demo.returncode is None:
            os.killpg(demo.pid, signal.SIGKILL)  # its services too
            await demo.wait()
    print(said)
    assert demo.returncode == 0
    assert "Every claim held." in said
    assert "✗" not in said and said.count("✓") >= 12


@pytest.mark.parametrize(("timed", "broken"), [(True, ["an outcome", "a time"]), (False, ["an outcome"])])
def test_without_a_clock_outcomes_are_judged_all_the_same(timed: bool, broken: list[str]) -> None:
    claims = Claims(Console(file=StringIO()), timed=timed)
    claims.check(False, "an outcome")
    claims.time(False, "a time")
    claims.check(True, "another outcome")
    assert claims.broken == broken
