"""A request and a response as the door and the transport exchange them, whoever reads the bytes."""

from collections.abc import AsyncIterator

from msgspec import Struct


class Request(Struct, gc=False):
    """One HTTP request, whole. Header names are lower case, of repeated ones the values joined by `, `."""

    method: str
    path: str  # percent-decoded
    query: str
    headers: dict[str, str]
    body: bytes
    arrived_s: float  # loop time when its bytes were read
    origin: str = ""  # scheme://host, for absolute URLs
    since_s: float = 0.0  # loop time when its turn came, on this connection; 0: nobody knows


class Response(Struct, gc=False):
    """One HTTP response. With `stream` set the body is what it yields, sent as it comes."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    stream: AsyncIterator[bytes] | None = None
    close: bool = False
