"""What the documentation shows is run: its Python files are written, its commands typed, its answers compared.

A python block that begins with `# name.py` is a file of the page's project. A console block is typed line by line: `$`
is the prompt, what follows is the answer that is expected, `…` stands for anything. A command that ends in `&` goes on
in the background until the page ends.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.programs import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
BLOCK = re.compile(r"^```(python|toml|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who reads a page and does what it says, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.running: list[subprocess.Popen[bytes]] = []
        bin_folder = Path(sys.executable).parent
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RINGPOST_")},
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "RINGPOST_HTTP": f"127.0.0.1:{self.port}",
            "COLUMNS": "160",
        }

    def read(self, page: str) -> None:
        for kind, text in BLOCK.findall(page):
            if kind == "console":
                self.type(text)
            elif named := re.match(r"# ([\w./]+\.(?:py|toml))\b", text):
                (self.folder / named[1]).write_text(text, encoding="utf-8")
            else:
                self.run_python(text)

    def run_python(self, text: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr.decode()}"

    def type(self, text: str) -> None:
        for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = piece.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = f"{command[:-1]}{more}"
            command = command.replace("localhost:8000", f"localhost:{self.port}")
            if command.endswith("&"):
                self.start(command[:-1])
            else:
                self.compare(command, expected.replace("localhost:8000", f"localhost:{self.port}"))

    def start(self, command: str) -> None:
        started = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where the tests run with it ignored
        )
        self.running.append(started)
        if "ringpost run" not in command:
            return
        end = time.monotonic() + 30
        while time.monotonic() < end and started.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        pytest.fail(f"{command!r} did not get ready")

    def compare(self, command: str, expected: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, timeout=60, check=False
        )
        got = (done.stdout + done.stderr).decode().replace("\r", "")
        pattern = r".*?".join(re.escape(part) for part in expected.strip().split("…"))
        assert re.fullmatch(pattern, got.strip(), re.DOTALL), f"$ {command}\n{got}\n--- expected\n{expected}"

    def leave(self) -> None:
        """Press Ctrl-C: unlike after SIGTERM nobody else has to notice first."""
        for process in self.running:
            process.send_signal(signal.SIGINT)
        for process in self.running:
            process.wait(30)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.leave()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_page_is_true(page: Path, reader: Reader) -> None:
    if shutil.which("curl") is None and "$ curl" in page.read_text():
        pytest.skip("curl is not installed: what this page shows was not run") if not os.environ.get(
            "CI"
        ) else pytest.fail("curl is missing")
    reader.read(page.read_text(encoding="utf-8"))


def test_a_page_that_lies_is_found(reader: Reader) -> None:
    with pytest.raises(AssertionError):
        reader.read("```console\n$ echo yes\nno\n```\n")
    with pytest.raises(AssertionError):
        reader.read("```python\nassert False\n```\n")


LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing
