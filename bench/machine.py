"""What the figures were measured on."""

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

SYNCS = 200
LOOP = 1_000_000


def describe(folder: Path) -> dict[str, str]:
    """Name the processor, its cores, memory, system, Python, the disk under `folder` and how busy all that is."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "disk": f"{_file_system(folder)}, {sync_ms(folder):.2f} ms a sync of 4 KiB (median of {SYNCS})",
        "speed": f"{loop_ms():.0f} ms for a loop of {LOOP:,} steps (shared cores differ by half)",
        "load": f"{os.getloadavg()[0]:.2f} at the beginning",
    }


def loop_ms() -> float:
    """Measure how fast this core is for Python just now, the median of five."""
    taken: list[float] = []
    for _ in range(5):
        began, total = time.process_time(), 0
        for number in range(LOOP):
            total += number & 7
        taken.append(time.process_time() - began)
    return statistics.median(taken) * 1000


def sync_ms(folder: Path) -> float:
    """Measure one durable write: what no commit can be faster than."""
    taken: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, SYNCS * 4096)
        os.fsync(file.fileno())
        for at in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 4096, at * 4096)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


class Others:
    """How much of the machine everybody else used since this was made, or last asked."""

    def __init__(self) -> None:
        self._before = _used_s()

    def share(self) -> float:
        """Give it as a share of all cores, 0 to 1."""
        before, self._before = self._before, _used_s()
        at_s, busy_s, own_s = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, busy_s - own_s) / at_s / (os.cpu_count() or 1)


def _used_s() -> tuple[float, float, float]:
    """Give the time, the CPU time that all cores were busy, and that of this process and its ended children."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, soft, steal = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields)
    own = os.times()
    own_s = own.user + own.system + own.children_user + own.children_system
    return time.monotonic(), user + nice + system + irq + soft + steal, own_s


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    best, kind = "", "unknown file system"
    try:
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
            _, mount, name, *_ = line.split(" ")
            if str(folder).startswith(mount) and len(mount) >= len(best):
                best, kind = mount, name
    except OSError:
        pass
    return kind
