"""Calls to targets that refuse, hang, shed load and half fail: who tries again, how often, and when not at all."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import uvloop

from ringpost import (
    Client,
    Context,
    Contract,
    DeadlineExceeded,
    Operation,
    OperationFailed,
    Overloaded,
    Problem,
    Service,
    Unavailable,
    UsageError,
    blocking,
)
from ringpost.client import bulkhead, guard, guards, outbound
from ringpost.client.attempt import Attempt
from ringpost.client.outgoing import Asked
from ringpost.client.ticket import Receipt
from ringpost.client.transport import CONNECTIONS_PER_ORIGIN
from ringpost.core import call_retry, notes
from ringpost.core.breaker import GOOD_CLOSE, Breaker
from ringpost.core.budget import Budget
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


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance is kind: no backoff is waited for."""
    monkeypatch.setattr(call_retry, "backoff_s", lambda number, chance: 0.0)


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not so():  # noqa: ASYNC110 (what is waited for happens in sockets)
            await asyncio.sleep(0.005)


# --- who is tried again

REPEATED = [
    ("read", refuse("unavailable"), 3),
    ("turn", refuse("unavailable"), 3),
    ("write", refuse("unavailable"), 1),  # it may have been done
    ("write", refuse("unavailable", 503, UNSEEN), 3),
    ("write", refuse("overloaded", 503, UNSEEN), 3),
    ("read", say(502), 3),
    ("write", say(502), 1),
    ("read", None, 3),  # it hangs up
    ("write", None, 1),
    ("read", refuse("handler_error", 500), 1),  # an outcome
    ("read", refuse("deadline_exceeded", 504), 1),
    ("read", refuse("unavailable", 503, retryable=False), 1),  # somebody below has done so
    ("read", refuse("loop_detected", 508), 1),
    ("read", refuse("not_found", 404, UNSEEN), 1),
]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("name", "answer", "times"), REPEATED)
async def test_only_what_is_safe_is_tried_again(name: str, answer: Answer, times: int) -> None:
    async with a_door(answered(answer)) as door, a_client(door) as client:
        with pytest.raises((Unavailable, OperationFailed, Overloaded, DeadlineExceeded)):
            await client.call(getattr(Far, name), 1)
        assert [seen.attempt for seen in door.seen] == list(range(1, times + 1))


@pytest.mark.usefixtures("at_once")
async def test_a_key_makes_it_safe_and_a_retry_brings_the_reply() -> None:
    async with a_door(answered(None, say(200, 7))) as door, a_client(door) as client:
        assert await client.call(Far.write, 1, idempotency_key="k") == 7
        assert [seen.headers["idempotency-key"] for seen in door.seen] == ['"k"', '"k"']


@pytest.mark.usefixtures("at_once")
async def test_a_request_that_is_in_flight_under_its_key_is_asked_for_again() -> None:
    async with a_door(answered(None, refuse("in_flight", 409), say(200, 7))) as door, a_client(door) as client:
        assert await client.call(Far.write, 1, idempotency_key="k") == 7
        assert len(door.seen) == 3


@pytest.mark.usefixtures("at_once")
async def test_what_the_first_attempt_may_have_done_the_last_one_does_not_deny() -> None:
    last = refuse("unavailable", 503, UNSEEN, retryable=False)
    async with a_door(answered(None, last)) as door, a_client(door) as client:
        with pytest.raises(Unavailable) as caught:
            await client.call(Far.write, 1, idempotency_key="k")
        assert (len(door.seen), caught.value.processed) == (2, "maybe")


@pytest.mark.usefixtures("at_once")
async def test_the_call_has_the_last_word_then_operation_contract_process() -> None:
    policies = {"": {"attempts": 5}, "far": {"attempts": 4}, "far.turn": {"attempts": 2}}
    async with a_door(answered(say(502))) as door, a_client(door, policies=policies) as client:
        for operation, options, times in ((Far.turn, {}, 2), (Far.read, {}, 4), (Far.read, {"attempts": 1}, 1)):
            door.seen.clear()
            guards.PROCESS.watch(door_target(door), "x", Breaker().rule, 0).budget.tenths = 100
            with pytest.raises(Unavailable):
                await client.call(operation, 1, **options)  # type: ignore[arg-type]
            assert len(door.seen) == times


