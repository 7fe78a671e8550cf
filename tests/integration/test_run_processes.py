"""`run` as processes: signals, deaths, ports, reload. Each test starts its own and ends it by its id."""

import asyncio
import os
import re
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from ringpost.http import supervise
from ringpost.http.supervise import CANT_START, NO_STORE, Supervisor, Tie
from ringpost.settings import Settings
from ringpost.store import store_for

PATIENCE_S = 60.0

SERVICE = """
    import asyncio, os, ringpost, sys, time
    from ringpost import Contract, Operation, Service, run

    class Tried(Contract):
        who = Operation(None, int)
        version = Operation(None, str)
        nap = Operation(float, str, timeout=60)
        block = Operation(float, str, timeout=60)

    tried = Service(Tried)

    @tried.implements(Tried.who)
    async def who(nothing: None) -> int:
        return os.getpid()

    @tried.implements(Tried.version)
    async def version(nothing: None) -> str:
        return "one"

    @tried.implements(Tried.nap)
    async def nap(length_s: float) -> str:
        print("napping", file=sys.stderr, flush=True)
        await asyncio.sleep(length_s)
        return "rested"

    @tried.implements(Tried.block)
    async def block(length_s: float) -> str:
        print("blocking", file=sys.stderr, flush=True)
        time.sleep(length_s)
        return "rested"
"""
RUN = """
    if __name__ == "__main__":
        run(tried, **eval(sys.argv[1]))
"""
TAKES_SQL = SERVICE.replace("version(nothing: None)", "version(nothing: None, tx: 'ringpost.Transaction')")
NEVER_ENDS = """
    @tried.implements(Tried.block)
    def never(length_s: float) -> str:
        print("blocking", file=sys.stderr, flush=True)
        while True:
            time.sleep(0.05)

    if __name__ == "__main__":
        run(tried, **eval(sys.argv[1]))
        print("run has returned", file=sys.stderr, flush=True)
"""
WAITED_FOR = """
    from concurrent.futures import ThreadPoolExecutor
    from ringpost.service import threads

    class Waited(ThreadPoolExecutor):
        def close(self):
            self.shutdown(wait=False, cancel_futures=True)

    threads.Daemons = Waited
"""


class Process:
    """A program that was started, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._news = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.said += line.decode()
            self._news.set()
        self._news.set()

    async def says(self, pattern: str, times: int = 1) -> str:
        """Wait until it has said something; give what the pattern's group matched last."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := re.findall(pattern, self.said)) < times:
                assert not self._listening.done(), f"it never said {pattern!r}:\n{self.said}"
                self._news.clear()
                await self._news.wait()
        last: str = found[-1]
        return last

    async def url(self) -> str:
        return await self.says(r"the door is at (\S+)")

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


@asynccontextmanager
async def started(
    folder: Path, arguments: dict[str, Any], code: str = SERVICE + RUN, **environ: str
) -> AsyncGenerator[Process, None]:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(code))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        repr({"http": "127.0.0.1:0", **arguments}),
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(process)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await running._listening


async def post(base: str, operation: str, body: str = "", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=base, timeout=PATIENCE_S) as http:
        return await http.post(f"/tried/{operation}", content=body, headers=headers)


async def pids(base: str, count: int) -> set[int]:
    """Ask on new connections until as many processes have answered."""
    found: set[int] = set()
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            answers = await asyncio.gather(*(post(base, "who") for _ in range(8)), return_exceptions=True)
            found.update(answer.json() for answer in answers if isinstance(answer, httpx.Response))
    return found


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not so():  # noqa: ASYNC110 (another process tells nobody)
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# One process.


async def test_sigterm_not_ready_at_once_serving_on_finishing_what_runs(tmp_path: Path) -> None:
    async with started(tmp_path, {}, RINGPOST_SHUTDOWN="14") as program:
        base = await program.url()
        async with httpx.AsyncClient(base_url=base) as http:
            assert (await http.get("/readyz")).status_code == 200
            napping = asyncio.create_task(post(base, "nap", "4.0"))
            await program.says("napping")
            program.tell(signal.SIGTERM)
            await asyncio.sleep(0.2)
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["reasons"]) == (503, ["stopping"])
            assert (await post(base, "version")).json() == "one"
            answer = await napping
            assert (answer.status_code, answer.json()) == (200, "rested")
        assert await program.ended() == 0


