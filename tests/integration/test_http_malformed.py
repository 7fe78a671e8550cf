"""Ten thousand malformed requests: each gets a problem of 4xx or a closed connection, and none reaches a handler, while
a good client is served. Grammar, sizes, types, encodings, and slow ones; the seed is printed."""

import asyncio
import random
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from ringpost import Contract, Operation, Service
from ringpost.contract.codec import Codec
from ringpost.http import asked, framing
from ringpost.http.ports import Bound
from ringpost.http.site import Site
from ringpost.settings import Settings

COUNT = 10_000
SLOW = 200  # of them: they send a part and stop
AT_ONCE = 64
PATIENCE_S = 5.0
SEED = 20261122


class Asked(msgspec.Struct):
    email: str
    age: int


class Fuzzed(Contract):
    sign_up = Operation(Asked, int)


GOOD_BODY = b'{"email":"good@example.com","age":41}'
Make = Callable[[random.Random], bytes]


def request(
    body: bytes = GOOD_BODY,
    *headers: bytes,
    line: bytes = b"POST /fuzzed/sign_up HTTP/1.1",
    host: bytes | None = b"Host: a",
    length: bytes | None = None,
) -> bytes:
    lines = [line, *([] if host is None else [host]), *headers]
    if length != b"":
        lines.append(b"Content-Length: %b" % (length or b"%d" % len(body)))
    return b"\r\n".join([*lines, b"", b""]) + body


def chunked(raw: bytes) -> bytes:
    return request(raw, b"Transfer-Encoding: chunked", length=b"")


# Each maker gives requests that are wrong, whatever chance says.


def bad_line(chance: random.Random) -> bytes:
    line = chance.choice(
        [
            b"POST  /fuzzed/sign_up HTTP/1.1",
            b"POST /fuzzed/sign_up  HTTP/1.1",
            b"POST /fuzzed/sign_up HTTP/1.1 ",
            b"POST /fuzzed/sign_up HTTP/%d.%d" % (chance.randint(2, 9), chance.randint(0, 9)),
            b"POST /fuzzed/sign_up",
            b"post /fuzzed/sign_up HTTP/1.1",
            b"POST fuzzed/sign_up HTTP/1.1",
            b"POST /fuzzed/sign_up#x HTTP/1.1",
            b"POST http://b/fuzzed/sign_up HTTP/1.1",
            b" POST /fuzzed/sign_up HTTP/1.1",
            b"POST /fuzzed/sign_up\t HTTP/1.1",
            b"\r\nPOST /fuzzed/sign_up HTTP/1.1",
            b"POST /fuzzed/%zz HTTP/1.1",
            b"POST /fuzzed/%00 HTTP/1.1",
            b"POST /fuzzed/sign_up RTSP/1.1",
            b"SPAM /fuzzed/sign_up HTTP/1.1",
            b"\x16\x03\x01" + chance.randbytes(40),
            b"POST /" + b"a" * 20_000 + b" HTTP/1.1",
            b"CONNECT a:80 HTTP/1.1",
            b"* /fuzzed/sign_up HTTP/1.1",
        ]
    )
    return request(line=line)


def bad_path(chance: random.Random) -> bytes:
    path = chance.choice(
        [
            b"/",
            b"/fuzzed",
            b"/fuzzed/",
            b"/fuzzed/sign_up/",
            b"/fuzzed//sign_up",
            b"/Fuzzed/sign_up",
            b"/fuzzed/sign_upx",
            b"/fuzzed%2Fsign_up",
            b"/./fuzzed/sign_up",
            b"/x/../fuzzed/sign_up",
            b"/tickets/",
            b"/tickets/1/2/3",
            b"/events",
            b"/tickets/%b" % chance.randbytes(16).hex().encode(),
            b"//fuzzed/sign_up",
            b"/fuzzed/sign_up;x",
            b"/%2e%2e/etc",
        ]
    )
    return request(line=b"POST %b HTTP/1.1" % path)


def bad_method(chance: random.Random) -> bytes:
    method = chance.choice([b"GET", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"TRACE", b"LINK", b"PROPFIND"])
    return request(line=b"%b /fuzzed/sign_up HTTP/1.1" % method)


def bad_header(chance: random.Random) -> bytes:
    value = b"x" * chance.randint(0, 8)
    return request(
        GOOD_BODY,
        chance.choice(
            [
                b"X : %b",
                b"X\t: %b",
                b" X: %b",
                b"X%b",
                b": %b",
                b"X: %b\0",
                b"X: %b\x01",
                b"X: %b\x7f",
                b"X: a\nY: %b",
                b"X: a\rY: %b",
                b"X: a\r\n folded %b",
                b"X(: %b",
                b"X\xe4: %b",
                b"X\0: %b",
                b"Host: %b",
                b"Content-Length: 3%b",
                b"Transfer-Encoding: chunked%b",
                b"Transfer-Encoding: identity%b",
                b"Expect: magic%b",
                b"X[]: %b",
            ]
        )
        % value,
    )


