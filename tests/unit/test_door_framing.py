"""What the server reads off the wire: every form that two parsers could read in two ways is refused."""

import random
import re
from typing import Any

import h11
import pytest

from ringpost.http import framing
from ringpost.http.framing import CHUNKS, DEAD, HEAD, IDLE, PIPELINED_MAX, Arrived, Reader, Refused
from ringpost.settings import Settings

HOST = b"Host: a\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST
TE = b"Transfer-Encoding: chunked\r\n"
SEED = 20261122


def read(*pieces: bytes, settings: Settings | None = None) -> list[Any]:
    reader = Reader(settings or Settings(), "http")
    for piece in pieces:
        reader.feed(piece)
    return list(reader.ready)


def outline(items: list[Any]) -> list[Any]:
    return [(item.method, item.path, item.body) if isinstance(item, Arrived) else item.status for item in items]


def test_a_request_is_read_whole() -> None:
    (request,) = read(POST + b"Content-Length: 2\r\nX-Two: a\r\nx-two: b\r\nCookie: c\r\ncookie: d\r\n\r\n{}")
    assert (request.method, request.path, request.query, request.body) == ("POST", "/x", "", b"{}")
    assert request.headers["x-two"] == "a, b"
    assert request.headers["cookie"] == "c; d"
    assert request.origin == "http://a"
    assert request.keep_alive
    assert not request.http_1_0


