"""Type checkers accept right uses and refuse wrong ones: exactly the lines marked `# wrong`, under mypy and pyright."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
MARK = re.compile(r"  # wrong$")

Refused = dict[tuple[str, int], str]


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy() -> Refused:
    said = run("mypy", "--strict", "--no-pretty", "--no-error-summary", *map(str, FILES))
    found = re.findall(r"^(?:.*/)?([^/:]+\.py):(\d+): error: (.*)$", said, flags=re.MULTILINE)
    ours = {path.name for path in FILES}
    return {(name, int(line)): text for name, line, text in found if name in ours and f"typing/{name}:{line}:" in said}


def pyright() -> Refused:
    said = json.loads(run("basedpyright", "--outputjson", "--pythonpath", sys.executable, *map(str, FILES)))
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in said["generalDiagnostics"]
        if one["severity"] == "error" and Path(one["file"]).parent == HERE
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_exactly_the_wrong_uses_are_refused(checker: Callable[[], Refused]) -> None:
    refused = checker()
    marked = {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MARK.search(line)
    }
    assert marked, "Without wrong uses nothing would be tested."
    refused_wrongly = {place: text for place, text in refused.items() if place not in marked}
    assert not refused_wrongly, "right uses were refused"
    accepted_wrongly = sorted(marked - refused.keys())
    assert not accepted_wrongly, "wrong uses were accepted"