async def test_sigint_doesnt_wait_for_those_who_must_notice(tmp_path: Path) -> None:
    async with started(tmp_path, {}) as program:
        base = await program.url()
        assert (await post(base, "version")).json() == "one"
        program.tell(signal.SIGINT)
        async with asyncio.timeout(4.0):  # the time for them is 5 s
            assert await program.process.wait() == 0


async def test_a_second_signal_ends_it_now(tmp_path: Path) -> None:
    async with started(tmp_path, {}) as program:
        base = await program.url()
        napping = asyncio.create_task(post(base, "nap", "30"))
        await program.says("napping")
        program.tell(signal.SIGTERM)
        await asyncio.sleep(0.2)
        program.tell(signal.SIGTERM)
        assert await program.ended() == -signal.SIGTERM
        await program.says("ending at once")
        with pytest.raises(httpx.TransportError):
            await napping


async def test_what_runs_beyond_the_grace_is_cancelled(tmp_path: Path) -> None:
    async with started(tmp_path, {}, RINGPOST_SHUTDOWN="4") as program:
        base = await program.url()
        napping = asyncio.create_task(post(base, "nap", "50"))
        await program.says("napping")
        program.tell(signal.SIGTERM)
        assert await program.ended() == 0
        answer = await napping
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize("twin", [False, True])
async def test_a_function_that_never_ends_keeps_no_process(tmp_path: Path, twin: bool) -> None:
    service = SERVICE.partition("    @tried.implements(Tried.block)")[0]
    async with started(tmp_path, {}, (WAITED_FOR if twin else "") + service + NEVER_ENDS, RINGPOST_SHUTDOWN="4") as it:
        base = await it.url()
        blocking = asyncio.create_task(post(base, "block", "50"))
        await it.says("blocking")
        it.tell(signal.SIGINT)
        assert (await blocking).status_code == 503
        await it.says("run has returned")
        if twin:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(it.process.wait(), 1.0)
        else:
            assert await it.ended() == 0


async def test_a_loop_that_hangs_is_ended_by_the_kernel(tmp_path: Path) -> None:
    async with started(tmp_path, {"workers": 2}, RINGPOST_SHUTDOWN="1") as program:
        base = await program.url()
        blocking = asyncio.create_task(post(base, "block", "50"))
        await program.says("blocking")
        program.tell(signal.SIGTERM)
        await program.ended()
        with pytest.raises(httpx.TransportError):
            await blocking


# Ports.


async def test_a_given_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with started(tmp_path, {"http": address}) as program:
            assert await program.ended() == 1
            await program.says(f"UsageError: {address} is taken")


async def test_without_a_door(tmp_path: Path) -> None:
    async with started(tmp_path, {"http": None, "store": "memory:"}) as program:
        await program.says("working without a door")
        await asyncio.sleep(0.5)
        program.tell(signal.SIGTERM)
        assert await program.ended() == 0


