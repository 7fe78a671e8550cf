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
        self._date_until_s = 0.0

    def whole(self, response: Response, now_s: float, *, head_only: bool, connection: bytes) -> bytes:
        """Give head and body. `connection` is a header line or nothing. ValueError: a header holds CR, LF or NUL."""
        body = response.body
        if response.status in BODILESS:
            length, body = b"", b""
        else:
            length = b"content-length: %d\r\n" % len(body)
        head = self._heads.get((response.status, response.content_type)) or self._head(response)
        extra = _lines(response.headers) if response.headers else b""
        if head_only:
            body = b""
        if now_s >= self._date_until_s:
            self._new_date(now_s)
        return b"".join((head, length, self._date, connection, extra, b"\r\n", body))

    def stream_head(self, response: Response, now_s: float, *, chunked: bool, connection: bytes) -> bytes:
        """Give the head of a response whose length isn't known."""
        if now_s >= self._date_until_s:
            self._new_date(now_s)
        coding = b"transfer-encoding: chunked\r\n" if chunked else b""
        return b"".join((self._head(response), coding, self._date, connection, _lines(response.headers), b"\r\n"))

    def _head(self, response: Response) -> bytes:
        status, kind = response.status, response.content_type
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())
        head = line if status in BODILESS else line + _lines((("content-type", kind),))
        if len(self._heads) < _HEADS_MAX:
            self._heads[status, kind] = head
        return head

    def _new_date(self, now_s: float) -> None:
        self._date = b"date: %s\r\n" % formatdate(usegmt=True).encode()
        self._date_until_s = now_s + 1.0


def chunk(data: bytes) -> bytes:
    """Frame a piece of a chunked body. It must not be empty: an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a response header holds a line break or NUL")
    return text.encode("latin-1")
