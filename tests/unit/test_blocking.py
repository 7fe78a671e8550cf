"""The same verbs without await: from threads, in forked processes, and as type checkers see them."""

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringpost import blocking
from ringpost.blocking.portal import LoopPortal
from ringpost.client.client import Client
from ringpost.client.ticket import Receipt, Ticket
from ringpost.contract.contract import Contract
from ringpost.contract.errors import DeadlineExceeded, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.core.call import Accepted, Call
from ringpost.core.handling import handling
from ringpost.core.message import Answer, Settlement, State
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore

ROOT = Path(__file__).parents[2]


@dataclass
class Word:
    text: str


class Speaking(Contract):
    say = Operation(Word, str)
    said = Event(Word)


class Here:
    def serves(self, operation: str) -> bool:
        return True

    async def call(self, call: Call) -> Answer:
        await asyncio.sleep(0)
        return Answer(200, msgspec.json.encode(msgspec.json.decode(call.body)["text"].upper()))

    async def accept(self, call: Call) -> Accepted | Answer:
        return await self.call(call)


class Running:
    """A loop in a thread, with a store and services, and a blocking client onto them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.portal = LoopPortal(self.loop)
        self.store = MemoryStore()
        self.client: Any = blocking.Client.onto_loop(  # type: ignore[attr-defined]
            Client._attached(self.store, Here(), Settings()), self.loop
        )

    async def work(self, queue: str) -> None:
        claimed = await self.store.claim({queue: 10}, 1, 30.0)
        await self.store.settle(
            [Settlement(one, State.SUCCEEDED, Answer(200, b'"DONE"')) for one in claimed.deliveries]
        )


@contextmanager
def running() -> Iterator[Running]:
    one = Running()
    one.portal.run(one.store.open)
    try:
        yield one
    finally:
        one.client.close()
        one.portal.run(one.store.close)
        one.loop.call_soon_threadsafe(one.loop.stop)
        one.thread.join()
        one.loop.close()


def test_calls_and_tickets_without_await() -> None:
    with running() as here:
        assert here.client.call(Speaking.say, Word("a")) == "A"
        assert here.client.call_all(Speaking.say, (Word(word) for word in "abc")) == ["A", "B", "C"]
        assert here.client.call_or_send(Speaking.say, Word("a"), wait=1) == "A"
        ticket = here.client.send(Speaking.say, Word("a"))
        assert isinstance(ticket, blocking.Ticket)
        assert isinstance(ticket, Receipt)
        assert not isinstance(ticket, Ticket)
        assert (ticket.level, ticket.receivers, ticket.status().state) == ("buffered", 1, "accepted")
        with pytest.raises(DeadlineExceeded):
            ticket.result(timeout=0.01)
        here.portal.run(lambda: here.work("speaking.say"))
        assert ticket.result() == "DONE"
        assert here.client.ticket(Speaking.say, ticket.id).result() == "DONE"
        assert here.client.publish(Speaking.said, Word("a")).receivers == 0


def test_many_come_as_a_list_of_tickets() -> None:
    with running() as here:
        tickets = here.client.send_all(Speaking.say, [Word(word) for word in "abc"])
        here.portal.run(lambda: here.work("speaking.say"))
        assert [ticket.result() for ticket in tickets] == ["DONE"] * 3


def test_iterators_can_be_left_early() -> None:
    with running() as here:
        for outcome in here.client.call_each(Speaking.say, iter([Word("a")] * 100)):
            assert outcome.result() == "A"
            break
        ticket = here.client.send(Speaking.say, Word("a"))
        states = []
        for status in ticket.updates():
            states.append(status.state)
            if status.state == "accepted":
                here.portal.run(lambda: here.work("speaking.say"))
        assert (states[0], states[-1]) == ("accepted", "succeeded")


def test_requests_are_taken_from_their_iterator_in_the_callers_thread() -> None:
    threads: set[int] = set()

    def words() -> Iterator[Word]:
        threads.add(threading.get_ident())
        yield Word("a")

    with running() as here:
        here.client.call_all(Speaking.say, words())
        list(here.client.call_each(Speaking.say, words()))
    assert threads == {threading.get_ident()}


def test_many_threads_share_one_client() -> None:
    with blocking.Client(store="memory:") as client, ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda n: client.send(Speaking.say, Word(str(n))).id, range(200)))
    assert len(ids) == 200


def test_a_deadline_block_counts_in_threads_too() -> None:
    with running() as here, blocking.deadline(0), pytest.raises(DeadlineExceeded):
        here.client.call(Speaking.say, Word("a"))


def test_inside_a_handler_it_refuses_as_the_asynchronous_one_does() -> None:
    with running() as here:
        token = handling.set(object())
        try:
            with pytest.raises(UsageError, match=r"use ctx\.send"):
                here.client.send(Speaking.say, Word("a"))
        finally:
            handling.reset(token)


async def test_in_an_event_loop_it_says_what_to_take() -> None:
    client = blocking.Client(store="memory:")
    with pytest.raises(UsageError, match=r"take ringpost\.Client and await it"):
        client.send(Speaking.say, Word("a"))


def test_a_mistake_is_raised_where_it_was_made() -> None:
    with blocking.Client(store="memory:") as client, pytest.raises(UsageError, match="Word"):
        client.send(Speaking.say, {"text": "a"})  # type: ignore[arg-type]


def test_a_forked_process_opens_its_own() -> None:
    client = blocking.Client(store="memory:")
    client.send(Speaking.say, Word("a"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what is tested: fork beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if client.send(Speaking.say, Word("b")).level == "buffered" else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert client.send(Speaking.say, Word("c")).receivers >= 0
    client.close()


@pytest.mark.parametrize("name", ["Ticket", "Sender", "Caller", "Client"])
def test_every_public_method_is_there_and_takes_the_same(name: str) -> None:
    modules = {"Ticket": "ticket", "Sender": "verbs", "Caller": "verbs", "Client": "client"}
    module = sys.modules[f"ringpost.client.{modules[name]}"]
    asynchronous, plain = getattr(module, name), getattr(blocking, name)
    public = [one for one in vars(asynchronous) if not one.startswith("_") and callable(getattr(asynchronous, one))]
    assert public
    for one in public:
        function = getattr(plain, one)
        assert not inspect.iscoroutinefunction(function)
        assert inspect.signature(function).parameters == inspect.signature(getattr(asynchronous, one)).parameters


def test_the_stub_is_current() -> None:
    said = subprocess.run(
        [sys.executable, ROOT / "tools" / "blocking_stub.py", "--check"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout + said.stderr
