"""A connection in the moments that real sockets seldom show: driven by hand, turn by turn."""

import asyncio
from typing import Any

import pytest

from ringpost.client.connection import Connection, Limits, Phase
from ringpost.client.sweep import Sweep
from ringpost.contract.errors import DeadlineExceeded


class Wire(asyncio.Transport):
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Bench:
    """A connection with nothing around it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.released: list[Connection] = []
        self.gone: list[Connection] = []
        self.wire = Wire()
        self.sweep = Sweep(loop)
        self.connection = Connection(loop, self.sweep, Limits(), self.released.append, self.gone.append, "http://there")
        self.connection.connection_made(self.wire)
        self.later_s = loop.time() + 60


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def test_an_answer_that_came_before_the_cancelled_caller_woke_frees_the_connection_for_good() -> None:
    """The next caller has the connection already when the cancelled one gives it up: it must not lose it."""
    bench = Bench()
    connection = bench.connection
    given_up = connection.begin(b"1", bench.later_s)
    given_up.cancel()  # what cancelling its task does first
    connection.data_received(answer(b"old"))
    assert bench.released == [connection]
    wanted = connection.begin(b"2", bench.later_s)
    connection.abandon(given_up)
    assert connection.phase is Phase.BUSY
    connection.data_received(answer(b"new"))
    assert (await wanted).body == b"new"


async def test_an_abandoned_answer_is_read_whole_before_the_connection_is_free() -> None:
    bench = Bench()
    connection = bench.connection
    given_up = connection.begin(b"1", bench.later_s)
    connection.abandon(given_up)
    whole = answer(b"old")
    for at in range(len(whole)):
        assert bench.released == []
        connection.data_received(whole[at : at + 1])
    assert bench.released == [connection]
    assert not given_up.done()


async def test_a_request_that_isnt_sent_yet_ends_the_connection_with_its_early_answer() -> None:
    bench = Bench()
    bench.wire.unsent = 100
    early = bench.connection.begin(b"1", bench.later_s)
    bench.connection.data_received(answer(b"too large"))
    assert (await early).body == b"too large"
    assert bench.released == []
    assert bench.wire.closed


async def test_expiry_tells_the_caller_and_drains() -> None:
    bench = Bench()
    late = bench.connection.begin(b"1", 0.0)
    bench.connection.expire()
    with pytest.raises(DeadlineExceeded):
        await late
    assert bench.connection.phase is Phase.DRAINING
    bench.connection.expire()
    assert bench.wire.closed
    assert bench.connection.phase is Phase.CLOSED
