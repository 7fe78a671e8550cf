"""Where a contract is reached over HTTP."""

import re
from urllib.parse import urlsplit

from msgspec import Struct

from ringpost.contract.errors import UsageError

_PATH = re.compile(r"/[\x21-\x7e]*")


class Origin(Struct, frozen=True):
    """Where connections of one pool go to."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """The value of Host: the port only where it isn't the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.authority}"


def origin_of(url: str) -> tuple[Origin, str]:
    """Take an address apart: its origin, and the path that comes before every path, without a slash at its end."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no address: {error}.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{url!r} is no address: write http://host:port or https://host.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is no address: it may have a host, a port and a path, nothing else.")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/")
    if prefix and not _PATH.fullmatch(prefix):
        raise UsageError(f"{url!r} is no address: its path has characters that must be percent-encoded.")
    return Origin(host, port or (443 if tls else 80), tls), prefix


class Target(Struct, frozen=True):
    """An origin, the path before every path, and which instance is meant where one is."""

    origin: Origin
    prefix: str = ""
    instance: str = ""


def target_of(url: str, instance: str = "") -> Target:
    """Give the target that an address names."""
    origin, prefix = origin_of(url)
    return Target(origin, prefix, instance)
