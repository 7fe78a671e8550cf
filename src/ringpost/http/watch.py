"""Notice that source files changed, by looking: a poll each half second needs no thread and no library."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

POLL_S: Final = 0.5
FILES_MAX: Final = 10_000
_ENDINGS: Final = (".py", ".toml")
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


class Watch:
    """Watch the Python files below a folder. Hidden folders and installed packages are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = self._look()

    def changed(self) -> str | None:
        """Give a file that is new, gone or written since the last time, if there is one."""
        seen, self._seen = self._seen, self._look()
        if seen == self._seen:
            return None
        return min(dict(seen.items() ^ self._seen.items()))

    def _look(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in _files(str(self._folder)):
            try:
                found[entry.path] = entry.stat().st_mtime_ns
            except OSError:  # gone between the listing and the look
                continue
            if len(found) >= FILES_MAX:
                break
        return found


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        elif entry.name.endswith(_ENDINGS):
            yield entry
