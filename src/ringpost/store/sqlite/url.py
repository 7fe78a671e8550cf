"""Files of SQLite as URLs name them: `sqlite:///relative.db`, `sqlite:////absolute.db`."""

import os
from pathlib import Path

FileId = tuple[int, int]  # device and inode

PREFIX = "sqlite:///"
ONE_LIBRARY = (
    "Python's sqlite3 and Ringpost's SQLite in one process drop each other's locks, and messages that have a receipt "
    "could be lost. Keep your tables in a file of their own, with an outbox table and a relay; or write them in a "
    "handler by its ringpost.Transaction; or open the store's file in another process"
)


def file_of(url: str | None) -> Path | None:
    """Give the file that a URL names; None where it names none."""
    if url is None or not url.startswith(PREFIX) or url == PREFIX:
        return None
    return Path(url.removeprefix(PREFIX))


def file_at(path: str | os.PathLike[str]) -> FileId | None:
    """Give which file is at a path now, by whichever links; None where there is none, or can't be one."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def is_file(path: str | os.PathLike[str], other: Path) -> bool:
    """Say whether two paths are one file, by whichever links; one that isn't there is none."""
    try:
        return os.path.samefile(path, other)
    except FileNotFoundError:
        return False
