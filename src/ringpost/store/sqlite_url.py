"""Files of SQLite as URLs name them: `sqlite:///relative.db`, `sqlite:////absolute.db`."""

import os
from pathlib import Path

PREFIX = "sqlite:///"


def file_of(url: str | None) -> Path | None:
    """Give the file that a URL names; None where it names none."""
    if url is None or not url.startswith(PREFIX) or url == PREFIX:
        return None
    return Path(url.removeprefix(PREFIX))


def is_file(path: str | os.PathLike[str], other: Path) -> bool:
    """Say whether two paths are one file, by whichever links; one that isn't there is none."""
    try:
        return os.path.samefile(path, other)
    except FileNotFoundError:
        return False
