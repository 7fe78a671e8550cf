"""Cut what a connection says into requests, sans-IO: strict where leniency would let two parties read two things.

llhttp (through httptools) parses heads and chunks. What it is lenient about is looked at beside it: the request line,
Host, Transfer-Encoding, headers that mean something only once, sizes and counts. So that this is possible, heads and
bodies are handed to it one by one: a head ends at its empty line, a body at its Content-Length or last chunk, and
nothing behind that point is parsed before it has been looked at. Whatever is refused ends the connection.
"""

import re
from collections import deque
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct

from ringpost.settings import Settings
from ringpost.wire.http import Request

PIPELINED_MAX = 16
KNOWN_HEADS_MAX = 8
KNOWN_HEAD_BYTES_MAX = 1024
SLICE_BYTES = 16 * 1024  # of a chunked body handed to the parser at a time

_REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.([01])\r\n")
_LINE_SO_FAR = re.compile(rb"[A-Z]{1,32}(?: |\Z)")
_BARE_LF_OR_NUL = re.compile(rb"(?:\A|[^\r])\n|\0")
HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z|\Z")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile(rb"%2[fF]")
_SLASH: Final = ord("/")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

# Two values of one of these could be read in two ways; of the others several lines are one list (RFC 9110, 5.3).
ONCE = frozenset(
    {
        "authorization",
        "ce-id",
        "ce-source",
        "ce-specversion",
        "ce-type",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "operation-id",
        "request-timeout",
        "traceparent",
        "transfer-encoding",
    }
)
# Known spellings, so that the usual header costs a look-up.
_USUAL = """Accept Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Length Content-Type
 Cookie Expect Forwarded Host Idempotency-Key Origin Prefer Priority Referer Request-Timeout Traceparent Tracestate
 Transfer-Encoding Upgrade User-Agent X-Forwarded-For X-Forwarded-Proto X-Request-Id Ringpost-Attempt Ringpost-Causation
 Ringpost-Depth Ringpost-Instance Ringpost-Path Ringpost-Priority Ringpost-Store"""
_NAMES = {spelt.encode(): name.lower() for name in _USUAL.split() for spelt in (name, name.lower())}


class Arrived(Request, gc=False):
    """A request off the wire, with what its answer must know of it."""

    keep_alive: bool = True
    http_1_0: bool = False


class _Known(Struct, frozen=True):
    """What a head was read as; the same bytes mean the same again."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    origin: str
    body_bytes: int


class Refused(Exception):
    """What came is no request that we take: answer this and close."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


# What a reader is in the middle of; each has a time limit of its own. Plain integers, because they are compared several
# times a request: an enum's cost a microsecond.
IDLE: Final = 0  # between two requests
HEAD: Final = 1
BODY: Final = 2
CHUNKS: Final = 3
DEAD: Final = 4  # after a refusal or a last request: nothing that follows is looked at


