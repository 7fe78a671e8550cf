"""The clocks of a host: the wall for due and expiry, the uptime for leases, because no clock step moves it."""

import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UPTIME_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_ms() -> int:
    """Give Unix milliseconds."""
    return time.time_ns() // 1_000_000


def uptime_ms() -> int:
    """Give milliseconds since this boot, sleep included; the same for every process of the host."""
    return time.clock_gettime_ns(_UPTIME_CLOCK) // 1_000_000


def boot_id() -> str:
    """Name this boot of the host. Where the kernel has no name for it, the minute it began serves."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"since-{(wall_ms() - uptime_ms()) // 60_000}"


class HostClock(Struct, frozen=True):
    """What a store reads time from; a test gives its own."""

    wall_ms: Callable[[], int] = wall_ms
    uptime_ms: Callable[[], int] = uptime_ms
    boot_id: Callable[[], str] = boot_id
