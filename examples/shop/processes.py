"""The shop's services as separate processes on one SQLite file."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
_kept = ExitStack()
atexit.register(_kept.close)


def free_port() -> int:
    """Find a port that nobody uses. On Linux a socket keeps it, which lets a service listen there and nobody else."""
    keeping = socket.socket()
    keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeping.bind(("127.0.0.1", 0))
    port: int = keeping.getsockname()[1]
    if sys.platform == "linux":
        _kept.enter_context(keeping)
    else:
        keeping.close()
    return port


class Process:
    """One service: `ringpost run NAME:NAME` with a log of its own."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = folder / f"{name}.log"
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(HERE)}
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "ringpost", "run", f"{self.name}:{self.name}"]
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                [*command, "--http", self.url.removeprefix("http://")],
                cwd=self._log.parent,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, timeout_s: float = 20) -> None:
        """Wait until its door says that it is ready."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._running is None or self._running.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=1).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start; its log says:\n{self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it as a power cut ends a process: kill -9."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def interrupt(self) -> None:
        """Tell it to end, as Ctrl-C does."""
        if self._running is not None:
            self._running.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._running is not None:
            self._running.wait(30)
