"""Real processes on one store, and the diary that all of them write into: tests wait for its lines."""

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ringpost import Client
from ringpost.core.message import Record, State
from ringpost.settings import Settings
from ringpost.store import store_for
from ringpost.store.port import Filter, Store

GUARD_S = 30.0  # a test that waits for so long hangs
SCRIPT = Path(__file__).with_name("town.py")

Line = dict[str, Any]


class Diary:
    """One pipe for what all processes say, in the order in which they said it."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._having: defaultdict[str, list[Line]] = defaultdict(list)  # by a name that is in them
        self.trouble = ""  # a process that ended by itself
        self._news = asyncio.Event()
        self._rest = b""
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.write_end)

    def _read(self) -> None:
        *whole, self._rest = (self._rest + os.read(self._read_end, 1 << 16)).split(b"\n")
        for line in map(json.loads, whole):
            self.lines.append(line)
            for name in line:
                self._having[name].append(line)
        self.ring()

    def ring(self) -> None:
        """Let everybody who waits look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def all(self, **words: Any) -> list[Line]:
        """Give the lines with these words; `...` stands for anything."""
        fewest = min((self._having[name] for name in words), key=len)
        return [line for line in fewest if _has(line, words)]

    async def until(self, count: int = 1, begin: int = 0, /, **words: Any) -> Line:
        """Wait for so many lines with these words, from the begin-th line on; gives the last of them. Each line is
        looked at once, however many come."""
        found: list[Line] = []
        at = begin

        def enough() -> bool:
            nonlocal at
            fresh, at = self.lines[at:], len(self.lines)
            found.extend(line for line in fresh if _has(line, words))
            return len(found) >= count

        await self.until_so(enough, f"{count} × {words}")
        return found[count - 1]

    async def until_so(self, so: Callable[[], bool], what: str = "") -> None:
        try:
            async with asyncio.timeout(GUARD_S):
                while not so():
                    assert not self.trouble, self.trouble
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited {GUARD_S:g} s for {what}; the last lines: {self.lines[-10:]}") from None


def _has(line: Line, words: Mapping[str, Any]) -> bool:
    return all(name in line and (word is ... or line[name] == word) for name, word in words.items())


class Running:
    """A process of the town."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.ending = False  # it was told to

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.ending = self.ending or number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
        self.process.send_signal(number)

    async def kill(self) -> None:
        self.ending = True
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()

    async def stopped(self) -> None:
        """Wait until it stands still: whoever stops itself may not have done so when it says so."""
        async with asyncio.timeout(GUARD_S):
            while self._state() != "T":  # noqa: ASYNC110 (its parent alone is told, and doesn't ask)
                await asyncio.sleep(0.01)

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    async def ended(self) -> int:
        async with asyncio.timeout(GUARD_S):
            return await self.process.wait()

    def said(self) -> str:
        """Give what it logged."""
        return self.log.read_text()


class Scene:
    """A folder, a store and the processes on it. The store is a file in the folder unless a URL names another."""

    def __init__(self, folder: Path, lease_s: float, url: str | None = None) -> None:
        self.folder = folder
        self.lease_s = lease_s
        self.url = url or f"sqlite:///{folder / 'store.db'}"
        self.diary = Diary()
        self.script = SCRIPT  # what the processes run
        self.store: Store = store_for(self.url, Settings(lease_s=lease_s))
        self._processes: list[Running] = []
        self._watching: list[asyncio.Task[None]] = []

    async def start(
        self, role: str, *arguments: object, environ: Mapping[str, str] | None = None, **settings: object
    ) -> Running:
        """Start a process; `settings` become RINGPOST_*, `environ` stays as it is. It isn't ready yet."""
        log = self.folder / f"{len(self._processes)}-{role}.log"
        environment: Mapping[str, str] = {
            **os.environ,
            "RINGPOST_STORE": self.url,
            "RINGPOST_LEASE": str(self.lease_s),
            "RINGPOST_HTTP": "off",
            "TOWN_FOLDER": str(self.folder),
            **{f"RINGPOST_{name.upper()}": str(value) for name, value in settings.items()},
            **(environ or {}),
        }
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(self.script),
                role,
                *map(str, arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=self.diary.write_end,
                stderr=stream,
                env=environment,
                cwd=self.folder,
            )
        running = Running(process, log)
        self._processes.append(running)
        self._watching.append(asyncio.ensure_future(self._watch(running)))
        return running

    @property
    def first(self) -> Running:
        return self._processes[0]

    async def _watch(self, running: Running) -> None:
        code = await running.process.wait()
        if code and not running.ending:
            self.diary.trouble = f"{running.log.stem} ended with {code}: {running.said()}"
            self.diary.ring()

    async def serve(self, role: str, *arguments: object, **settings: object) -> tuple[Running, str]:
        """Start a process with a door, and give its address once it is ready."""
        running = await self.start(role, *arguments, http="127.0.0.1:0", **settings)
        async with asyncio.timeout(GUARD_S):
            while "the door is at " not in running.said():
                assert running.process.returncode is None, running.said()
                await asyncio.sleep(0.01)
        url = running.said().partition("the door is at ")[2].split()[0]
        assert (await asked(url, "GET", "/readyz")).status == 200
        return running, url

    def tell(self, name: str) -> None:
        """Let handlers go on that wait for this name."""
        (self.folder / name).touch()

    async def rows(self, *states: State) -> list[Record]:
        """Give all messages in these states."""
        found: list[Record] = []
        while True:
            page = await self.store.find(Filter(states=states, after=found[-1].ref if found else 0, limit=1000))
            found += page
            if len(page) < 1000:
                return found

    async def until_ended(self, id: str) -> Record:
        from ringpost.core import ids

        async with asyncio.timeout(GUARD_S):
            while True:
                (record,) = await self.store.read([ids.parse(id)], bodies=True)
                assert record is not None
                if record.state.terminal:
                    return record
                await self.store.wait(frozenset(), frozenset([record.id]), 1)

    async def close(self) -> None:
        for running in self._processes:
            running.ending = True
            if running.process.returncode is None:
                running.process.kill()
        await asyncio.gather(*self._watching)
        for running in self._processes:
            running.process._transport.close()  # type: ignore[attr-defined]
        await self.store.close()
        self.diary.close()


@asynccontextmanager
async def a_scene(folder: Path, lease_s: float, url: str | None = None) -> AsyncIterator[Scene]:
    scene = Scene(folder, lease_s, url)
    await scene.store.open(create=True)
    try:
        yield scene
    finally:
        await scene.close()


@asynccontextmanager
async def a_client(*, store: str | None = None, **addresses: str) -> AsyncIterator[Client]:
    """A client that reads no settings but these."""
    async with Client(**({} if store is None else {"store": store}), addresses=addresses) as client:
        yield client


class Reply:
    """What a door answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def asked(url: str, method: str, path: str, body: object = None, **headers: str) -> Reply:
    """Ask over a connection of its own, by hand: no code of the client is involved. `x_y` stands for the header x-y."""
    host, port = url.removeprefix("http://").split(":")
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close", f"content-length: {len(content)}"]
    if body is not None:
        lines.append("content-type: application/json")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    async with asyncio.timeout(GUARD_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + content)
            data = await reader.read()
        finally:
            writer.close()
        await writer.wait_closed()
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *others = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
    if fields.get("transfer-encoding") == "chunked":
        rest = _unchunked(rest)
    return Reply(int(first.split()[1]), fields, rest)


def _unchunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        whole, data = whole + data[:length], data[length + 2 :]
    return whole
