"""Pin what the library, its tests and its tools need: writes dev.lock from pyproject.toml.

usage: python tools/lock.py [--upgrade]
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Pinned by `make lock` from pyproject.toml; do not edit.\n"


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    lock = ROOT / "dev.lock"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "dev.in"
        source.write_text("\n".join(wanted) + "\n")
        pinned = Path(folder) / "dev.lock"
        if lock.exists():
            pinned.write_text(lock.read_text())
        command = [
            sys.executable,
            "-m",
            "piptools",
            "compile",
            "--quiet",
            "--strip-extras",
            "--no-header",
            "--no-annotate",
        ]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host", "--no-emit-options"]
        done = subprocess.run([*command, *sys.argv[1:], "--output-file", str(pinned), str(source)], check=False)
        if done.returncode:
            return done.returncode
        lock.write_text(HEADER + pinned.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