def door_target(door: Door) -> Any:
    from ringpost.client.target import target_of

    return target_of(door.url)


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"attempts": True}, {"attempts": 11}, {"hedge": 1}, {"hedge": True}]
)
async def test_wrong_options_are_refused_before_anything_is_sent(options: Any) -> None:
    async with a_door() as door, a_client(door) as client:
        with pytest.raises(UsageError):
            await client.call(Far.write, 1, **options)
        assert door.seen == []


async def test_a_retry_after_beyond_the_deadline_is_raised_at_once() -> None:
    shed = refuse("overloaded", 503, UNSEEN, "retry-after: 30")
    async with a_door(answered(shed)) as door, a_client(door) as client:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Overloaded) as raised:
                await client.call(Far.read, 1, timeout=20)
        assert raised.value.retry_after == 30
        assert len(door.seen) == 1


SOON = (refuse("overloaded", 503, "retry-after: 1"), say(200, 7))


async def assert_a_retry_waits(client: Client, door: Door) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    assert await client.call(Far.read, 1, timeout=10) == 7
    assert len(door.seen) == 2
    assert loop.time() - began_s >= 1.0


@pytest.mark.usefixtures("at_once")
async def test_a_retry_after_is_waited_for() -> None:
    async with a_door(answered(*SOON)) as door, a_client(door) as client:
        await assert_a_retry_waits(client, door)


# --- the budget


async def test_in_an_outage_there_are_five_retries_whoever_makes_them() -> None:
    """Two clients in this loop and one in a thread of its own have one budget."""
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door:
        assert await calls_in_an_outage(door) == 9 + 5


async def calls_in_an_outage(door: Door) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call_retry, "backoff_s", lambda number, chance: 0.0)
        async with a_client(door) as one, a_client(door) as two:
            for client in (one, two):
                for _ in range(3):
                    with pytest.raises(Unavailable):
                        await client.call(Far.write, 1)
        await asyncio.to_thread(_call_from_a_thread, door.url)
    return len(door.seen)


def _call_from_a_thread(url: str) -> None:
    with blocking.Client(addresses={"far": url}) as client:
        for _ in range(3):
            with pytest.raises(Unavailable):
                client.call(Far.write, 1)


async def test_a_twin_with_a_budget_for_each_client_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = guards.Guards.watch

    def own(self: guards.Guards, *given: Any) -> guards.Watch:
        return msgspec.structs.replace(watch(self, *given), budget=Budget())

    monkeypatch.setattr(guards.Guards, "watch", own)
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door:
        assert await calls_in_an_outage(door) > 9 + 5


@pytest.mark.usefixtures("at_once")
async def test_a_long_outage_of_half_the_calls_is_amplified_by_no_more_than_a_fifth() -> None:
    """Every other request is refused: never for ever, so that the breaker stays closed."""

    async def half(seen: Seen) -> Answer:
        return say(200, 7) if len(door.seen) % 5 else refuse("unavailable", 503, UNSEEN)

    async with a_door(half) as door, a_client(door) as client:
        calls = 400
        for _ in range(calls):
            with suppress(Unavailable):
                await client.call(Far.write, 1)
        assert len(door.seen) <= calls * 1.2


# --- the breaker


async def fail(client: Client, times: int, operation: Any = Far.write) -> list[str]:
    """Call so often, and give what was said."""
    said = []
    for _ in range(times):
        with pytest.raises((Unavailable, OperationFailed)) as raised:
            await client.call(operation, 1)
        said.append(str(raised.value))
    return said


async def test_it_opens_for_this_operation_at_this_target_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door, a_door() as well:
        settings = Settings(addresses={"far": door.url})
        client = Client._attached(None, None, settings)
        await fail(client, 20)
        assert len(door.seen) == 20
        with pytest.raises(Unavailable) as raised:
            await client.call(Far.write, 1)
        assert len(door.seen) == 20, "nothing went out"
        assert raised.value.processed == "no"
        assert raised.value.retry_after is not None and 0 <= raised.value.retry_after <= 0.5
        for part in ("far.write", door.url, "open since", "handler_error", "probes next in"):
            assert part in str(raised.value)
        assert "breaker has opened" in caplog.text
        # Neither another operation there nor the same one elsewhere is broken off.
        door.answering = answered(say(200, 7))
        assert await client.call(Far.other, 1) == 7
        async with a_client(well) as elsewhere:
            assert await elsewhere.call(Far.write, 1) == 7
        # Another client of the process knows already.
        async with a_client(door) as neighbour:
            with pytest.raises(Unavailable, match="open since"):
                await neighbour.call(Far.write, 1)
        await client.close()


