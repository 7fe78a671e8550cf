"""A head that came before is not parsed again, on neither side: what is read must be the same as if it were."""

import asyncio
import random
from typing import Any

import pytest

from ringpost.client.connection import Connection, Limits, Phase, Received
from ringpost.client.sweep import Sweep
from ringpost.http.framing import KNOWN_HEADS_MAX, Arrived, Reader, Refused
from ringpost.settings import Settings

HEAD = b"POST /mail/send?x=1 HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: 4\r\n"


def request(more: bytes = b"", body: bytes = b'"hi"') -> bytes:
    return HEAD + more + b"\r\n" + body


def reader() -> Reader:
    return Reader(Settings(), "http")


def outline(items: list[Any]) -> list[Any]:
    return [
        (item.method, item.path, item.query, item.headers, item.body, item.origin, item.keep_alive)
        if isinstance(item, Arrived)
        else (item.status, item.detail)
        for item in items
    ]


def fresh(raw: bytes) -> list[Any]:
    """Read with a reader that knows nothing."""
    one = reader()
    one.feed(raw)
    return outline(list(one.ready))


def test_the_same_head_with_another_body_is_read_as_if_it_were_new() -> None:
    one = reader()
    for body in (b'"hi"', b'"ho"', b"\r\n\r\n", b"POST"):
        one.feed(request(body=body))
        assert outline([one.ready.popleft()]) == fresh(request(body=body))
    assert not one.ready


def test_what_a_handler_does_to_its_headers_stays_with_it() -> None:
    one = reader()
    for _ in range(3):
        one.feed(request())
        arrived = one.ready.popleft()
        assert isinstance(arrived, Arrived)
        assert "spoilt" not in arrived.headers
        arrived.headers["spoilt"] = "yes"


def test_a_known_head_whose_body_comes_in_pieces_goes_through_the_parser() -> None:
    one = reader()
    one.feed(request())
    one.feed(request()[:-2])
    assert len(one.ready) == 1
    one.feed(b'i"' + request(body=b"1234"))
    assert outline(list(one.ready)) == fresh(request()) + fresh(request()) + fresh(request(body=b"1234"))


def test_what_changes_how_the_connection_goes_on_is_never_taken_from_memory() -> None:
    last = request(b"connection: close\r\n")
    one = reader()
    one.feed(last)
    one.feed(last)
    assert len(one.ready) == 1
    upgrade = request(b"connection: upgrade\r\nupgrade: h2c\r\n")
    one = reader()
    for _ in range(2):
        one.feed(upgrade)
        assert outline([one.ready.popleft()]) == fresh(upgrade)
    one.feed(request(b"transfer-encoding: chunked\r\n"))
    assert isinstance(one.ready.popleft(), Refused)


def test_only_a_few_heads_are_kept() -> None:
    one = reader()
    for number in range(100):
        one.feed(request(b"x-number: %d\r\n" % number))
        one.ready.popleft()
    assert len(one._known) <= KNOWN_HEADS_MAX
    one.feed(request(b"x-long: %b\r\n" % (b"x" * 2000)))
    assert all(len(head) < 2000 for head in one._known)


def test_any_order_of_requests_is_read_as_one_by_one() -> None:
    chance = random.Random(20)
    kinds = [
        request(),
        request(body=b"[12]"),
        b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n",
        b"POST /mail/send HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: there\r\n\r\n",
        request(b"expect: 100-continue\r\n"),
    ]
    for _ in range(200):
        said = [chance.choice(kinds) for _ in range(12)]
        raw = b"".join(said)
        one, found = reader(), list[Any]()
        while raw:
            size = chance.randint(1, len(raw))
            one.feed(raw[:size])
            raw = raw[size:]
            found += outline(list(one.ready))
            one.ready.clear()
        assert found == [read for each in said for read in fresh(each)]


class Wire(asyncio.Transport):
    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
async def connection() -> Connection:
    loop = asyncio.get_running_loop()
    made = Connection(loop, Sweep(loop), Limits(), lambda _: None, lambda _: None, "http://there")
    made.connection_made(Wire())
    return made


def told(connection: Connection, *pieces: bytes) -> Received:
    answer = connection.begin(b"?", asyncio.get_running_loop().time() + 60)
    for piece in pieces:
        connection.data_received(piece)
    return answer.result()


def answer(body: bytes, more: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, more, len(body), body)


async def test_answers_with_the_same_head_are_read_alike(connection: Connection) -> None:
    for body in (b"one", b"two", b"\r\n\r"):
        received = told(connection, answer(body, b"date: now\r\n"))
        assert (received.status, received.body) == (200, body)
        assert dict(received.response().headers) == {"date": "now", "content-length": "3"}
        assert connection.phase is Phase.IDLE


async def test_another_head_or_length_or_status_is_read_anew(connection: Connection) -> None:
    assert told(connection, answer(b"one")).body == b"one"
    assert told(connection, answer(b"longer")).body == b"longer"
    refused = told(connection, answer(b"longer", status=b"422 No"))
    assert (refused.status, refused.body) == (422, b"longer")
    assert told(connection, answer(b"longer")[:30], answer(b"longer")[30:]).body == b"longer"
    assert told(connection, b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"longer")).body == b"longer"


async def test_a_chunked_answer_is_never_taken_from_memory(connection: Connection) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n%b\r\n0\r\n\r\n"
    for body in (b"one", b"two"):
        assert told(connection, chunked % body).body == body
    assert connection._known is None


async def test_a_second_answer_behind_a_known_one_ends_the_connection(connection: Connection) -> None:
    told(connection, answer(b"one"))
    received = told(connection, answer(b"one") * 2)
    assert received.body == b"one"
    assert connection.phase is Phase.CLOSED