class Reader:
    """Read one connection. Whole requests, and at last perhaps a refusal, wait in `ready` in their order.

    Set `now_s` before `feed`. `held` says that there are too many requests, and the rest is kept unparsed: feed again
    (with `b""`) when they are done.
    `expecting` says that the client waits for `100 Continue` before it sends the body.
    """

    def __init__(self, settings: Settings, scheme: str) -> None:
        self.ready: deque[Arrived | Refused] = deque()
        self.phase = IDLE
        self.expecting = False
        self.held = False
        self.now_s = 0.0
        self._head_bytes_max = settings.header_bytes_max
        self._head_lines_max = settings.header_count_max
        self._body_bytes_max = settings.request_bytes_max
        self._scheme = scheme
        self._rest = b""
        self._request: Arrived | None = None
        self._parser = HttpRequestParser(self)
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size_bytes = 0  # of the body so far; one counter, whatever the chunks
        self._raw_bytes = 0  # of a chunked body with all that frames it
        self._left_bytes = 0  # of a body with Content-Length
        self._extra_lines = 0  # trailers
        self._done = False
        self._too_large = False
        self._host: str | None = None  # the last one found good, and what it makes as origin
        self._origin = ""
        self._known: dict[bytes, _Known] = {}  # clients say the same head again and again: it is read once

    def feed(self, data: bytes) -> None:
        """Take in what the socket gave."""
        if self.phase == DEAD:
            return
        fresh = len(self._rest)
        if fresh:
            data = self._rest + data
            self._rest = b""
            self.held = False
        try:
            position = self._read(data, fresh)
        except Refused as refusal:
            self._die(refusal)
        except HttpParserError as error:
            self._die(self._why(error))
        else:
            if position < len(data):
                self._rest = data[position:] if position else data
                self.held = len(self.ready) >= PIPELINED_MAX

    def _read(self, data: bytes, fresh: int) -> int:
        """Take from `data` what is complete; give the position up to which it was taken."""
        position, end = 0, len(data)
        while position < end and len(self.ready) < PIPELINED_MAX:
            phase = self.phase
            if phase <= HEAD:
                after = self._head(data, position, fresh)
            elif phase == BODY:
                after = self._body(data, position)
            elif phase == CHUNKS:
                after = self._chunks(data, position)
            else:
                return end
            if after == position:
                break
            position = after
        return position

    # Heads.

    def _head(self, data: bytes, start: int, fresh: int) -> int:
        end = data.find(b"\r\n\r\n", start)
        if (end if end >= 0 else len(data)) - start > self._head_bytes_max:
            raise Refused(431, "too_large", f"The head of a request may have {self._head_bytes_max} bytes.")
        if end < 0:
            self._begun(data, start, fresh)
            return start
        end += 4
        head = data[start:end]
        known = self._known.get(head)
        if known is not None and end + known.body_bytes <= len(data):
            return self._again(known, data, end)
        line = _REQUEST_LINE.match(data, start, end)
        if line is None:
            raise Refused(400, "invalid", "The request line must read: METHOD target HTTP/1.1.")
        if end - start > 4 * self._head_lines_max and data.count(b"\r\n", start, end) - 2 > self._head_lines_max:
            raise Refused(431, "too_large", f"A request may have {self._head_lines_max} header lines.")
        headers: dict[str, str] = {}
        self._headers = headers
        self._done = False
        try:
            self._parser.feed_data(head)
        except HttpParserUpgrade:
            self._stay(line[1], headers)
        self._request = self._arrived(line, headers)
        if "transfer-encoding" in headers or "expect" in headers:
            self._await_odd_body(headers)
            return end
        if not self._done:
            self._await_body(headers)
        if "upgrade" not in headers and self._request.keep_alive and not self._request.http_1_0:
            self._remember(head, self._request, 0 if self._done else self._left_bytes)
        if self._done:
            self._complete(b"")
        return end

    def _remember(self, head: bytes, request: Arrived, body_bytes: int) -> None:
        """Keep what a head means, if it is a plain one: by its exact bytes, for this connection, and only a few."""
        if len(head) <= KNOWN_HEAD_BYTES_MAX:
            if len(self._known) >= KNOWN_HEADS_MAX:
                self._known.clear()
            self._known[head] = _Known(
                request.method, request.path, request.query, dict(request.headers), request.origin, body_bytes
            )

    def _again(self, known: _Known, data: bytes, start: int) -> int:
        """Take a request whose head was read before and whose body is here whole, without the parser: it stands between
        two messages, before as after."""
        end = start + known.body_bytes
        body, headers = data[start:end], known.headers.copy()
        self.ready.append(Arrived(known.method, known.path, known.query, headers, body, self.now_s, known.origin))
        self.phase = IDLE
        return end

    def _stay(self, method: bytes, headers: dict[str, str]) -> None:
        """Go on with HTTP/1.1. A request to speak something else (h2c) may be ignored (RFC 9110, 7.8), but llhttp then
        takes its body for that other protocol: another parser gets it."""
        if method == b"CONNECT":
            raise Refused(400, "invalid", "This is no proxy.") from None
        self._parser = HttpRequestParser(self)
        self._done = not ("content-length" in headers or "transfer-encoding" in headers)
        if not self._done:
            self._headers = {}
            self._parser.feed_data(_body_of(headers))

    def _begun(self, data: bytes, start: int, fresh: int) -> None:
        """Look at a head that isn't whole: what can't become one is refused at once, not after the header time."""
        self.phase = HEAD
        if _LINE_SO_FAR.match(data, start) is None:
            raise Refused(400, "invalid", "This is no HTTP/1.1 request.")
        if _BARE_LF_OR_NUL.search(data, max(start, fresh - 1)) is not None:
            raise Refused(400, "invalid", "Lines end with CR LF and hold no NUL.")

    def _arrived(self, line: re.Match[bytes], headers: dict[str, str]) -> Arrived:
        method, target, minor = line.groups()
        old = minor == b"0"
        host = headers.get("host")
        if host is None and not old:
            raise Refused(400, "invalid", "A request of HTTP/1.1 must have a Host header.")
        if host != self._host or host is None:
            self._new_host(host)
        if target[0] != _SLASH:
            target = self._other_form(method, target, host)
        path, query = split_target(target)
        keep = _keeps(headers["connection"], old) if "connection" in headers else not old
        return Arrived(method.decode(), path, query, headers, b"", self.now_s, self._origin, 0.0, keep, old)

    def _new_host(self, host: str | None) -> None:
        if host is not None and HOST.match(host) is None:
            raise Refused(400, "invalid", "The Host header names no host.")
        self._host = host
        self._origin = f"{self._scheme}://{host}" if host else ""

    def _other_form(self, method: bytes, target: bytes, host: str | None) -> bytes:
        """Take the absolute form if it names the host that Host names; `*` is for OPTIONS."""
        if target == b"*" and method == b"OPTIONS":
            return target
        scheme, _, rest = target.partition(b"://")
        authority, slash, path = rest.partition(b"/")
        if scheme.lower() not in (b"http", b"https") or not authority:
            raise Refused(400, "invalid", "The target of a request must be a path.")
        if host is not None and authority.lower() != host.lower().encode("latin-1"):
            raise Refused(400, "invalid", "The target names another host than the Host header.")
        if host is None:
            self._new_host(authority.decode("ascii"))
        return slash + path or b"/"

    def _await_body(self, headers: dict[str, str]) -> None:
        self._left_bytes = int(headers["content-length"])
        if self._left_bytes > self._body_bytes_max:
            raise self._large()
        self.phase = BODY

    def _await_odd_body(self, headers: dict[str, str]) -> None:
        assert self._request is not None
        old = self._request.http_1_0
        expecting = "expect" in headers and not old
        if expecting and headers["expect"].lower() != "100-continue":
            raise Refused(417, "invalid", "Of expectations only 100-continue is met.")
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
                raise Refused(400, "invalid", "The only Transfer-Encoding is chunked, and without a Content-Length.")
            if old:
                raise Refused(400, "invalid", "HTTP/1.0 has no Transfer-Encoding.")
            self._raw_bytes = self._size_bytes = self._extra_lines = 0
            self.phase = CHUNKS
        elif self._done:
            self._complete(b"")
            return
        else:
            self._await_body(headers)
        self.expecting = expecting

    # Bodies.

    def _body(self, data: bytes, start: int) -> int:
        piece = data[start : start + self._left_bytes]
        self._left_bytes -= len(piece)
        self._parser.feed_data(piece)
        if self._left_bytes == 0:
            parts = self._parts
            self._complete(parts[0] if len(parts) == 1 else b"".join(parts))
        return start + len(piece)

    def _chunks(self, data: bytes, start: int) -> int:
        """Feed a chunked body up to its next empty line: it can end there and nowhere else."""
        end = data.find(b"\r\n\r\n", start, start + SLICE_BYTES)
        if end >= 0:
            stop = end + 4
        else:  # the empty line may be cut in two: what could be its begin waits for the rest
            stop = min(len(data), start + SLICE_BYTES)
            stop -= next((n for n in (3, 2, 1) if data.endswith(b"\r\n\r\n"[:n], start, stop)), 0)
            if stop == start:
                return start
        self._raw_bytes += stop - start
        self._parser.feed_data(data[start:stop])
        if self._done:
            self._complete(b"".join(self._parts))
        elif self._raw_bytes > self._head_bytes_max + 2 * self._size_bytes:
            raise Refused(400, "invalid", "The body is sent in chunks too small to be worth their framing.")
        return stop

    def _complete(self, body: bytes) -> None:
        assert self._request is not None
        if body:
            self._request.body = body
            self._parts = []
        self.ready.append(self._request)
        self.phase = IDLE if self._request.keep_alive else DEAD  # behind the last request nothing counts
        self._request = None
        self.expecting = False

    # What llhttp calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase >= BODY:  # trailers mean nothing to us; they are counted and dropped
            self._extra_lines += 1
            if self._extra_lines > self._head_lines_max:
                raise Refused(431, "too_large", "There are too many trailers.")
            return
        key = _NAMES.get(name) or name.decode("ascii").lower()
        text = value.rstrip(b" \t").decode("latin-1")  # llhttp leaves the space behind a value
        headers = self._headers
        if key in headers:
            if key in ONCE:
                raise Refused(400, "invalid", f"The header {key} may be there once.")
            text = headers[key] + ("; " if key == "cookie" else ", ") + text
        headers[key] = text

    def on_body(self, body: bytes) -> None:
        self._size_bytes += len(body)
        if self.phase == CHUNKS and self._size_bytes > self._body_bytes_max:
            self._too_large = True
            raise self._large()
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._done = True

    # Ends.

    def _large(self) -> Refused:
        return Refused(413, "too_large", f"A request may have {self._body_bytes_max} bytes.")

    def _why(self, error: HttpParserError) -> Refused:
        cause = error.__context__
        if isinstance(cause, Refused):
            return cause
        return Refused(400, "invalid", f"This is no valid HTTP/1.1 request: {error}.")

    def _die(self, refusal: Refused) -> None:
        self.phase = DEAD
        self.expecting = self.held = False
        self._parts = []
        self._request = None
        self.ready.append(refusal)