async def test_where_nobody_listens_it_opens_too(unused_tcp_port: int) -> None:
    client = Client._attached(None, None, Settings(addresses={"far": f"http://127.0.0.1:{unused_tcp_port}"}))
    said = await fail(client, 40)
    assert "open since" in said[-1] and "nobody listens there" in said[-1]
    await client.close()


async def test_answers_break_nothing_off() -> None:
    body = {"type": "urn:ringpost:problem:far.odd", "title": "odd", "status": 409, "code": "odd"}
    async with a_door(answered(say(409, body, kind="application/problem+json"))) as door, a_client(door) as client:
        for _ in range(30):
            with pytest.raises(Odd):
                await client.call(Far.write, 1)
        assert len(door.seen) == 30


async def test_what_is_shed_or_failed_further_down_breaks_nothing_off() -> None:
    for refusal in (refuse("overloaded", 503, UNSEEN, "retry-after: 30"), refuse("unavailable", 503, retryable=False)):
        async with a_door(answered(refusal)) as door, a_client(door) as client:
            for _ in range(30):
                with pytest.raises((Overloaded, Unavailable)):
                    await client.call(Far.write, 1)
            assert len(door.seen) == 30


async def test_it_closes_by_five_good_probes_and_never_are_two_out() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door:
        await assert_one_probe_at_a_time(door)


async def assert_one_probe_at_a_time(door: Door) -> None:
    async with a_client(door) as client:
        await fail(client, 20)
        assert guards.readings(guards.PROCESS, 0.0)[0][1].state == "open"
        door.seen.clear()
        door.most_at_once = 0
        healing = asyncio.Event()

        async def slowly(seen: Seen) -> Answer:
            if not healing.is_set() and len(door.seen) <= GOOD_CLOSE:
                await asyncio.sleep(0.02)
            return say(200, 7)

        door.answering = slowly
        answers = 0

        async def keep_calling() -> None:
            nonlocal answers
            while answers < 200:
                with suppress(Unavailable):
                    await client.call(Far.write, 1)
                    answers += 1
                    if answers == GOOD_CLOSE:
                        assert door.most_at_once == 1, "more than one probe was out"
                        healing.set()
                await asyncio.sleep(0)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(keep_calling())
        assert guards.readings(guards.PROCESS, 0.0)[0][1].state == "closed"


async def test_a_twin_that_lets_two_probes_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(self: Breaker, now_s: float, until_s: float) -> bool:
        self.state = "half_open"
        return now_s >= self.probe_at_s

    monkeypatch.setattr(Breaker, "probe", generous)
    async with a_door(answered(refuse("handler_error", 500))) as door:
        with pytest.raises(BaseExceptionGroup) as caught:
            await assert_one_probe_at_a_time(door)
        assert caught.group_contains(AssertionError)


async def test_hanging_calls_open_it_and_it_closes_after_healing() -> None:
    async with a_door(hang) as door, a_client(door) as client:
        late = await asyncio.gather(
            *(client.call(Far.write, 1, timeout=0.2) for _ in range(20)), return_exceptions=True
        )
        assert all(isinstance(one, DeadlineExceeded) for one in late)
        with pytest.raises(Unavailable, match="open since"):
            await client.call(Far.write, 1)
        door.answering = answered(say(200, 7))
        async with asyncio.timeout(PATIENCE_S):
            good = 0
            while good < GOOD_CLOSE + 1:
                with suppress(Unavailable):
                    good += await client.call(Far.write, 1) == 7
                await asyncio.sleep(0.01)


