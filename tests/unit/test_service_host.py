"""A host: what it starts and stops, what it notes in the store, and requests that become messages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest

from ringpost.client.client import Client
from ringpost.contract.contract import Contract
from ringpost.contract.errors import StoreError, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import DeadLetter
from ringpost.core import notes
from ringpost.core.call import Accepted, Call, Identity
from ringpost.core.message import Answer, Kind, State
from ringpost.core.retry import Retry
from ringpost.service.context import Context
from ringpost.service.host import Host
from ringpost.service.schedule import Tick
from ringpost.service.service import Service
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter


class Job(msgspec.Struct):
    number: int


class Works(Contract, name="works_host"):
    do = Operation(Job, int)
    ordered = Operation(Job, ordering_key=lambda job: "one")
    done = Event(Job)


class Away(Contract, name="away_host"):
    do = Operation(Job)


Behave = Callable[[Job, Context], Awaitable[int]]


@contextlib.asynccontextmanager
async def started(
    *services: Service, work: bool = True, store: MemoryStore | None = None, **given: Any
) -> AsyncIterator[Host]:
    store = store or MemoryStore(Settings())
    await store.open(create=True)
    host = Host(services, store, Settings(), **given)
    await host.start(work)
    try:
        yield host
    finally:
        await host.stop(1.0)
        await store.close()


def works(behave: Behave, **given: Any) -> Service:
    service = Service(Works, **given)

    @service.implements(Works.do, retry=Retry(attempts=1))
    async def do(job: Job, ctx: Context) -> int:
        return await behave(job, ctx)

    @service.implements(Works.ordered)
    async def ordered(job: Job, ctx: Context) -> None:
        await behave(job, ctx)

    return service


async def double(job: Job, ctx: Context) -> int:
    return job.number * 2


def request(number: object = 4, operation: str = "works_host.do", **given: Any) -> Call:
    return Call(operation, msgspec.json.encode({"number": number}), asyncio.get_running_loop().time() + 5, **given)


async def test_a_client_of_the_process_calls_and_sends() -> None:
    async with (
        started(works(double)) as host,
        Client._attached(host.store, host, Settings()) as client,
    ):
        assert await client.call(Works.do, Job(3)) == 6
        ticket = await client.send(Works.do, Job(4))
        assert await ticket.result(5) == 8
        assert await client.call_or_send(Works.do, Job(5)) == 10


async def test_a_staged_message_reaches_its_handler() -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def behave(job: Job, ctx: Context) -> int:
        await ctx.publish(Works.done, job)
        return 0

    listener = Service(name="listener_host")

    @listener.on(Works.done)
    async def done(job: Job) -> None:
        await heard.put(job.number)

    async with started(works(behave), listener) as host:
        await host.call(request(7))
        assert await asyncio.wait_for(heard.get(), 5) == 7


async def test_on_failure_hears_of_a_dead_message() -> None:
    heard: asyncio.Queue[DeadLetter] = asyncio.Queue()

    async def behave(job: Job, ctx: Context) -> int:
        raise ValueError("poison")

    service = works(behave)

    @service.on_failure
    async def failed(letter: DeadLetter) -> None:
        await heard.put(letter)

    async with (
        started(service) as host,
        Client._attached(host.store, host, Settings()) as client,
    ):
        ticket = await client.send(Works.do, Job(1))
        letter = await asyncio.wait_for(heard.get(), 5)
    assert (letter.operation, letter.message_id, letter.cause) == ("works_host.do", ticket.id, "handler_error")


# --- requests that become messages


async def test_an_accepted_request_is_born_running_here() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def behave(job: Job, ctx: Context) -> int:
        begun.set()
        await go_on.wait()
        return job.number

    async with started(works(behave), work=False) as host:
        accepted = await host.accept(request())
        assert isinstance(accepted, Accepted)
        assert (accepted.duplicate, accepted.receivers, accepted.level) == (False, 1, "buffered")
        await begun.wait()
        assert host.store is not None
        (record,) = await host.store.read([accepted.id])
        assert record is not None
        assert (record.state, record.kind, record.keep_s) == (State.RUNNING, Kind.MESSAGE, 24 * 3600)
        go_on.set()
        (record,) = await ended(host, accepted)
        assert (record.state, record.answer.body) == (State.SUCCEEDED, b"4")


async def ended(host: Host, *accepted: Accepted) -> list[Any]:
    store = host.store
    assert store is not None
    for one in accepted:
        await asyncio.wait_for(store.wait(frozenset(), frozenset([one.id]), 5), 5)
    return list(await store.read([one.id for one in accepted]))


async def test_a_caller_that_goes_away_does_not_stop_what_was_accepted() -> None:
    handled = asyncio.Event()

    async def behave(job: Job, ctx: Context) -> int:
        handled.set()
        return 0

    async with started(works(behave), work=False) as host:
        accepting = asyncio.create_task(host.accept(request()))
        await asyncio.sleep(0)
        accepting.cancel()
        await asyncio.wait([accepting])
        await asyncio.wait_for(handled.wait(), 5)


async def test_a_key_is_accepted_once() -> None:
    async with started(works(double)) as host:
        first = await host.accept(request(idempotency_key="k"))
        again = await host.accept(request(idempotency_key="k"))
        assert isinstance(first, Accepted)
        assert isinstance(again, Accepted)
        assert (first.id, again.duplicate) == (again.id, True)
        other = await host.accept(request(5, idempotency_key="k"))
        assert isinstance(other, Answer)
        assert other.status == 422


async def test_who_asked_travels_with_the_message_and_secrets_do_not() -> None:
    seen: list[object] = []

    async def behave(job: Job, ctx: Context) -> int:
        seen.extend([ctx.identity, dict(ctx.headers)])
        return 0

    async def authenticate(headers: Mapping[str, str]) -> Identity | None:
        return Identity("ada", {"admin": True})

    async with started(works(behave, authenticate=authenticate)) as host:
        headers = {"authorization": "secret", "cookie": "c", "x-tenant": "t", "content-type": "application/json"}
        accepted = await host.accept(request(headers=headers))
        assert isinstance(accepted, Accepted)
        await ended(host, accepted)
    assert seen == [Identity("ada", {"admin": True}), {"x-tenant": "t"}]


async def test_a_request_that_does_not_fit_is_not_accepted() -> None:
    async with started(works(double)) as host:
        answer = await host.accept(request("x"))
        assert isinstance(answer, Answer)
        assert answer.status == 400
        assert host.store is not None
        assert await host.store.find(Filter()) == []


async def test_with_an_ordering_key_it_waits_its_turn() -> None:
    async with started(works(double), work=False) as host:
        accepted = await host.accept(request(operation="works_host.ordered"))
        assert isinstance(accepted, Accepted)
        assert host.store is not None
        (record,) = await host.store.read([accepted.id])
        assert record is not None
        assert record.state is State.READY


async def test_without_a_free_slot_it_waits_as_a_message() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    service = Service(Away)

    @service.implements(Away.do, concurrency=1)
    async def do(job: Job) -> None:
        begun.set()
        await go_on.wait()

    async with started(service) as host:
        first = await host.accept(request(operation="away_host.do"))
        await begun.wait()
        second = await host.accept(request(operation="away_host.do"))
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert host.store is not None
        (record,) = await host.store.read([second.id])
        assert record is not None
        assert record.state is State.READY
        go_on.set()
        states = [one.state for one in await ended(host, first, second)]
        assert states == [State.SUCCEEDED, State.SUCCEEDED]


async def test_what_is_served_elsewhere_is_put_for_it() -> None:
    async with started(works(double)) as host:
        accepted = await host.accept(request(operation="away_host.do"))
        assert isinstance(accepted, Accepted)
        assert host.store is not None
        (record,) = await host.store.read([accepted.id])
        assert record is not None
        assert (record.state, record.queue) == (State.READY, "away_host.do")
        assert isinstance(await host.accept(request("x", operation="away_host.do")), Answer)
        unknown = await host.accept(request(operation="nobody.knows"))
        assert isinstance(unknown, Answer)
        assert unknown.status == 404


async def test_a_store_that_fails_is_answered_and_costs_no_slot(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryStore):
        async def put(self, messages: Any) -> Any:
            raise StoreError("the disk is gone")

    async with started(works(double), store=Failing(Settings())) as host:
        for _ in range(200):
            answer = await host.accept(request())
            assert isinstance(answer, Answer)
            assert answer.status == 503
        assert (await host.call(request())).status == 200


async def test_calls_are_served_while_the_store_hangs() -> None:
    class Hanging(MemoryStore):
        well = asyncio.Event()

        async def claim(self, *given: Any, **more: Any) -> Any:
            await self.well.wait()
            return await super().claim(*given, **more)

    store = Hanging(Settings())
    async with started(works(double), store=store) as host:
        answers = await asyncio.gather(*(host.call(request()) for _ in range(50)))
        assert [answer.status for answer in answers] == [200] * 50
        store.well.set()


# --- life


async def test_it_notes_what_it_is() -> None:
    service = works(double)

    @service.on(Works.done)
    async def done(job: Job) -> None: ...

    @service.on_failure
    async def failed(letter: DeadLetter) -> None: ...

    async with started(service) as host:
        store = host.store
        assert store is not None
        known = {note.name: note.value for note in await store.notes()}
        queue = notes.decode_queue(known["queue/works_host.do"])
        assert (queue.service, queue.on_failure, queue.halt) == ("works_host", "works_host.on_failure", False)
        assert notes.decode_queue(known["queue/works_host.on_failure"]).on_failure == ""
        subscription = known["subscription/works_host.done/works_host.on.works_host.done"]
        assert notes.decode_subscription(subscription).service == "works_host"
        described = notes.decode_described(known["operation/works_host.ordered"])
        assert (described.kind, described.ordered, described.reply) == ("operation", True, None)
        assert notes.decode_described(known["operation/works_host.done"]).kind == "event"
        await host.announce("http://127.0.0.1:1")
        (note,) = await store.notes(notes.INSTANCE)
        instance = notes.decode_instance(note.value)
        assert note.name == f"instance/{host.instance}"
        assert (instance.url, set(instance.operations)) == (
            "http://127.0.0.1:1",
            {"works_host.do", "works_host.ordered"},
        )
        assert note.lease_s is not None
        host.drain()
        async with asyncio.timeout(30):
            while not notes.decode_instance((await store.notes(notes.INSTANCE))[0].value).stopping:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await host.stop(0)
        assert await store.notes(notes.INSTANCE) == []
        assert await store.notes(notes.SUBSCRIPTION) != []


async def test_a_restart_keeps_what_was_noted_of_a_subscription() -> None:
    service = works(double)

    @service.on(Works.done)
    async def done(job: Job) -> None: ...

    store = MemoryStore(Settings())
    await store.open(create=True)
    created: list[int] = []
    for _ in range(2):
        host = Host([service], store, Settings())
        await host.start(True)
        (note,) = await store.notes(notes.SUBSCRIPTION)
        created.append(notes.decode_subscription(note.value).created_ms)
        await host.stop(0)
    assert created[0] == created[1] > 0


async def test_resources_live_as_long_as_the_host_and_tests_override_them() -> None:
    happened: list[str] = []

    class Mailer:
        def __init__(self, name: str) -> None:
            self.name = name

    def mailer() -> Iterator[Mailer]:
        happened.append("open")
        yield Mailer("smtp")
        happened.append("closed")

    def fake() -> Mailer:
        return Mailer("fake")

    def made() -> Service:
        service = Service(Away, resources=[mailer])

        @service.implements(Away.do)
        async def do(job: Job, mail: Mailer) -> None:
            happened.append(mail.name)

        return service

    async with started(made()) as host:
        await host.call(request(operation="away_host.do"))
    assert happened == ["open", "smtp", "closed"]
    happened.clear()
    async with started(made(), overrides=[fake]) as host:
        await host.call(request(operation="away_host.do"))
    assert happened == ["fake"]


async def test_a_resource_that_fails_keeps_the_host_from_starting() -> None:
    def broken() -> complex:
        raise ConnectionError("no database")

    host = Host([works(double, resources=[broken])], None, Settings())
    with pytest.raises(ConnectionError):
        await host.start(False)
    assert not host.health().ready


async def test_health_says_whether_new_requests_shall_come() -> None:
    async with started(works(double)) as host:
        assert (host.health().ready, host.health().reasons) == (True, ())
        host.drain()
        assert (host.health().ready, host.health().reasons) == (False, ("stopping",))
        assert (await host.call(request())).status == 200


async def test_it_knows_its_operations_and_events() -> None:
    async with started(works(double)) as host:
        assert host.serves("works_host.do")
        assert not host.serves("works_host.done")
        assert not host.serves("away_host.do")
        assert list(host.operations) == ["works_host.do", "works_host.ordered"]
        assert list(host.events) == ["works_host.done"]


async def test_listeners_and_schedules_need_a_store() -> None:
    service = Service(name="clock_host")

    @service.schedule(every=60)
    async def minute(tick: Tick) -> None: ...

    host = Host([service], None, Settings())
    with pytest.raises(UsageError, match="needs a store"):
        await host.start(True)


async def test_stopping_releases_what_does_not_end() -> None:
    begun = asyncio.Event()

    async def behave(job: Job, ctx: Context) -> int:
        begun.set()
        await asyncio.Event().wait()
        return 0

    store = MemoryStore(Settings())
    await store.open(create=True)
    host = Host([works(behave)], store, Settings())
    await host.start(True)
    accepted = await host.accept(request())
    assert isinstance(accepted, Accepted)
    await begun.wait()
    await host.stop(0)
    (record,) = await store.read([accepted.id])
    assert record is not None
    assert (record.state, record.attempts) == (State.READY, 0)
