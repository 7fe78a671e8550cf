"""How a part hears what to do and says what it found."""

import os
import sys
from typing import TypeVar

import msgspec

T = TypeVar("T")


def options(kind: type[T]) -> T:
    """Read the options of this part."""
    return msgspec.json.decode(sys.argv[1], type=kind)


def say(**words: object) -> None:
    """Say one line; it arrives whole, also when several processes share the pipe."""
    os.write(1, msgspec.json.encode({"pid": os.getpid(), **words}) + b"\n")


def wait_for_go() -> None:
    """Wait until the measurement says that all parts shall begin."""
    sys.stdin.readline()
