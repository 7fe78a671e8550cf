"""The environment of the peers: `.bench/venv`, made on first use from `bench/peers.lock`."""

import hashlib
import subprocess
import sys
from pathlib import Path

from bench.children import ROOT
from bench.session import Session

LOCK = ROOT / "bench" / "peers.lock"
HOME = ROOT / ".bench"
INSTALL_S = 300.0


class NoPeers(Exception):
    """The peers could not be installed; the message says why."""


def python(session: Session) -> Path:
    """Give the interpreter of the peers. What failed once in a run is not tried again."""
    return session.once("the peers' environment", lambda: _ready(session))


def _ready(session: Session) -> Path:
    venv = HOME / "venv"
    wanted = hashlib.blake2b(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    stamp = venv / "ready"
    interpreter = venv / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    session.say("installing the peers into .bench/venv")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    _run([str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:",
          "--requirement", str(LOCK)])  # fmt: skip
    stamp.write_text(wanted)
    return interpreter


def _run(argv: list[str]) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.CalledProcessError as error:
        raise NoPeers(f"{argv[2:4]} failed: {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NoPeers(f"{argv[2:4]} took more than {INSTALL_S:g} s") from error