def bad_host(chance: random.Random) -> bytes:
    host = chance.choice(
        [None, b"Host: a b", b"Host: a/b", b"Host: u@a", b"Host: a\\b", b"Host: [::1", b"Host: a:port"]
    )
    return request(host=host)


def bad_length(chance: random.Random) -> bytes:
    length = chance.choice(
        [b"-1", b"+37", b"0x25", b"3 7", b"37,37", b"1e2", b"\xff", b"9" * chance.randint(6, 40), b"", b"37;", b'"37"']
    )
    return request(length=length) if length else request(GOOD_BODY, b"Content-Length:", length=b"")


def bad_chunks(chance: random.Random) -> bytes:
    size = b"%x" % len(GOOD_BODY)
    whole = size + b"\r\n" + GOOD_BODY + b"\r\n"
    return chunked(
        chance.choice(
            [
                b"0x" + whole,
                b"+" + whole,
                b"-" + whole,
                b" " + whole,
                b"g\r\n",
                b"\r\n" + whole,
                size + b" \r\n" + GOOD_BODY,
                size + b"\n" + GOOD_BODY + b"\r\n0\r\n\r\n",
                b"F" * 17 + b"\r\n",
                whole[:-2] + b"0\r\n\r\n",
                size + b";a=b\nx",
                whole + b"0\r\nContent-Length: 1\r\n\r\n",
                whole + b"0\n\n",
                b"1\r\na\r\n" * 20_000,
                whole + b"zz\r\n\r\n",
                size + b"\r\n" + GOOD_BODY + b"xx\r\n0\r\n\r\n",
                whole + b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
            ]
        )
    )


def too_large(chance: random.Random) -> bytes:
    head = b"POST /fuzzed/sign_up HTTP/1.1\r\nHost: a\r\n"
    return chance.choice(
        [
            head + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
            head + b"a: b\r\n" * 150 + b"\r\n",
            head + b"".join(b"h%d: b\r\n" % n for n in range(150)) + b"\r\n",
            head + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,
            chunked(b"10000\r\n" + b"x" * 65536 + b"\r\n" + b"40000\r\n" + b"x" * 262_144 + b"\r\n0\r\n\r\n"),
        ]
    )


def bad_meaning(chance: random.Random) -> bytes:
    return request(
        GOOD_BODY,
        chance.choice(
            [
                b"Request-Timeout: soon",
                b"Request-Timeout: -1s",
                b"Request-Timeout: 5",
                b"Idempotency-Key: ",
                b'Idempotency-Key: "a',
                b"Idempotency-Key: \xe4",
                b"Ringpost-Priority: huge",
                b"Ringpost-Depth: -1",
                b"Ringpost-Depth: x",
                b"Ringpost-Attempt: 0",
                b"Ringpost-Path: ../x",
                b"Prefer: respond-async, wait=x",
                b"Ringpost-Callback: https://a",
                b"Ringpost-Instance: other",
                b"Ringpost-Store: other",
                b"Idempotency-Key: a\r\nIdempotency-Key: b",
                b"Idempotency-Key: " + b"k" * 300,
            ]
        ),
    )


def bad_type(chance: random.Random) -> bytes:
    return request(
        GOOD_BODY,
        chance.choice(
            [
                b"Content-Type: text/plain",
                b"Content-Type: multipart/form-data; boundary=x",
                b"Content-Type: application/xml",
                b"Content-Type: application/json; charset=utf-16",
                b"Content-Encoding: gzip",
                b"Content-Encoding: br",
                b"Content-Type: application/x-python-pickle",
                b"Content-Type: application/cloudevents+json",
                b"Content-Type: ",
                b"Content-Type: application/x-www-form-urlencoded\r\nOrigin: https://evil",
                b"Content-Type: json",
            ]
        ),
    )


def bad_json(chance: random.Random) -> bytes:
    cut = chance.randint(0, len(GOOD_BODY) - 1)
    return request(
        chance.choice(
            [
                GOOD_BODY[:cut],
                GOOD_BODY + b"}",
                GOOD_BODY + GOOD_BODY,
                b"",
                b"{",
                b"nul",
                b"'a'",
                b"\xff\xfe{",
                b"\0",
                GOOD_BODY.decode().encode("utf-16"),
                b"\xef\xbb\xbf" + GOOD_BODY,
                b"[" * 5_000,
                b'{"a":' * 5_000,
                b"[" * 100_000 + b"]" * 100_000,
                GOOD_BODY.replace(b"good", b"\xff"),
                GOOD_BODY.replace(b"41", b"NaN"),
                GOOD_BODY.replace(b"good", b"\x01"),
                GOOD_BODY.replace(b"41", b"041"),
                b"a=b&c=d",
                chance.randbytes(60),
                b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.",
            ]
        )
    )