async def broken_off_while_they_hang(client: Client, timeout_s: float) -> bool:
    """Say whether calls are broken off before the first of those that hang has ended."""
    hanging = [asyncio.ensure_future(client.call(Far.write, 1, timeout=timeout_s)) for _ in range(20)]
    try:
        await until(lambda: any(not one.breaker.passing for one in guards.PROCESS.all()) or hanging[0].done())
        return not any(one.done() for one in hanging)
    finally:
        for one in hanging:
            one.cancel()
        await asyncio.wait(hanging)


HANG_SOON = {"far.write": {"slow_s": 0.2}}


async def test_a_hang_is_noticed_before_the_first_deadline() -> None:
    async with a_door(hang) as door, a_client(door, policies=HANG_SOON) as client:
        assert await broken_off_while_they_hang(client, PATIENCE_S)
        with pytest.raises(Unavailable, match=r"calls take 0\.2 s and longer"):
            await client.call(Far.write, 1)


async def test_a_twin_that_waits_for_how_they_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmoved(self: guard.Guard, this: Attempt, now_s: float) -> None:
        this.overdue = False

    monkeypatch.setattr(guard.Guard, "_overdue", unmoved)
    async with a_door(hang) as door, a_client(door, policies=HANG_SOON) as client:
        assert not await broken_off_while_they_hang(client, 1.0)


async def test_impatience_isn_t_the_target_s_fault() -> None:
    """A target that usually takes 50 ms isn't broken off because some give it 5."""

    async def steady(_: Seen) -> Answer:
        await asyncio.sleep(0.05)
        return say(200, 7)

    async with a_door(steady) as door, a_client(door) as client:
        for _ in range(40):
            await client.call(Far.write, 1)
        for _ in range(60):
            with pytest.raises(DeadlineExceeded):
                await client.call(Far.write, 1, timeout=0.005)
        assert await client.call(Far.write, 1) == 7


async def test_without_breaker_everything_goes_out() -> None:
    policies = {"far.write": {"breaker": False}}
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door, policies=policies) as client:
        await fail(client, 30)
        assert len(door.seen) == 30


async def how_tickets_are_probed(door: Door, client: Client) -> list[str]:
    """Let the breaker of tickets open, wait for the outcome of one while the target heals, and give what each question
    up to the first long one says of waiting."""
    ticket = client.ticket(Far.write, "0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e")
    door.answering = answered(say(502))
    while all(one.breaker.passing for one in guards.PROCESS.all()):
        with pytest.raises(Unavailable):
            await ticket.status()
    door.seen.clear()

    async def as_a_door_does(seen: Seen) -> Answer:
        return say(200, 7) if "wait=" in seen.headers.get("prefer", "") else say(202, {"id": ticket.id})

    door.answering = as_a_door_does
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):  # until the first probe may go
                assert await ticket.result(timeout=60) == 7
                return [seen.headers.get("prefer", "") for seen in door.seen]
            await asyncio.sleep(0.01)


async def test_a_long_poll_is_no_probe() -> None:
    """Its answer may take as long as it is waited for, and all others would wait for it."""
    async with a_door() as door, a_client(door) as client:
        assert await how_tickets_are_probed(door, client) == [""] * GOOD_CLOSE + ["wait=25"]
        assert all(one.breaker.passing for one in guards.PROCESS.all())


async def test_a_twin_that_probes_by_a_long_poll_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asked, "brief", lambda self: self)
    async with a_door() as door, a_client(door) as client:
        assert await how_tickets_are_probed(door, client) == ["wait=25"]


async def test_while_a_probe_waits_for_something_else_no_other_one_goes_out() -> None:
    """A call that comes after a message is answered once that has been handled; `slow_s` says nothing of that."""
    policies = {"far.write": {"slow_s": 0.05}}
    after = Receipt("0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e", duplicate=False, receivers=1, level="durable", store="s")
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door, policies=policies) as client:
        await fail(client, 20)
        door.seen.clear()
        door.answering = hang
        probe = None
        async with asyncio.timeout(PATIENCE_S):
            while not door.seen:
                if probe is None or probe.done():
                    probe = asyncio.ensure_future(client.call(Far.write, 1, after=after, timeout=10))
                    probe.add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.sleep(0.01)
        watch = next(one for one in guards.PROCESS.all() if one.operation == "far.write")
        now_s = asyncio.get_running_loop().time()
        assert not watch.breaker.probe(now_s + 5.0, now_s + 6.0), "the first one is out"
        assert probe is not None
        probe.cancel()
        await asyncio.wait((probe,))