def _keeps(connection: str, old: bool) -> bool:
    options = [option.strip() for option in connection.lower().split(",")]
    return "close" not in options and (not old or "keep-alive" in options)


def _body_of(headers: dict[str, str]) -> bytes:
    """Give the head that makes a fresh parser expect the body of a request with these headers."""
    name = "content-length" if "content-length" in headers else "transfer-encoding"
    return f"POST / HTTP/1.1\r\nhost: x\r\n{name}: {headers[name]}\r\n\r\n".encode("latin-1")


@lru_cache(maxsize=1024)
def split_target(target: bytes) -> tuple[str, str]:
    """Split a target into percent-decoded path and raw query. An encoded slash stays encoded: it separates nothing."""
    if b"#" in target:
        raise Refused(400, "invalid", "A target has no fragment.")
    path, _, query = target.partition(b"?")
    if b"%" not in path:
        return path.decode("ascii"), query.decode("ascii")
    if _BAD_ESCAPE.search(path) is not None:
        raise Refused(400, "invalid", "The path has a % that isn't followed by two hexadecimal digits.")
    raw = b"%2F".join(unquote_to_bytes(part) for part in _ENCODED_SLASH.split(path))
    if _CONTROL.search(raw) is not None:
        raise Refused(400, "invalid", "The path has a control character.")
    try:
        return raw.decode(), query.decode("ascii")
    except UnicodeDecodeError:
        raise Refused(400, "invalid", "The path isn't UTF-8.") from None
