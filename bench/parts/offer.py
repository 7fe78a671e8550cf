"""Offer requests in an open loop: each goes out at its instant, whatever has become of those before.

It speaks HTTP as raw as can be, so that the generator is not what is measured. A caller gives up at its deadline and
closes the connection; it never asks twice.
"""

import asyncio
import time
from pathlib import Path

import httptools
import msgspec
import uvloop
from msgspec import Struct

from bench import arrivals
from bench.answers import BROKEN, NONE, Answer
from bench.parts.contract import job
from bench.parts.saying import options, say, wait_for_go

CONNECTIONS_MAX = 900  # below what a server takes; who finds none gives up at once
COUNT_MAX = 1_000_000
BEGIN_S = 0.1


class Kind(Struct):
    """One kind of request, and how often it comes in proportion to the others."""

    path: str
    deadline_s: float = 1.0
    share: float = 1.0
    priority: str = "normal"


class Options(Struct):
    """`into`: the file that takes what became of every request. It says `offered`, then `written`."""

    url: str
    kinds: list[Kind]
    rate: float
    seconds: float
    into: str
    seed: int = 1


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on it."""

    def __init__(self, callers: "Callers") -> None:
        self._callers = callers
        self._parser = httptools.HttpResponseParser(self)
        self._outcome: Outcome | None = None
        self.transport: asyncio.Transport
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        outcome, self._outcome = self._outcome, None
        self.usable = self._parser.should_keep_alive()
        if outcome is not None:
            outcome.end(self._parser.get_status_code())
        if self.usable:
            self._callers.idle.append(self)
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._callers.open -= 1
        if self._outcome is not None:
            self._outcome.end(BROKEN)
            self._outcome = None

    def ask(self, outcome: "Outcome", data: bytes) -> None:
        self._outcome = outcome
        outcome.connection = self
        outcome.written_s = time.monotonic()
        self.transport.write(data)

    def give_up(self) -> None:
        self._outcome = None
        self.usable = False
        self.transport.abort()


class Outcome:
    """A request under way: it ends once, by an answer or by its deadline."""

    __slots__ = ("_callers", "_kind", "_meant_s", "_timer", "connection", "written_s")

    def __init__(self, callers: "Callers", kind: int, meant_s: float, deadline_s: float) -> None:
        self._callers = callers
        self._kind = kind
        self._meant_s = self.written_s = meant_s
        self.connection: Connection | None = None
        callers.under_way.add(self)
        delay_s = meant_s + deadline_s - time.monotonic()
        self._timer = callers.loop.call_later(max(0.0, delay_s), self._late)

    @property
    def ended(self) -> bool:
        return self not in self._callers.under_way

    def end(self, status: int) -> None:
        if self.ended:
            return
        self._timer.cancel()
        taken_s = time.monotonic() - self._meant_s
        answer = Answer(self._kind, self._meant_s, self.written_s - self._meant_s, taken_s, status)
        self._callers.end(self, answer)

    def _late(self) -> None:
        self.end(NONE)
        if self.connection is not None:
            self.connection.give_up()


class Callers:
    """Everybody who calls."""

    def __init__(self, asked: Options) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle: list[Connection] = []
        self.open = 0
        self.answers: list[Answer] = []
        self.under_way: set[Outcome] = set()
        self._asked = asked
        self._host, _, port = asked.url.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self._requests = [self._written(kind) for kind in asked.kinds]
        self._opening: set[asyncio.Task[None]] = set()
        self._over = False  # everything has been asked
        self._ended = asyncio.Event()

    def end(self, outcome: "Outcome", answer: Answer) -> None:
        """Take note of what became of a request."""
        self.under_way.discard(outcome)
        self.answers.append(answer)
        if self._over and not self.under_way:
            self._ended.set()

    async def offer(self, schedule: list[float], which: list[int], began_s: float) -> None:
        """Send everything at its instant; end when the last one has ended."""
        for at_s, kind in zip(schedule, which, strict=True):
            if (ahead_s := began_s + at_s - time.monotonic()) > 0:
                await asyncio.sleep(ahead_s)
            self._ask(kind, began_s + at_s)
        self._over = True
        if self.under_way:
            await self._ended.wait()
        for task in list(self._opening):
            task.cancel()

    def _ask(self, kind: int, meant_s: float) -> None:
        outcome = Outcome(self, kind, meant_s, self._asked.kinds[kind].deadline_s)
        data = self._requests[kind]
        while self.idle:
            connection = self.idle.pop()
            if connection.usable and not connection.transport.is_closing():
                connection.ask(outcome, data)
                return
        if self.open >= CONNECTIONS_MAX:
            return  # it ends at its deadline: everything that a server can hold is held
        self.open += 1
        task = self.loop.create_task(self._ask_anew(outcome, data))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _ask_anew(self, outcome: Outcome, data: bytes) -> None:
        try:
            _, connection = await self.loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            self.open -= 1
            outcome.end(BROKEN)
            return
        if outcome.ended:
            self.idle.append(connection)
        else:
            connection.ask(outcome, data)

    def _written(self, kind: Kind) -> bytes:
        body = msgspec.json.encode(job(23_456))
        head = (
            f"POST {kind.path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/json\r\n"
            f"request-timeout: {int(kind.deadline_s * 1000)}ms\r\nringpost-priority: {kind.priority}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def main(asked: Options) -> list[Answer]:
    schedule = arrivals.poisson(asked.rate, asked.seconds, asked.seed)[:COUNT_MAX]
    which = arrivals.kinds(len(schedule), [kind.share for kind in asked.kinds], asked.seed + 1)
    say(ready=True)
    await asyncio.to_thread(wait_for_go)
    callers = Callers(asked)
    began_s = time.monotonic() + BEGIN_S
    say(began_s=began_s)
    cpu_s = time.process_time()
    await callers.offer(schedule, which, began_s)
    cpu_s = time.process_time() - cpu_s
    say(offered=len(schedule), cpu=cpu_s / asked.seconds)
    return callers.answers


if __name__ == "__main__":
    told = options(Options)
    found = uvloop.run(main(told))
    Path(told.into).write_bytes(msgspec.msgpack.encode(found))
    say(written=told.into)
