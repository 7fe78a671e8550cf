"""The saga's three services, each a process, on one SQLite file."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import apsw

HERE = Path(__file__).resolve().parent
NAMES = ("orders", "payments", "shipping")
LEASE_S = 1.0  # what a killed process held is taken over after that


def free_port() -> int:
    """Find a port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Processes:
    """The three processes: `with Processes(folder)` starts them and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder / 'saga.db'}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._doors: dict[str, str] = {}

    def __enter__(self) -> "Processes":
        try:
            for name in NAMES:
                self.start(name)
            for name in NAMES:
                self.wait_ready(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in self._running:
            self.kill(name)

    def start(self, name: str) -> None:
        """Start a service; it takes up what waits for it by itself."""
        self._doors[name] = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "ringpost", "run", f"{name}:{name}", "--http", self._doors[name]]
        environment = {"RINGPOST_STORE": self.store, "RINGPOST_LEASE": str(LEASE_S), "PYTHONPATH": str(HERE)}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, name: str, timeout_s: float = 40) -> None:
        """Wait until a service's door says that it is ready."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self._running[name].poll() is None:
            try:
                urllib.request.urlopen(f"http://{self._doors[name]}/readyz", timeout=1).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        log = (self.folder / f"{name}.log").read_text(encoding="utf-8")
        raise RuntimeError(f"{name} did not start; its log says:\n{log[-2000:]}")

    def kill(self, name: str) -> None:
        """End a service as a power cut ends it: kill -9."""
        self._running[name].kill()
        self._running[name].wait()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Look into the store's file, with the SQLite library that Ringpost itself has."""
        db = apsw.Connection(str(self.folder / "saga.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            db.set_busy_timeout(10_000)
            return list(db.execute(sql))
        except apsw.SQLError:
            return []  # the services haven't made their tables yet
        finally:
            db.close()
