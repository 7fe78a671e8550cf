"""A project in a folder and its services in a real `ringpost run` process, for the tests of the command line."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOML = 'store = "sqlite:///town.db"\nhttp = "127.0.0.1:1"\nlease = 2\n'

SERVICES = """
import asyncio
from dataclasses import dataclass

from ringpost import Context, Contract, Event, Operation, Outcome, Problem, Reject, Retry, Secret, Service


@dataclass
class NewUser:
    email: str
    password: Secret[str] = ""


@dataclass
class User:
    id: str
    email: str


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class Accounts(Contract):
    register = Operation(NewUser, User, raises=[EmailTaken])
    registered = Event(User)


class Jobs(Contract):
    count = Operation(int, str)
    hang = Operation(None)
    poison = Operation(NewUser)
    once = Operation(str, str)
    heard = Operation(Outcome[str, str])


accounts, jobs, analytics = Service(Accounts), Service(Jobs), Service(name="analytics")
users: dict[str, User] = {}
healed: list[str] = []


@accounts.implements(Accounts.register)
async def register(new: NewUser, ctx: Context) -> User:
    if new.email in users:
        raise EmailTaken(new.email)
    users[new.email] = User(str(len(users) + 1), new.email)
    await ctx.publish(Accounts.registered, users[new.email])
    return users[new.email]


@analytics.on(Accounts.registered)
async def seen(user: User) -> None:
    print(f"seen {user.email}", flush=True)


@jobs.implements(Jobs.count)
async def count(to: int, ctx: Context) -> str:
    for number in range(1, to + 1):
        await ctx.progress(number / to, f"{number} of {to}")
        await asyncio.sleep(0.02)
    return f"counted to {to}"


@jobs.implements(Jobs.hang)
async def hang(nothing: None, ctx: Context) -> None:
    while True:
        await ctx.progress(0.5, "hanging on")
        await asyncio.sleep(0.02)


@jobs.implements(Jobs.poison, retry=Retry(attempts=1))
async def poison(user: NewUser) -> None:
    if user.email not in healed:
        healed.append(user.email)
        raise ValueError(f"can't stomach {user.email}")


@jobs.implements(Jobs.once)
async def once(text: str) -> str:
    return text.upper()


@jobs.implements(Jobs.heard)
async def heard(outcome: Outcome[str, str]) -> None:
    print(f"heard {outcome.result()}", flush=True)
"""


class Town:
    """A folder with services, and a process that runs them."""

    def __init__(self, folder: Path, *arguments: str, services: str = SERVICES, toml: str = TOML) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "ringpost.toml").write_text(toml)
        (folder / "services.py").write_text(services)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringpost", "run", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.heard: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def until(self, text: str) -> str:
        """Give the first line of its output that has the text."""
        while True:
            line = self._lines.get(timeout=30)
            assert line is not None, self.heard
            self.heard.append(line)
            if text in line:
                return line

    def stop(self) -> int:
        """Interrupt it and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=40)
        self._reader.join(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def ran(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the folder."""
        return ran(self.folder, *arguments, **variables)


def ran(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `ringpost` in a folder, with environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "ringpost", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment(), **variables},
        check=False,
    )


@contextmanager
def watching(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `ringpost` until it is interrupted; it is gone afterwards, interrupted or not.

    A shell lets what it starts in the background ignore interrupts, which is inherited: here they are heard always."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ringpost", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def environment() -> dict[str, str]:
    """Give the environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RINGPOST_")}


def url_of(town: Town) -> str:
    said = next((line for line in town.heard if "the door is at" in line), "") or town.until("the door is at")
    found = re.search(r"http://\S+", said)
    assert found is not None
    return found[0]


def wait_until_ready(town: Town) -> None:
    with urllib.request.urlopen(f"{url_of(town)}/readyz", timeout=20) as response:
        assert response.status == 200
