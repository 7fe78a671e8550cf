"""Where a contract is reached over HTTP."""

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ringpost.contract.errors import UsageError

if TYPE_CHECKING:
    from ringpost.client.guard import Guard

_PATH = re.compile(r"/[\x21-\x7e]*")


class Origin:
    """Where connections of one pool go to. `authority` is the value of Host: the port only where it isn't usual."""

    __slots__ = ("authority", "host", "port", "tls", "url")

    def __init__(self, host: str, port: int, tls: bool) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        name = f"[{host}]" if ":" in host else host
        self.authority = name if port == (443 if tls else 80) else f"{name}:{port}"
        self.url = f"http{'s' if tls else ''}://{self.authority}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)


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
        shown = f"{parts.scheme}://{host}"  # what is left out may be a password
        raise UsageError(f"{shown} with more is no address: it may have a host, a port and a path, nothing else.")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/")
    if prefix and not _PATH.fullmatch(prefix):
        raise UsageError(f"{url!r} is no address: its path has characters that must be percent-encoded.")
    return Origin(host, port or (443 if tls else 80), tls), prefix


class Target:
    """An origin, the path before every path, and which instance is meant where one is."""

    __slots__ = ("guards", "heads", "instance", "origin", "prefix")

    def __init__(self, origin: Origin, prefix: str = "", instance: str = "") -> None:
        self.origin = origin
        self.prefix = prefix
        self.instance = instance
        # By operation, of whoever sends: how a request for it begins, and what it goes through.
        self.heads: dict[str, bytes] = {}
        self.guards: dict[str, Guard] = {}

    @property
    def url(self) -> str:
        """Give where it is, for people."""
        return self.origin.url + self.prefix


def target_of(url: str, instance: str = "") -> Target:
    """Give the target that an address names."""
    origin, prefix = origin_of(url)
    return Target(origin, prefix, instance)
