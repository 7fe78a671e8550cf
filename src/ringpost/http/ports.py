"""Where the door listens: addresses, ports, certificates."""

import errno
import socket
import ssl
from typing import Final

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.settings import Settings

BACKLOG: Final = 1024
NEARBY: Final = 20  # ports tried after the default one, before any free one is taken
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Bound(Struct, frozen=True):
    """Sockets that listen, and the URL that reaches them from this host."""

    sockets: tuple[socket.socket, ...]
    url: str
    moved_from: int | None = None  # the default port, where it was taken

    def close(self) -> None:
        for bound in self.sockets:
            bound.close()


def bind(settings: Settings) -> Bound | None:
    """Bind the address of the settings; None where they want no door.

    A port that the user named and that is taken is a UsageError; the default one moves to a free one.
    """
    if settings.http is None:
        return None
    host, port = parse_address(settings.http)
    scheme = "https" if settings.tls_cert else "http"
    ports = [port] if settings.http_given else [*range(port, port + NEARBY + 1), 0]
    for candidate in ports:
        sockets = _bind_all(host, candidate)
        if sockets is not None:
            found = sockets[0].getsockname()[1]
            reached = _ANY.get(host, host)
            url = f"{scheme}://[{reached}]:{found}" if ":" in reached else f"{scheme}://{reached}:{found}"
            return Bound(tuple(sockets), url, port if candidate != port else None)
    raise UsageError(
        f"{settings.http} is taken: another process listens there. Stop it, or choose another address with "
        "http=, --http or RINGPOST_HTTP."
    )


def parse_address(text: str) -> tuple[str, int]:
    """Read `host:port`, `[::1]:port`, `:port` or a port."""
    host, colon, port = text.rpartition(":")
    if not colon and text.isdigit():
        host, port = "127.0.0.1", text
    if not port.isdigit() or int(port) > 65535 or (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise UsageError(f"{text!r} is no address to listen on: write 127.0.0.1:8000 or [::1]:8000.")
    return host.strip("[]"), int(port)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Load the certificate of the settings, if there is one."""
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"tls_cert {settings.tls_cert} and tls_key {settings.tls_key} can't be used: {error}."
        ) from error
    return context


def _bind_all(host: str, port: int) -> list[socket.socket] | None:
    """Bind every address that the name has to one port; None where the port is taken."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise UsageError(f"{host!r} is no address of this host: {error.strerror}.") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        bound = socket.socket(family, kind, protocol)
        sockets.append(bound)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind((address[0], port, *address[2:]))
            port = port or bound.getsockname()[1]
            # A bound socket is in nobody's way until it listens, so only listening tells whether the port is free.
            bound.listen(BACKLOG)
        except OSError as error:
            for one in sockets:
                one.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise UsageError(f"{host}:{port} can't be listened on: {error.strerror}.") from error
    return sockets