# --- instances


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


async def test_an_instance_whose_breaker_is_open_is_passed_over() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as bad, a_door() as good:
        await assert_passed_over(bad, good)


async def assert_passed_over(bad: Door, good: Door) -> None:
    async with two_instances(bad, good) as client:
        for _ in range(50):
            with suppress(OperationFailed):
                await client.call(Far.write, 1)
        assert len(bad.seen) == 20
        bad.seen.clear()
        assert [await client.call(Far.write, 1) for _ in range(10)] == [7] * 10
        good.answering = answered(refuse("handler_error", 500))
        await fail(client, 60)
        with pytest.raises(Unavailable, match="open since"):
            await client.call(Far.write, 1)


# --- hedges


async def warm(client: Client, door: Door, *others: Door) -> None:
    """Let the usual latency be learned."""
    for _ in range(400):
        await client.call(Far.read, 1)
    for one in (door, *others):
        one.seen.clear()
        one.cut = 0


async def test_a_late_read_is_asked_of_another_instance_and_its_loser_ends() -> None:
    async with a_door() as one, a_door() as two, two_instances(one, two) as client:
        await warm(client, one, two)
        one.answering = hang
        replies = [await client.call(Far.read, 1, timeout=10) for _ in range(4)]
        assert replies == [7] * 4
        # Two of the four went to each; those that hang were asked of the other one. (A slow machine may hedge more.)
        assert [seen.attempt for seen in one.seen].count(1) == 2
        assert [seen.attempt for seen in two.seen].count(2) == 2
        await until(lambda: one.cut == len(one.seen) and one.at_once == 0)  # its connection was closed


async def test_the_first_answer_wins_and_the_hedge_ends() -> None:
    gate = asyncio.Event()

    async def first_slowly(seen: Seen) -> Answer:
        if seen.attempt == 1:
            await gate.wait()
            return say(200, 1)
        gate.set()
        return await hang(seen)

    async with a_door() as door, a_client(door) as client:
        await warm(client, door)
        door.answering = first_slowly
        assert await client.call(Far.read, 1) == 1
        assert [seen.attempt for seen in door.seen] == [1, 2]
        await until(lambda: door.at_once == 0 and door.cut == 1)


@pytest.mark.parametrize(
    ("operation", "options", "policies"),
    [
        (Far.turn, {}, {}),
        (Far.read, {"hedge": False}, {}),
        (Far.read, {}, {"far": {"hedge": False}}),
    ],
)
async def test_what_isn_t_to_be_hedged_is_asked_once(operation: Any, options: Any, policies: Any) -> None:
    async with a_door() as door, a_client(door, policies=policies) as client:
        for _ in range(400):
            await client.call(operation, 1)
        door.seen.clear()
        door.answering = hang
        with pytest.raises(DeadlineExceeded):
            await client.call(operation, 1, timeout=0.3, **options)
        assert len(door.seen) == 1


async def test_without_budget_nothing_is_hedged() -> None:
    async with a_door() as door, a_client(door) as client:
        await warm(client, door)
        door.answering = hang
        for watch, _ in guards.readings(guards.PROCESS, 0.0):
            watch.budget.tenths = 50
        with pytest.raises(DeadlineExceeded):
            await client.call(Far.read, 1, timeout=0.3)
        assert len(door.seen) == 1


# --- the bulkhead


async def test_a_thousand_calls_at_once_are_all_answered() -> None:
    async with a_door() as door, a_client(door) as client:
        assert await asyncio.gather(*(client.call(Far.write, 1, timeout=60) for _ in range(1000))) == [7] * 1000


async def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "WAITING_MAX", 4)
    async with a_door(hang) as door, a_client(door, policies={"far.write": {"limit": 4}}) as client:
        hanging = [asyncio.ensure_future(client.call(Far.write, 1, timeout=60)) for _ in range(4)]
        await until(lambda: len(door.seen) == 4)
        in_line = [asyncio.ensure_future(client.call(Far.write, 1, timeout=1)) for _ in range(4)]
        await until(lambda: [len(one.waiting) for one in bulkheads_of(client)] == [4])
        with pytest.raises(Overloaded, match="under way") as raised:
            await client.call(Far.write, 1)
        assert raised.value.processed == "no"
        ends = await asyncio.gather(*in_line, return_exceptions=True)
        assert [(type(one), getattr(one, "processed", "")) for one in ends] == [(DeadlineExceeded, "no")] * 4
        assert len(door.seen) == 4
        for one in hanging:
            one.cancel()
        await asyncio.wait(hanging)


