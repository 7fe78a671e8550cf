"""Where everything is configured: `ringpost.toml` (found upwards), `RINGPOST_*`, arguments → one frozen object."""

from collections.abc import Mapping

from msgspec import Struct

from ringpost.core.receipt import Level


class Settings(Struct, frozen=True, kw_only=True):
    """All that a process is told from outside. Durations are seconds, sizes bytes."""

    store: str | None = None  # URL; None: this process has no store
    http: str | None = "127.0.0.1:8000"
    http_given: bool = False  # the user named the address: a taken port is an error
    workers: int = 1
    addresses: Mapping[str, str] = {}  # contract → URL
    durability: Level = "durable"
    advertise: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    lease_s: float = 30.0
    keep_bytes: int = 1 << 30
    depth_max: int = 1_000_000
    depth_bytes_max: int = 1 << 30
    request_bytes_max: int = 256 * 1024
    reply_bytes_max: int = 1024 * 1024
    header_bytes_max: int = 16 * 1024
    header_count_max: int = 100
    header_time_s: float = 5.0
    body_time_s: float = 30.0
    keep_alive_s: float = 15.0
    pool_idle_s: float = 10.0
    connections_max: int = 1024
    call_timeout_s: float = 5.0
    call_timeout_max_s: float = 60.0
    shutdown_s: float = 28.0
