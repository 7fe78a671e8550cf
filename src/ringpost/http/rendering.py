"""Put a response into bytes: the head of each status and content type is rendered once, the date once a second."""

from email.utils import formatdate
from http import HTTPStatus

from ringpost.wire.http import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
BODILESS = frozenset({204, 304})
_HEADS_MAX = 256  # pairs of status and content type; a Problem may have any status, so it is bounded


class Renderer:
    """Render responses for one server."""

    def __init__(self) -> None:
        self._heads: dict[tuple[int, str], bytes] = {}
        self._date = b""
        self._end = b""  # what follows the number of Content-Length in a plain answer
        self._date_until_s = 0.0

    def plain(self, response: Response, now_s: float) -> bytes:
        """Give head and body of the usual answer: with a body, without headers of its own, the connection stays."""
        if now_s >= self._date_until_s:
            self._new_date(now_s)
        body = response.body
        head = self._heads.get((response.status, response.content_type)) or self._head(response)
        return b"".join((head, b"%d" % len(body), self._end, body))

    def whole(self, response: Response, now_s: float, *, head_only: bool, connection: bytes) -> bytes:
        """Give head and body. `connection` is a header line or nothing. ValueError: a header holds CR, LF or NUL."""
        if now_s >= self._date_until_s:
            self._new_date(now_s)
        if response.status in BODILESS:
            return b"".join((_status_line(response.status), self._date, connection, _lines(response.headers), b"\r\n"))
        head = self._heads.get((response.status, response.content_type)) or self._head(response)
        length = b"%d\r\n" % len(response.body)
        body = b"" if head_only else response.body
        return b"".join((head, length, self._date, connection, _lines(response.headers), b"\r\n", body))

    def stream_head(self, response: Response, now_s: float, *, chunked: bool, connection: bytes) -> bytes:
        """Give the head of a response whose length isn't known."""
        if now_s >= self._date_until_s:
            self._new_date(now_s)
        coding = b"transfer-encoding: chunked\r\n" if chunked else b""
        kind = _lines((("content-type", response.content_type),))
        line = _status_line(response.status)
        return b"".join((line, kind, coding, self._date, connection, _lines(response.headers), b"\r\n"))

    def _head(self, response: Response) -> bytes:
        """Render what comes before the number of Content-Length."""
        kind = _lines((("content-type", response.content_type),))
        head = b"".join((_status_line(response.status), kind, b"content-length: "))
        if len(self._heads) < _HEADS_MAX:
            self._heads[response.status, response.content_type] = head
        return head

    def _new_date(self, now_s: float) -> None:
        self._date = b"date: %s\r\n" % formatdate(usegmt=True).encode()
        self._end = b"\r\n" + self._date + b"\r\n"
        self._date_until_s = now_s + 1.0


def chunk(data: bytes) -> bytes:
    """Frame a piece of a chunked body. It must not be empty: an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())


def _lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    if not headers:
        return b""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a response header holds a line break or NUL")
    return text.encode("latin-1")
