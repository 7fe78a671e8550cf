"""Environments beside our own, in `.bench`, made on first use: of the peers, and of what draws the pictures."""

import hashlib
import subprocess
import sys
from pathlib import Path

from bench.children import ROOT
from bench.session import Session

HOME = ROOT / ".bench"
INSTALL_S = 300.0


class NotInstalled(Exception):
    """An environment could not be made; the message says why."""


def python(session: Session) -> Path:
    """Give the interpreter of the peers. What failed once in a run is not tried again."""
    return session.once("the peers' environment", lambda: _ready(session, "peers", HOME / "venv"))


def drawing(session: Session) -> Path:
    """Give the interpreter that has matplotlib."""
    return session.once("the pictures' environment", lambda: _ready(session, "pictures", HOME / "pictures"))


def _ready(session: Session, what: str, venv: Path) -> Path:
    """Make an environment from `bench/<what>.lock`, unless it is there."""
    lock = ROOT / "bench" / f"{what}.lock"
    wanted = hashlib.blake2b(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = venv / "ready"
    interpreter = venv / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    session.say(f"installing the {what} into .bench/{venv.name}")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    _run([str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:",
          "--requirement", str(lock)])  # fmt: skip
    stamp.write_text(wanted)
    return interpreter


def _run(argv: list[str]) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"{argv[2:4]} failed: {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{argv[2:4]} took more than {INSTALL_S:g} s") from error
