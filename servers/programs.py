"""What starting a real server takes: a free port, a user that it runs as, a process of its own; and what happens where
there is none to be had."""

import atexit
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

_kept = ExitStack()  # a socket for each port that free_port gave
atexit.register(_kept.close)


class NoServer(Exception):
    """There is no such server to be had here; the message says why."""


def missing(what: str, exc: NoServer) -> None:
    """Skip loudly what needs a server that isn't there; where everything must be there, fail."""
    if os.environ.get("CI") == "true":
        raise exc
    pytest.skip(f"NO {what}: {exc}")


def free_port() -> int:
    """Give a port of the loopback interface where nobody listens, until who asked for it starts a server there.

    A server may be started, killed and started again there. Meanwhile nobody else is given the port, neither to listen
    nor as their own end of a connection: a socket that is bound to it and never listens keeps it while this process
    lives. Only Linux lets a server listen beside such a socket, so elsewhere it was just free a moment ago.
    """
    keeping = socket.socket()
    keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeping.bind(("127.0.0.1", 0))
    port: int = keeping.getsockname()[1]
    if sys.platform == "linux":
        _kept.enter_context(keeping)
    else:
        keeping.close()
    return port


def server_user() -> int | None:
    """Give the user whom a server that refuses root runs as; None: as we do."""
    return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None


def launched(argv: Sequence[str], folder: Path, user: int | None) -> "subprocess.Popen[bytes]":
    """Start a server in a folder; what it says is added to the file `log` there."""
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            start_new_session=True,
        )
