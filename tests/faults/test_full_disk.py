"""A real disk that is really full: what has room to be settled is settled, and it goes on without a restart."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")
SIZE_MIB = 64
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]  # with a file system of its own, without any rights


def on_a_small_disk(folder: Path) -> dict[str, object]:
    mounting = f'mount -t tmpfs -o size={SIZE_MIB}m tmpfs "$1" && exec "$2" "$3" "$1"'
    command = [*ALONE, "sh", "-c", mounting, "sh", str(folder), sys.executable, str(SCRIPT)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    said: dict[str, object] = json.loads(found.stdout)
    return said


def may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    trying = [*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(trying, capture_output=True, timeout=20, check=False).returncode == 0


def test_on_a_full_disk_what_runs_is_settled_and_nobody_restarts(tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        assert os.environ.get("CI") != "true", "CI has to let this test mount a small file system (user namespaces)"
        pytest.skip("this host lets nobody mount a small file system: the full disk is not tested")
    said = on_a_small_disk(tmp_path)
    print(said)
    assert said["had_ballast"] and said["gave_ballast"]
    assert not said["failed"]
    assert said["settled"] == said["claimed"] == 50
    kept = said["kept"]
    assert isinstance(kept, int) and said["rows"] == kept - 50 + 50 + 1  # the settled have staged one each; one more