def bad_schema(chance: random.Random) -> bytes:
    return request(
        chance.choice(
            [
                b"null",
                b"1",
                b'"x"',
                b"[]",
                b"{}",
                b'{"email":"a"}',
                b'{"age":1}',
                b'{"email":1,"age":1}',
                b'{"email":"a","age":"1"}',
                b'{"email":"a","age":1.5}',
                b'{"email":"a","age":1e400}',
                b'{"email":"a","age":null}',
                b'{"email":null,"age":1}',
                b'{"email":"a","age":' + b"9" * 5_000 + b"}",
                b'{"email":{"a":1},"age":1}',
                b'{"email":"a","age":[1]}',
                b'{"email":"a","age":true}',
                b'[{"email":"a","age":1}]',
                b'{"Email":"a","age":1}',
            ]
        )
    )


def cut_short(chance: random.Random) -> bytes:
    whole = request()
    return whole[: chance.randint(1, len(whole) - 1)]


MAKERS: list[Make] = [
    bad_line,
    bad_path,
    bad_method,
    bad_header,
    bad_host,
    bad_length,
    bad_chunks,
    too_large,
    bad_meaning,
    bad_type,
    bad_json,
    bad_schema,
]


@dataclass
class Campaign:
    """A service under fire. `wrong` says what must not have happened."""

    address: tuple[str, int]
    handled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    good: int = 0

    async def run(self, count: int, slow: int, seed: int) -> None:
        chance = random.Random(seed)
        jobs = [(chance.choice(MAKERS), False) for _ in range(count - slow)] + [(cut_short, True)] * slow
        chance.shuffle(jobs)
        waiting = iter([(make.__name__, make(chance), patient) for make, patient in jobs])

        async def work() -> None:
            for name, raw, patient in waiting:
                await self.shot(name, raw, patient)

        serving = asyncio.create_task(self.be_good())
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        serving.cancel()
        strangers = [email for email in self.handled if email != "good@example.com"]
        self.wrong += [f"handled {email}" for email in strangers]
        if len(self.handled) > self.good + 1:  # one may have been on its way
            self.wrong.append(f"{len(self.handled)} were handled, {self.good} were good")

    async def shot(self, name: str, raw: bytes, patient: bool) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            async with asyncio.timeout(PATIENCE_S + (5 if patient else 0)):
                writer.write(raw)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                if not 400 <= status < 500 or b"application/problem+json" not in head:
                    self.wrong.append(f"{name}: {status} for {raw[:200]!r}")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # closed
        except TimeoutError:
            self.wrong.append(f"{name}: nothing for {raw[:200]!r}")
        finally:
            writer.transport.abort()

    async def be_good(self) -> None:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            while True:
                async with asyncio.timeout(PATIENCE_S):
                    writer.write(request())
                    head = await reader.readuntil(b"\r\n\r\n")
                    if not head.startswith(b"HTTP/1.1 200"):
                        self.wrong.append(f"the good client got {head[:100]!r}")
                        return
                    await reader.readexactly(2)
                self.good += 1
                await asyncio.sleep(0.005)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            self.wrong.append(f"the good client got {error!r}")
        finally:
            writer.transport.abort()


async def campaign(count: int, slow: int) -> Campaign:
    service = Service(Fuzzed)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    fought = Campaign(listener.getsockname())

    @service.implements(Fuzzed.sign_up)
    async def sign_up(new: Asked) -> int:
        fought.handled.append(new.email)
        return 42

    settings = Settings(store="memory:", header_time_s=1.0, body_time_s=1.0)
    site = Site([service], settings)
    await site.open(Bound((listener,), f"http://127.0.0.1:{fought.address[1]}"), work=True)
    try:
        await fought.run(count, slow, SEED)
    finally:
        await site.close(0.0)
        listener.close()
    return fought


@pytest.mark.timeout(300)
async def test_ten_thousand_malformed_requests() -> None:
    print("seed", SEED)
    fought = await campaign(COUNT, SLOW)
    assert fought.wrong == []
    assert fought.good > 10


async def test_a_door_that_doesnt_look_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: media types, request lines and types aren't checked."""
    monkeypatch.setattr(asked, "check_json", lambda headers: None)
    monkeypatch.setattr(framing, "_REQUEST_LINE", re.compile(rb"\s*([A-Z]+)\s+([!-~]+)\s+HTTP/1\.([01])\s*\r\n"))
    monkeypatch.setattr(framing, "ONCE", frozenset())
    fought = await campaign(600, 0)
    assert any("bad_type" in wrong for wrong in fought.wrong)
    assert any("bad_line" in wrong for wrong in fought.wrong)
    assert any("were handled" in wrong for wrong in fought.wrong)


async def test_a_codec_that_takes_anything_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Codec, "decode", lambda self, body: Asked("stranger", 1))
    fought = await campaign(300, 0)
    assert any("handled stranger" in wrong for wrong in fought.wrong)


async def test_a_server_without_limits_in_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringpost.http.server.Connection.expire", lambda self: None)
    monkeypatch.setitem(globals(), "PATIENCE_S", -3.0)
    fought = await campaign(20, 20)
    assert any("cut_short: nothing" in wrong for wrong in fought.wrong)
