"""Child processes of a measurement: started, heard line by line, read from outside, and always ended."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 12.0
NO_SETTINGS: Mapping[str, str] = {}
WIDE = {"depth_max": "100000000", "depth_bytes_max": str(1 << 40)}  # no queue of a measurement is too deep


class ChildFailed(Exception):
    """A process of the measurement ended, or stayed silent, when it should have said something."""


class Child:
    """One process. Its standard output is JSON, a line each; what it says on the side is kept for errors."""

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._name = " ".join(argv[1:3])
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._asides: queue.Queue[bytes] = queue.Queue()
        self._heard: deque[bytes] = deque(maxlen=30)  # of what it said on the side
        pipes = ((self._process.stdout, self._lines), (self._process.stderr, self._asides))
        self._listeners = [threading.Thread(target=self._listen, args=pipe, daemon=True) for pipe in pipes]
        for listener in self._listeners:
            listener.start()

    def _listen(self, pipe: IO[bytes], lines: "queue.Queue[bytes]") -> None:
        with pipe:
            for line in pipe:
                if lines is self._asides:
                    self._heard.append(line)
                lines.put(line)
        lines.put(b"")

    def says(self, word: str, within_s: float = 60.0) -> dict[str, Any]:
        """Give the next line that has this word; others are dropped."""
        until = time.monotonic() + within_s
        while True:
            said: dict[str, Any] = msgspec.json.decode(self._next(self._lines, word, until))
            if word in said:
                return said

    def notes(self, words: str, within_s: float = 30.0) -> str:
        """Give what follows these words on the side (standard error)."""
        until = time.monotonic() + within_s
        while True:
            _, found, rest = self._next(self._asides, words, until).decode(errors="replace").partition(words)
            if found:
                return rest.strip()

    def _next(self, lines: "queue.Queue[bytes]", word: str, until: float) -> bytes:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise ChildFailed(f"{self._name} said no {word!r} in time. {self.tail()}") from None
        if not line:
            raise ChildFailed(f"{self._name} ended without {word!r}. {self.tail()}")
        return line

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):  # its own session: nobody else is in that group
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for listener in self._listeners:  # each closes its pipe
            listener.join(STOP_S)
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def pids(self) -> list[int]:
        """Give this process and all that descend from it."""
        found, at = [self.pid], 0
        while at < len(found):
            for tasks in Path(f"/proc/{found[at]}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found.extend(int(pid) for pid in tasks.read_text().split())
            at += 1
        return found

    def stop(self) -> None:
        """End it and what it started: asked first, then killed."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def tail(self) -> str:
        """Give the last of what it said on the side."""
        return b"".join(self._heard).decode(errors="replace")[-1500:]


def environment(**more: str) -> dict[str, str]:
    """Give the environment of a child: ours without settings of Ringpost, so that nothing outside changes a figure."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RINGPOST_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **more}


@contextmanager
def part(name: str, folder: Path, settings: Mapping[str, str] = NO_SETTINGS, **options: Any) -> Generator[Child]:
    """Start one of `bench.parts` with its options; it is ended when the block is left.

    `settings`: those of Ringpost that it shall have, by their keys.
    """
    argv = [sys.executable, "-m", f"bench.parts.{name}", msgspec.json.encode(options).decode()]
    given = {f"RINGPOST_{key.upper()}": value for key, value in {**WIDE, **settings}.items()}
    with started(argv, folder, environment(**given)) as it:
        yield it


@contextmanager
def started(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> Generator[Child]:
    """Start any program, and end it when the block is left."""
    child = Child(argv, folder, env)
    try:
        yield child
    finally:
        child.stop()


def told(
    name: str, folder: Path, within_s: float = 120.0, settings: Mapping[str, str] = NO_SETTINGS, **options: Any
) -> dict[str, Any]:
    """Run one of `bench.parts` to its end and give what it measured."""
    with part(name, folder, settings, **options) as child:
        said: dict[str, Any] = child.says("measured", within_s)["measured"]
        return said


def cpu_s(pids: Sequence[int]) -> float:
    """Give the CPU time of some processes so far, all threads, to the nanosecond where they still live."""
    spent = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            spent += time.clock_gettime((~pid << 3) | 2)  # the kernel's number of another process's CPU clock
    return spent


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Give the resident memory of a process now, or with VmHWM its highest."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ChildFailed(f"/proc/{pid}/status has no {field}")