async def calls_of_a_starved_process(door: Door) -> None:
    """Call healthily for a while, then with a loop that is late at every answer, two dozen at a time."""

    async def starved(_: Seen) -> Answer:
        time.sleep(0.01)  # noqa: ASYNC251 (it is what the test is about)
        return say(200, 7)

    async with a_client(door) as client:
        for _ in range(50):
            await client.call(Far.write, 1)
        door.answering = starved
        for _ in range(6):
            await asyncio.gather(*(client.call(Far.write, 1, timeout=60) for _ in range(24)))


async def test_a_process_without_cpu_fails_none_of_its_own_calls() -> None:
    async with a_door() as door:
        await calls_of_a_starved_process(door)


async def test_a_twin_that_takes_its_own_lateness_for_the_target_s_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    good = guard.Guard.good

    def learning(self: guard.Guard, this: Attempt, now_s: float) -> None:
        if now_s - this.began_s > 0.02:
            self.bulkhead.limit = max(4, self.bulkhead.limit // 2)
        good(self, this, now_s)

    monkeypatch.setattr(guard.Guard, "good", learning)
    monkeypatch.setattr(bulkhead, "WAITING_MAX", 8)
    async with a_door() as door:
        with pytest.raises(Overloaded):
            await calls_of_a_starved_process(door)


async def others_beside_hangs(door: Door, *hanging: Any, timeout_s: float = PATIENCE_S) -> tuple[list[int], list[Any]]:
    """Let operations hang at a target one after the other, each asked for 300 times at once; give how many connections
    each has taken, and what then becomes of calls of another one there."""
    paths = [f"/far/{operation.name}" for operation in hanging]

    async def half_well(seen: Seen) -> Answer:
        return await hang(seen) if seen.path in paths else say(200, 7)

    door.answering = half_well
    async with a_client(door, policies=PATIENT) as client:
        calls: list[asyncio.Future[Any]] = []
        for operation in hanging:
            calls += [asyncio.ensure_future(client.call(operation, 1, timeout=60)) for _ in range(300)]
            await all_wait_or_hang(client, door, len(calls))
        others = [client.call(Far.other, 1, timeout=timeout_s) for _ in range(50)]
        ends = await asyncio.gather(*others, return_exceptions=True)
        for one in calls:
            one.cancel()
        await asyncio.wait(calls)
        assert all(one.taken == 0 and not one.waiting and not one.places.lines for one in bulkheads_of(client))
    return [[seen.path for seen in door.seen].count(path) for path in paths], ends


def bulkheads_of(client: Client) -> list[bulkhead.Bulkhead]:
    ways = client._ways
    return [] if ways is None else [one.bulkhead for one in ways.router._out._kept.values()]


PATIENT = {"far": {"breaker": False}}  # however slow this machine is: no hang is given up


async def all_wait_or_hang(client: Client, door: Door, calls: int) -> None:
    await until(lambda: sum(one.taken + len(one.waiting) for one in bulkheads_of(client)) == calls)
    taken = sum(one.taken for one in bulkheads_of(client))
    await until(lambda: len(door.seen) == min(taken, CONNECTIONS_PER_ORIGIN))


@pytest.mark.parametrize(
    ("hanging", "taken"),
    [((Far.write,), [128]), ((Far.write, Far.turn), [128, 64]), ((Far.write, Far.turn, Far.slow), [128, 64, 32])],
)
async def test_operations_that_hang_leave_connections_for_others(hanging: tuple[Any, ...], taken: list[int]) -> None:
    async with a_door() as door:
        assert await others_beside_hangs(door, *hanging) == (taken, [7] * 50)


async def test_a_twin_whose_operations_take_without_regard_to_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boundless(bulkhead.Places):
        free = property(lambda self: 1_000_000, lambda self, count: None)  # type: ignore[assignment]

    monkeypatch.setattr(outbound, "Places", Boundless)
    async with a_door() as door:
        taken, ends = await others_beside_hangs(door, Far.write, Far.turn, Far.slow, timeout_s=0.5)
        assert sum(taken) == CONNECTIONS_PER_ORIGIN
        assert all(isinstance(one, DeadlineExceeded) for one in ends)


async def test_a_policy_may_let_an_operation_have_more() -> None:
    async with a_door(hang) as door, a_client(door, policies=PATIENT | {"far.write": {"limit": 200}}) as client:
        calls = [asyncio.ensure_future(client.call(Far.write, 1, timeout=60)) for _ in range(300)]
        await all_wait_or_hang(client, door, 300)
        assert len(door.seen) == 200
        for one in calls:
            one.cancel()
        await asyncio.wait(calls)


async def test_who_has_the_fewest_places_gets_the_next() -> None:
    """One operation has taken half of all, and hangs no more: another one, which has less, takes what it gives back."""
    gate = asyncio.Semaphore(0)

    async def one_by_one(seen: Seen) -> Answer:
        if seen.path == "/far/write":
            await gate.acquire()
            return say(200, 7)
        return await hang(seen)

    async with a_door(one_by_one) as door, a_client(door, policies=PATIENT) as client:
        calls: list[asyncio.Future[Any]] = []
        for operation in (Far.write, Far.turn):
            calls += [asyncio.ensure_future(client.call(operation, 1, timeout=60)) for _ in range(200)]
            await all_wait_or_hang(client, door, len(calls))
        write, turn = bulkheads_of(client)
        for _ in range(60):
            gate.release()
        await until(lambda: len(write.waiting) < 72)  # it waited while it had more than there were free
        assert (write.taken, turn.taken, write.places.free) == (86, 85, 85)
        for _ in range(140):
            gate.release()
        assert await asyncio.gather(*calls[:200]) == [7] * 200
        for one in calls[200:]:
            one.cancel()
        await asyncio.wait(calls[200:])


async def left_in_line(door: Door, client: Client) -> list[str]:
    """Let calls hang and others stand in line behind them; give how those in line end while the first still hang."""
    hanging = [asyncio.ensure_future(client.call(Far.write, 1, timeout=60)) for _ in range(20)]
    await until(lambda: len(door.seen) == 20)
    in_line = [asyncio.ensure_future(client.call(Far.write, 1, timeout=4)) for _ in range(20)]
    ends = await asyncio.gather(*in_line, return_exceptions=True)
    assert not any(one.done() for one in hanging)
    for one in hanging:
        one.cancel()
    await asyncio.wait(hanging)
    return sorted({type(one).__name__ for one in ends})


async def test_who_stands_in_line_goes_when_the_breaker_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = {"far.write": {"limit": 20, "slow_s": 1.5}}
    async with a_door(hang) as door, a_client(door, policies=policies) as client:
        assert await left_in_line(door, client) == ["Unavailable"]
        guards.PROCESS.forget()
    monkeypatch.setattr(bulkhead.Bulkhead, "dismiss", lambda self: None)  # the twin keeps them there
    async with a_door(hang) as door, a_client(door, policies=policies) as client:
        assert await left_in_line(door, client) == ["DeadlineExceeded"]


# --- layers


class Top(Contract):
    top = Operation(int, int, effect="read", timeout=5)


class Middle(Contract):
    middle = Operation(int, int, effect="read", timeout=5)


@asynccontextmanager
async def three_layers(door: Door) -> AsyncIterator[tuple[Client, dict[str, list[int]]]]:
    """A client calls top, which calls middle, which calls a door; gives the attempts that each has seen."""
    met: dict[str, list[int]] = {"top": [], "middle": []}
    top, middle = Service(Top), Service(Middle)

    @top.implements(Top.top)
    async def _top(number: int, ctx: Context) -> int:
        met["top"].append(ctx.attempt)
        return await ctx.call(Middle.middle, number)

    @middle.implements(Middle.middle)
    async def _middle(number: int, ctx: Context) -> int:
        met["middle"].append(ctx.attempt)
        return await ctx.call(Far.read, number)

    async with _served(middle, far=door.url) as below, _served(top, middle=below) as above:
        client = Client._attached(None, None, Settings(addresses={"top": above}))
        try:
            yield client, met
        finally:
            await client.close()


@asynccontextmanager
async def _served(service: Service, **addresses: str) -> AsyncIterator[str]:
    from ringpost.http.ports import bind
    from ringpost.http.site import Site

    settings = Settings(http="127.0.0.1:0", http_given=True, addresses=addresses)
    bound = bind(settings)
    assert bound is not None
    site = Site([service], settings)
    await site.open(bound, work=True)
    try:
        yield bound.url
    finally:
        await site.close(1.0)
        bound.close()


@pytest.mark.usefixtures("at_once")
async def test_three_layers_try_again_at_one_of_them_only() -> None:
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door, three_layers(door) as (client, met):
        with pytest.raises(Unavailable) as raised:
            await client.call(Top.top, 1)
        assert [seen.attempt for seen in door.seen] == [1, 2, 3]
        assert met == {"top": [1], "middle": [1]}
        assert raised.value.processed == "maybe"


@pytest.mark.usefixtures("at_once")
async def test_what_is_called_within_a_second_attempt_isn_t_tried_again() -> None:
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door, three_layers(door) as (client, met):
        call = client._attachment
        assert call is not None
        ways = await client._open()
        prepared = ways.router.prepared(Top.top, 1)
        prepared.attempt = 2
        response = await ways.router.post(Top.top, prepared)
        assert response.status == 503
        assert [seen.attempt for seen in door.seen] == [2]
        assert met == {"top": [2], "middle": [2]}


@pytest.mark.usefixtures("at_once")
async def test_a_twin_whose_layers_don_t_know_of_each_other_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from ringpost.core import outcome

    monkeypatch.setattr(outcome, "_TRIED", {})
    async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door, three_layers(door) as (client, _):
        with pytest.raises(Unavailable):
            await client.call(Top.top, 1)
        assert len(door.seen) > 3


# --- twins


@pytest.mark.usefixtures("at_once")
async def test_a_twin_that_repeats_what_isn_t_safe_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "may_repeat", lambda failed, tries, *, safe: failed.number < tries.most)
    caught = 0
    for name, answer, times in REPEATED:
        async with a_door(answered(answer)) as door, a_client(door) as client:
            with suppress(Unavailable, OperationFailed, Overloaded, DeadlineExceeded):
                await client.call(getattr(Far, name), 1)
            caught += len(door.seen) != times
    assert caught == 3