REFUSED = {
    "content-length and transfer-encoding": POST + b"Content-Length: 4\r\n" + TE + b"\r\n0\r\n\r\n",
    "transfer-encoding and content-length": POST + TE + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two content-lengths": POST + b"Content-Length: 0\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal content-lengths": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of content-lengths": POST + b"Content-Length: 4, 4\r\n\r\nabcd",
    "a signed content-length": POST + b"Content-Length: +4\r\n\r\nabcd",
    "a negative content-length": POST + b"Content-Length: -4\r\n\r\nabcd",
    "a hexadecimal content-length": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "an empty content-length": POST + b"Content-Length:\r\n\r\nabcd",
    "an overflowing content-length": POST + b"Content-Length: 18446744073709551620\r\n\r\nabcd",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding before chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding after chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + TE + TE + b"\r\n0\r\n\r\n",
    "a quoted coding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding behind a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\n" + HOST + TE + b"\r\n0\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "tab before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "an empty name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "a bare LF after a header": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "a bare LF at the end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "a folded first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
    "a control character in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n",
    "DEL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n",
    "a name of other characters": b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n",
    "a name that isn't ASCII": b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: b\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a Host that is none": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host with user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "another host in the target": b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "another scheme in the target": b"GET file://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "an asterisk with GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target without slash": b"GET x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a broken escape": b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    "an escaped control character": b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an escape that isn't UTF-8": b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that isn't ASCII": "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "two spaces before the target": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space at the end of the line": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "CRLF at the begin": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"OPTIONS / RTSP/1.0\r\nHost: a\r\n\r\n",
    "a small method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "an unknown method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a chunk size with prefix": POST + TE + b"\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with sign": POST + TE + b"\r\n+3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with space": POST + TE + b"\r\n3 \r\nabc\r\n0\r\n\r\n",
    "no chunk size": POST + TE + b"\r\n\r\nabc\r\n0\r\n\r\n",
    "an overflowing chunk size": POST + TE + b"\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a bare LF after a chunk size": POST + TE + b"\r\n3\nabc\r\n0\r\n\r\n",
    "a bare LF after a chunk": POST + TE + b"\r\n3\r\nabc\n0\r\n\r\n",
    "a chunk that is longer than it says": POST + TE + b"\r\n3\r\nabcd\r\n0\r\n\r\n",
    "a bare LF in an extension": POST + TE + b"\r\n3;a=b\nabc\r\n0\r\n\r\n",
    "a bare LF at the end of chunks": POST + TE + b"\r\n3\r\nabc\r\n0\r\n\n",
    "a length in a trailer": POST + TE + b"\r\n3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "an unknown expectation": POST + b"Content-Length: 1\r\nExpect: magic\r\n\r\n",
    "two idempotency keys": POST + b"Content-Length: 0\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n",
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_and_nothing_behind_it_is_read(raw: bytes) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    for pieces in ([raw], [raw[n : n + 1] for n in range(len(raw))]):
        items = read(*pieces, smuggled, smuggled)
        assert [type(item) for item in items] == [Refused]
        assert 400 <= items[0].status < 500


ACCEPTED = {
    "no body": (b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", [("GET", "/a", b"")]),
    "an escaped slash stays one": (b"GET /a%2Fb%20c HTTP/1.1\r\nHost: a\r\n\r\n", [("GET", "/a%2Fb c", b"")]),
    "the absolute form": (b"GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n", [("GET", "/x", b"")]),
    "an asterisk with OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [("OPTIONS", "*", b"")]),
    "chunks": (POST + TE + b"\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", [("POST", "/x", b"abcde")]),
    "chunks that hold empty lines": (
        POST + TE + b"\r\n8\r\na\r\n\r\n\r\nb\r\n0\r\nTrailer: x\r\n\r\n",
        [("POST", "/x", b"a\r\n\r\n\r\nb")],
    ),
    "two in one piece": (POST + b"Content-Length: 1\r\n\r\na" + POST + TE + b"\r\n1\r\nb\r\n0\r\n\r\n", None),
    "nothing behind close": (
        b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        [("GET", "/a", b"")],
    ),
    "a wish for h2c is ignored": (
        POST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
        + b"GET /y HTTP/1.1\r\n"
        b"Host: a\r\n\r\n",
        [("POST", "/x", b"abc"), ("GET", "/y", b"")],
    ),
}
ACCEPTED["two in one piece"] = (ACCEPTED["two in one piece"][0], [("POST", "/x", b"a"), ("POST", "/x", b"b")])


@pytest.mark.parametrize(("raw", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_it_is_read_the_same_however_it_is_cut(raw: bytes, expected: list[Any]) -> None:
    assert outline(read(raw)) == expected
    assert outline(read(*[raw[n : n + 1] for n in range(len(raw))])) == expected
    for cut in range(1, len(raw)):
        assert outline(read(raw[:cut], raw[cut:])) == expected


def test_limits() -> None:
    small = Settings(request_bytes_max=10, header_bytes_max=200, header_count_max=5)
    assert outline(read(POST + b"Content-Length: 10\r\n\r\n0123456789", settings=small)) == [
        ("POST", "/x", b"0123456789")
    ]
    assert outline(read(POST + b"Content-Length: 11\r\n\r\n", settings=small)) == [413]
    assert outline(read(POST + TE + b"\r\n6\r\nabcdef\r\n5\r\nabcde\r\n", settings=small)) == [413]
    assert outline(read(POST + b"X: " + b"x" * 200, settings=small)) == [431]
    assert outline(read(POST + b"X: " + b"x" * 200 + b"\r\n\r\n", settings=small)) == [431]
    assert outline(read(POST + b"a:b\r\n" * 4 + b"\r\n", settings=small)) == [("POST", "/x", b"")]
    assert outline(read(POST + b"a:b\r\n" * 5 + b"\r\n", settings=small)) == [431]
    trailers = TE + b"\r\n1\r\na\r\n0\r\n" + b"a:b\r\n" * 6 + b"\r\n"
    assert outline(read(POST + trailers, settings=small)) == [431]


def test_one_counter_for_all_chunks_and_their_framing() -> None:
    """A million chunks of a byte must not cost more than they are worth."""
    pieces = [POST + TE + b"\r\n", *([b"1\r\na\r\n" * 1000] * 100)]
    assert outline(read(*pieces)) == [400]
    worthwhile = b"400\r\n" + b"a" * 1024 + b"\r\n"
    assert outline(read(POST + TE + b"\r\n", *([worthwhile] * 256), b"0\r\n\r\n")) == [
        ("POST", "/x", b"a" * 256 * 1024)
    ]
    assert outline(read(POST + TE + b"\r\n", *([worthwhile] * 257), b"0\r\n\r\n")) == [413]


def test_many_pipelined_requests_wait_unparsed() -> None:
    reader = Reader(Settings(), "http")
    reader.feed(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
    assert len(reader.ready) == PIPELINED_MAX
    assert reader.held
    seen = 0
    while reader.ready:
        reader.ready.popleft()
        seen += 1
        reader.feed(b"")
    assert seen == 100
    assert not reader.held
    assert reader.phase == IDLE


def test_phases() -> None:
    reader = Reader(Settings(), "http")
    assert reader.phase == IDLE
    reader.feed(b"POST /")
    assert reader.phase == HEAD
    reader.feed(b" HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + TE + b"\r\n")
    assert reader.phase == CHUNKS
    assert reader.expecting
    reader.feed(b"nonsense\r\n\r\n")
    assert reader.phase == DEAD
    assert not reader.expecting


# Differential: what h11 refuses we refuse, and what both take they take alike.


def h11_reads(raw: bytes) -> list[tuple[str, bytes, str]]:
    """Give what h11 takes for requests, up to where it refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    found: list[tuple[str, bytes, str]] = []
    body, method, mark = b"", "", ""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return found
        match event:
            case h11.Request():
                body, method = b"", event.method.decode()
                mark = ", ".join(value.decode("latin-1") for name, value in event.headers if name == b"x-mark")
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                found.append((method, body, mark))
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return found
                connection.start_next_cycle()
            case _:
                return found


def ours(raw: bytes) -> list[tuple[str, bytes, str]]:
    return [(item.method, item.body, item.headers.get("x-mark", "")) for item in read(raw) if isinstance(item, Arrived)]


def generated(chance: random.Random) -> bytes:
    """Give one to three requests, most of them bent in one or two places."""
    pick = chance.choice
    raw = b""
    for n in range(chance.randint(1, 3)):
        body = bytes(chance.choices(b"abc\r\n0 ", k=chance.randint(0, 20)))
        headers = [b"Host: a", b"X-Mark: %d" % n]
        framing_of_body = chance.random()
        if framing_of_body < 0.5:
            headers.append(b"Content-Length: %d" % len(body))
        elif framing_of_body < 0.8:
            headers.append(b"Transfer-Encoding: chunked")
            cut = chance.randint(0, len(body))
            parts = [part for part in (body[:cut], body[cut:]) if part]
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        else:
            body = b""
        chance.shuffle(headers)
        line = b"%b %b %b" % (pick([b"GET", b"POST", b"PUT"]), pick([b"/", b"/x?y", b"/a/b"]), b"HTTP/1.1")
        raw += b"\r\n".join([line, *headers, b"", b""]) + body
    odd = [
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"0",
        b"1",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"chunked",
    ]
    lines = [
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: b\r\n",
        b"Transfer-Encoding: identity\r\n",
        b" folded\r\n",
        b"Connection: close\r\n",
        b"X-Mark : 9\r\n",
    ]
    for _ in range(pick([0, 1, 1, 1, 2])):
        at = chance.randrange(len(raw) + 1)
        bent = chance.random()
        if bent < 0.35:
            raw = raw[:at] + pick(odd) + raw[at:]
        elif bent < 0.55:
            raw = raw[:at] + raw[at + chance.randint(1, 3) :]
        elif bent < 0.75:
            raw = raw[:at] + pick(odd) + raw[at + 1 :]
        else:
            ends = [found.end() for found in re.finditer(b"\r\n", raw)]
            at = pick(ends) if ends else 0
            raw = raw[:at] + pick(lines) + raw[at:]
    return raw


def disagreements(count: int, seed: int) -> list[tuple[bytes, Any, Any]]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        raw = generated(chance)
        theirs, mine = h11_reads(raw), ours(raw)
        if mine != theirs[: len(mine)]:
            found.append((raw, theirs, mine))
    return found


def test_whatever_h11_refuses_is_refused_or_read_alike() -> None:
    print("seed", SEED)
    assert disagreements(20_000, SEED) == []


def test_a_reader_that_trusts_the_parser_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: llhttp alone takes two Hosts, codings before chunked, leading empty lines."""

    class Lenient(Reader):
        def _await_odd_body(self, headers: dict[str, str]) -> None:
            if "transfer-encoding" in headers:
                headers["transfer-encoding"] = "chunked"
            super()._await_odd_body(headers)

    monkeypatch.setattr(framing, "ONCE", frozenset())
    monkeypatch.setattr(framing, "_REQUEST_LINE", re.compile(rb"\s*([A-Z]+) +([!-~]+) +HTTP/1\.([01])\r\n"))
    monkeypatch.setitem(globals(), "Reader", Lenient)
    assert len(disagreements(3_000, SEED)) > 3


def test_usual_requests_are_taken_at_all() -> None:
    """A reader that refused everything would agree with h11 as well."""
    chance = random.Random(SEED)
    taken = sum(bool(ours(generated(chance))) for _ in range(1_000))
    assert taken > 400
