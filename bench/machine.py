"""What the figures were measured on."""

import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

SYNCS = 200


def describe(folder: Path) -> dict[str, str]:
    """Name the processor, its cores, memory, system, Python, the disk under `folder` and how busy all that is."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "disk": f"{_file_system(folder)}, {sync_ms(folder):.2f} ms a sync of 4 KiB (median of {SYNCS})",
        "load": f"{os.getloadavg()[0]:.2f} at the beginning",
    }


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


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


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
