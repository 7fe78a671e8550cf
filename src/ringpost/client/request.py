"""Write requests as they go out: nothing that a caller gives may end a header and begin another."""

from collections.abc import Sequence

from ringpost.client.target import Origin
from ringpost.contract.errors import UsageError


def whole(method: str, path: str, origin: Origin, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """Give a request as it goes out, in one piece. Raises UsageError for characters that would make two of it."""
    return b"%bcontent-length: %d\r\n\r\n%b" % (head(method, path, origin, headers), len(body), body)


def head(method: str, path: str, origin: Origin, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Give the beginning of a request, to which more headers may be added."""
    first = f"{method} {path} HTTP/1.1\r\nhost: {origin.authority}\r\n"
    if first.count(" ") != 3 or not path.startswith("/"):
        raise UsageError(f"{method} {path!r} isn't a request: a path begins with / and has no spaces.")
    return written(first, 2, headers)


def written(first: str, lines: int, headers: Sequence[tuple[str, str]]) -> bytes:
    """Write header lines behind the first ones. One line break too many would be another header, or a request."""
    text = first + "".join([f"{name}: {value}\r\n" for name, value in headers])
    lines += len(headers)
    if text.count("\n") != lines or text.count("\r") != lines:
        raise UsageError("A path or header of this request has a line break in it.")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise UsageError(f"A path or header of this request has characters that can't travel: {error}.") from error
