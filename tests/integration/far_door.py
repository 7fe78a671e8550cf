"""A target in a test's hands, which answers by bytes, hangs or hangs up as it is told, and clients that call it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from ringpost import Client, Contract, Operation, OperationFailed, Problem, Unavailable
from ringpost.core import notes
from ringpost.settings import Settings
from ringpost.store.hostclock import boot_id
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note

PATIENCE_S = 20.0


class Odd(Problem, status=409):
    """An answer."""


class Far(Contract):
    read = Operation(int, int, effect="read", timeout=5)
    turn = Operation(int, int, effect="idempotent", timeout=5)
    write = Operation(int, int, raises=[Odd], timeout=5)
    other = Operation(int, int, timeout=5)
    slow = Operation(int, int, timeout=5)


class Seen(msgspec.Struct):
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def attempt(self) -> int:
        return int(self.headers.get("ringpost-attempt", "1"))


Answer = bytes | None  # None: hang up
Answering = Callable[[Seen], Awaitable[Answer]]


def say(status: int, body: Any = 0, *lines: str, kind: str = "application/json") -> bytes:
    data = msgspec.json.encode(body)
    head = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}", *lines, "", ""]
    return "\r\n".join(head).encode() + data


def refuse(code: str, status: int = 503, *lines: str, **members: Any) -> bytes:
    body = {"type": f"urn:ringpost:problem:{code}", "code": code, "status": status, **members}
    return say(status, body, *lines, kind="application/problem+json")


UNSEEN = "ringpost-processed: no"


class Door:
    """A target in a test's hands: it keeps what arrives, and how many it had at once."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.at_once = self.most_at_once = 0
        self.cut = 0  # requests whose caller had gone before they were answered
        self.answering: Answering = answered(say(200, 7))
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["content-length"]))
        self.seen.append(Seen(first.split(" ")[1], headers, body))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        gone = asyncio.ensure_future(reader.read(1))
        answer = asyncio.ensure_future(self.answering(self.seen[-1]))
        try:
            await asyncio.wait((gone, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.cut += 1
                return False
            said = answer.result()
            if said is None:
                return False
            gone.cancel()
            await asyncio.wait((gone,))
            writer.write(said)
            return True
        finally:
            self.at_once -= 1
            for one in (gone, answer):
                one.cancel()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def answered(*answers: Answer) -> Answering:
    """Give these answers one after the other, the last one for ever."""
    left = list(answers)

    async def answer(_: Seen) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


async def hang(_: Seen) -> Answer:
    await asyncio.Event().wait()
    return None


@asynccontextmanager
async def a_door(answering: Answering | None = None) -> AsyncIterator[Door]:
    door = Door()
    if answering is not None:
        door.answering = answering
    server = await asyncio.start_server(door.meet, "127.0.0.1", 0)
    door.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield door
    finally:
        server.close()
        await door.stop()


@asynccontextmanager
async def a_client(door: Door, **settings: Any) -> AsyncIterator[Client]:
    client = Client._attached(None, None, Settings(addresses={"far": door.url}, **settings))
    try:
        yield client
    finally:
        await client.close()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not so():  # noqa: ASYNC110 (what is waited for happens in sockets)
            await asyncio.sleep(0.005)


async def fail(client: Client, times: int, operation: Any = Far.write) -> list[str]:
    """Call so often, and give what was said."""
    said = []
    for _ in range(times):
        with pytest.raises((Unavailable, OperationFailed)) as raised:
            await client.call(operation, 1)
        said.append(str(raised.value))
    return said


async def note_instance(store: MemoryStore, id: str, url: str, *operations: str) -> None:
    value = notes.encode(notes.Instance(url=url, boot_id=boot_id(), operations=operations))
    await store.note_put(Note(notes.instance(id), value, lease_s=60))


@asynccontextmanager
async def two_instances(one: Door, two: Door, **settings: Any) -> AsyncIterator[Client]:
    store = MemoryStore()
    await store.open()
    await note_instance(store, "one", one.url, "far.read", "far.write")
    await note_instance(store, "two", two.url, "far.read", "far.write")
    client = Client._attached(store, None, Settings(**settings))
    try:
        yield client
    finally:
        await client.close()
        await store.close()