@pytest.mark.usefixtures("at_once")
async def test_a_twin_that_doesn_t_heed_retry_after_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def heedless(failed: call_retry.Failed, deadline_s: float, random01: float) -> float:
        return failed.at_s

    monkeypatch.setattr(outbound, "next_at_s", heedless)
    async with a_door(answered(*SOON)) as door, a_client(door) as client:
        with pytest.raises(AssertionError):
            await assert_a_retry_waits(client, door)


def test_it_is_all_the_same_under_uvloop() -> None:
    async def scenario() -> None:
        async with a_door(answered(refuse("unavailable", 503, UNSEEN))) as door:
            assert await calls_in_an_outage(door) == 9 + 5
        guards.PROCESS.forget()
        async with a_door(answered(refuse("handler_error", 500))) as door:
            await assert_one_probe_at_a_time(door)

    uvloop.run(scenario())


async def test_how_messages_ended_says_nothing_of_the_door_that_tells_it() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door) as client:
        ticket = client.ticket(Far.write, "0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e")
        for _ in range(30):
            with pytest.raises(OperationFailed):
                await ticket.result(timeout=5)
        assert len(door.seen) == 30
        door.answering = answered(say(502))
        with pytest.raises(Unavailable):
            await ticket.result(timeout=5)
        assert len(door.seen) == 33, "to ask is harmless"


async def test_what_is_known_of_targets_can_be_looked_at() -> None:
    async with a_door(answered(refuse("handler_error", 500))) as door, a_client(door) as client:
        assert client.statistics() == ()
        await fail(client, 20)
        (one,) = client.statistics()
        assert (one.operation, one.target, one.state, one.forced) == ("far.write", door.url, "open", "")
        assert "handler_error" in one.error