async def test_that_it_works_is_said_once_it_does(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("these are not the bytes of a database" * 20)
    for workers in (1, 2):
        arguments = {"http": None, "store": f"sqlite:///{tmp_path}/x.db", "workers": workers}
        async with started(tmp_path, arguments) as program:
            assert await program.ended() != 0
            await program.says("is not a SQLite database")
        assert "working without a door" not in program.said


# Several processes.


ONCE = """
    import os
    from ringpost.http.run import Once

    once = Once("working")
    for _ in range(3):
        if not os.fork():
            once.say()
            os._exit(0)
        os.wait()
    once.close()
"""


async def test_of_several_processes_one_says_it(tmp_path: Path) -> None:
    async with started(tmp_path, {}, ONCE) as program:
        assert await program.ended() == 0
    assert program.said == "ringpost: working\n"


async def test_workers_share_a_port_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    async with started(tmp_path, {"workers": 2, "store": f"sqlite:///{tmp_path}/x.db"}) as program:
        base = await program.url()
        first = await pids(base, 2)
        assert program.process.pid not in first
        victim = first.pop()
        os.kill(victim, signal.SIGKILL)
        await program.says(rf"process {victim}\) ended by SIGKILL")
        second = await pids(base, 2)
        assert victim not in second
        assert first < second
        program.tell(signal.SIGINT)
        assert await program.ended() == 0
        assert not any(lives(pid) for pid in second)


async def test_workers_dont_outlive_their_parent(tmp_path: Path) -> None:
    async with started(tmp_path, {"workers": 2}) as program:
        workers = await pids(await program.url(), 2)
        program.tell(signal.SIGKILL)
        await until(lambda: not any(lives(pid) for pid in workers))


async def test_workers_that_cant_start_end_it(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/no/such/folder/x.db"
    async with started(tmp_path, {"workers": 2, "store": store}) as program:
        assert await program.ended() == NO_STORE
        await program.says("ringpost: ")
    async with started(tmp_path, {"workers": 2}, TAKES_SQL + RUN) as program:
        assert await program.ended() == CANT_START
        await program.says("takes a Transaction")


async def test_all_workers_are_one_instance(tmp_path: Path) -> None:
    """A call names the instance that it means; whichever worker takes the connection must not refuse it."""
    store = f"sqlite:///{tmp_path}/x.db"
    async with started(tmp_path, {"workers": 2, "store": store}) as program:
        base = await program.url()
        await pids(base, 2)
        opened = store_for(store, Settings(store=store))
        await opened.open()
        try:
            (note,) = await opened.notes("instance/")
        finally:
            await opened.close()
        instance = note.name.removeprefix("instance/")
        asked = [post(base, "who", **{"Ringpost-Instance": instance}) for _ in range(16)]
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        assert (await post(base, "who", **{"Ringpost-Instance": "other"})).status_code == 421


# Reload.


async def test_reload_serves_what_was_written(tmp_path: Path) -> None:
    launch = """
        import sys
        from ringpost.http.run import run_loaded
        from ringpost.settings import load

        def services():
            import served
            return [served.tried]

        if __name__ == "__main__":
            run_loaded(services, load(eval(sys.argv[1])), reload=True)
    """
    served = tmp_path / "served.py"
    served.write_text(textwrap.dedent(SERVICE))
    async with started(tmp_path, {}, launch) as program:
        base = await program.url()
        assert (await post(base, "version")).json() == "one"
        served.write_text(served.read_text().replace('"one"', '"one'))
        await program.says("SyntaxError")
        served.write_text(textwrap.dedent(SERVICE).replace('"one"', '"two"'))
        assert (await post(base, "version")).json() == "two"
        program.tell(signal.SIGINT)
        assert await program.ended() == 0


# The supervisor by itself.


def test_a_worker_that_keeps_dying_rests_longer_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervise, "LONGEST_REST_S", 0.2)
    births = tmp_path / "births"

    def work(tie: Tie) -> int:
        with births.open("a") as file:
            file.write("x")
        return CANT_START if births.stat().st_size == 5 else 3

    assert Supervisor(1, work, stop_s=1.0).run() == CANT_START
    assert births.read_text() == "xxxxx"


@pytest.mark.parametrize(("serves", "births"), [(True, 5), (False, 1)])
def test_a_store_that_is_away_is_waited_for_by_who_has_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serves: bool, births: int
) -> None:
    monkeypatch.setattr(supervise, "LONGEST_REST_S", 0.2)
    born = tmp_path / "births"

    def work(tie: Tie) -> int:
        with born.open("a") as file:
            file.write("x")
        if serves and born.stat().st_size == 1:
            os.write(tie.serving, b".")
            return 1
        return CANT_START if born.stat().st_size == 5 else NO_STORE

    assert Supervisor(1, work, stop_s=1.0).run() == (CANT_START if serves else NO_STORE)
    assert born.read_text() == "x" * births


def test_a_worker_that_is_told_to_stop_while_it_starts_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(tie: Tie) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            (tmp_path / "starts").mkdir()
        except FileExistsError:  # the other one does
            return CANT_START
        signal.pause()
        return 3

    assert Supervisor(2, work, stop_s=PATIENCE_S).run() == CANT_START
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("twin", [False, True])
def test_a_death_that_another_thread_hears_of_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, twin: bool
) -> None:
    """A signal that comes while the parent is at work goes to whichever thread doesn't block it, and is lost there."""
    waits = 0

    def deaf(waited: object, rest_s: float) -> None:
        nonlocal waits
        waits += 1
        if rest_s > supervise.STEADY_S / 2:
            raise TimeoutError
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)

    if twin:
        monkeypatch.setattr(supervise, "LOOK_S", supervise.STEADY_S)
    monkeypatch.setattr(supervise.signal, "sigtimedwait", deaf)
    supervisor = Supervisor(1, lambda tie: CANT_START, stop_s=PATIENCE_S)
    if twin:
        with pytest.raises(TimeoutError):
            supervisor.run()
    else:
        assert supervisor.run() == CANT_START
        assert waits == 1
