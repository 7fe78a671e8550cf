"""One operation, reached in every way there is: each ending means the same in all of them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import town
from msgspec import Struct
from scene import Reply, Scene, a_client, a_scene, asked
from town import Done, Job, Suburb, Town, Twice

from ringpost import (
    Client,
    DeadlineExceeded,
    Operation,
    OperationFailed,
    StateError,
    Ticket,
    Unavailable,
    blocking,
    deadline,
    serve,
)
from ringpost.core import ids
from ringpost.core.message import State

Ways = dict[str, Callable[[Operation[Job, Done], Job], Awaitable[Done]]]


class Place(Struct):
    """A running town, and clients on it."""

    scene: Scene
    url: str
    at_store: Client
    at_door: Client


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setenv("RINGPOST_POLICIES", "breaker=false")  # most of what is asked here fails, and shall
    async with AsyncExitStack() as stack:
        scene = await stack.enter_async_context(a_scene(tmp_path, 5.0))
        _, url = await scene.serve("town")
        at_store = await stack.enter_async_context(a_client(store=scene.url))
        at_door = await stack.enter_async_context(a_client(town=url))
        yield Place(scene, url, at_store, at_door)


async def _ticket(ticket: Ticket[Done]) -> Done:
    return await ticket.result(30)


async def _reply(client: Client, operation: Operation[Job, Done], job: Job) -> Done:
    """Call or send, and make one of both."""
    got = await client.call_or_send(operation, job)
    return await got.result(30) if isinstance(got, Ticket) else got


def _by_hand(url: str, prefer: str) -> Callable[[Operation[Job, Done], Job], Awaitable[Done]]:
    """Ask as curl does, and read the answer by the rules of the documents only."""

    async def ask(operation: Operation[Job, Done], job: Job) -> Done:
        path = f"/{operation.contract_name}/{operation.name}"
        reply = await asked(url, "POST", path, {"number": job.number, "how": job.how}, prefer=prefer)
        while reply.status == 202:
            place = reply.headers["location"].removeprefix(url)
            reply = await asked(url, "GET", place, prefer="wait=5")
        if reply.status in (200, 204):
            return Done(**reply.json)
        assert reply.headers["content-type"] == "application/problem+json"
        said = reply.json
        if said["type"].endswith("twice"):
            raise Twice(said["number"])
        if reply.status in (503, 504):
            raise Unavailable(said["code"])
        raise OperationFailed(said["code"], message_id="", cause=said["code"])

    return ask


def _calls(here: Place) -> Ways:
    return {
        "over HTTP": here.at_door.call,
        "found in the store": here.at_store.call,
        "by hand": _by_hand(here.url, "wait=20"),
        "blocking": _blocking(lambda client, operation, job: client.call(operation, job), addresses={"town": here.url}),
    }


def _messages(here: Place) -> Ways:
    async def by_store(operation: Operation[Job, Done], job: Job) -> Done:
        return await _ticket(await here.at_store.send(operation, job))

    async def by_door(operation: Operation[Job, Done], job: Job) -> Done:
        return await _ticket(await here.at_door.send(operation, job))

    async def by_id(operation: Operation[Job, Done], job: Job) -> Done:
        return await _ticket(here.at_door.ticket(operation, (await here.at_store.send(operation, job)).id))

    return {
        "sent to the store": by_store,
        "sent over HTTP": by_door,
        "by id": by_id,
        "respond-async": _by_hand(here.url, "respond-async"),
        "respond-async and wait": _by_hand(here.url, "respond-async, wait=20"),
        "call_or_send": lambda operation, job: _reply(here.at_door, operation, job),
        "call_or_send by the store": lambda operation, job: _reply(here.at_store, operation, job),
        "blocking send": _blocking(
            lambda client, operation, job: client.send(operation, job).result(30), store=here.scene.url
        ),
    }


def _blocking(
    use: Callable[[Any, Operation[Job, Done], Job], Done], **given: Any
) -> Callable[[Operation[Job, Done], Job], Awaitable[Done]]:
    def in_thread(operation: Operation[Job, Done], job: Job) -> Done:
        with blocking.Client(**given) as client:
            return use(client, operation, job)

    return lambda operation, job: asyncio.to_thread(in_thread, operation, job)


async def _ended(asking: Awaitable[Done]) -> tuple[str, str]:
    """Say how it ended: the class of what was raised, and its cause."""
    try:
        done = await asking
    except OperationFailed as error:
        return "OperationFailed", error.cause
    except Exception as error:  # noqa: BLE001 (what it is is what is compared)
        return type(error).__name__, ""
    return "Done", str(done.number)


async def _calm(client: Client, operation: Operation[Job, Done]) -> None:
    """Let some messages go well, so that many failures in a row aren't taken for an outage."""
    for ticket in await client.send_all(operation, [Job(0)] * 20):
        await ticket.result(30)


class Row(Struct):
    """One line of the table of outcomes."""

    how: str
    call: tuple[str, str]
    message: tuple[str, str]
    state: State
    commits: bool


TABLE = [
    Row("", ("Done", "{}"), ("Done", "{}"), State.SUCCEEDED, True),
    Row("return problem", ("Twice", ""), ("Twice", ""), State.FAILED, True),
    Row("raise problem", ("Twice", ""), ("Twice", ""), State.FAILED, False),
    Row(
        "raise stray",
        ("OperationFailed", "handler_error"),
        ("OperationFailed", "handler_error"),
        State.DEAD,
        False,
    ),
    Row(
        "raise error",
        ("OperationFailed", "handler_error"),
        ("OperationFailed", "handler_error"),
        State.DEAD,
        False,
    ),
    Row("raise unavailable", ("Unavailable", ""), ("OperationFailed", "handler_error"), State.DEAD, False),
    Row("reject", ("OperationFailed", "rejected"), ("OperationFailed", "rejected"), State.DEAD, False),
    Row("later", ("Unavailable", ""), ("Done", "{}"), State.SUCCEEDED, True),
    Row("flaky", ("OperationFailed", "handler_error"), ("Done", "{}"), State.SUCCEEDED, True),
    Row(
        "always flaky",
        ("OperationFailed", "handler_error"),
        ("OperationFailed", "handler_error"),
        State.DEAD,
        False,
    ),
]


async def test_every_ending_means_the_same_on_every_way(here: Place) -> None:
    """The table of outcomes, row by row: what is raised, where the row ends, whether what was staged leaves."""
    diary = here.scene.diary
    number = 0
    commits: dict[int, bool] = {}
    wrong: list[str] = []

    async def one(name: str, way: Any, operation: Operation[Job, Done], row: Row, number: int, wanted: Any) -> None:
        got = await _ended(way(operation, Job(number, row.how)))
        right = (wanted[0], wanted[1].format(number))
        if got != right:
            wrong.append(f"{operation.name} {row.how!r} {name}: {got}, not {right}")

    for row in TABLE:
        for operation in (Town.work, Town.work_def):
            await _calm(here.at_store, operation)
            asking: list[Awaitable[None]] = []
            for ways, wanted in ((_calls(here), row.call), (_messages(here), row.message)):
                for name, way in ways.items():
                    number += 1
                    commits[number] = row.commits and wanted[0] in ("Done", "Twice")
                    asking.append(one(name, way, operation, row, number, wanted))
            await asyncio.gather(*asking)
    assert wrong == []
    leaving = sorted(number for number, leaves in commits.items() if leaves)
    await diary.until_so(lambda: {line["noted"] for line in diary.all(noted=...)} >= set(leaving), "staged messages")
    # What was staged leaves once, and of what rolled back nothing: a last message of the same queue comes after all.
    last = await here.at_store.send(Town.noted, Done(number + 1), priority="low")
    await last.result(30)
    assert sorted(line["noted"] for line in diary.all(noted=...) if line["noted"]) == [*leaving, number + 1]


async def test_an_outcome_says_what_the_ticket_says_and_on_failure_hears_of_the_dead(here: Place) -> None:
    diary = here.scene.diary
    for number, row in enumerate(TABLE):
        ticket = await here.at_store.send(Town.work, Job(number, row.how), reply_to=Town.ended)
        ended = await _ended(ticket.result(30))
        assert (await here.scene.until_ended(ticket.id)).state is row.state, row
        outcome = await diary.until(outcome=number)
        assert outcome["id"] == ticket.id
        assert (outcome["error"], outcome["cause"] or "") == (None, "") if ended[0] == "Done" else ended, row
        if row.state is State.DEAD:
            letter = await diary.until(id=ticket.id, letter=...)
            assert (letter["letter"], letter["cause"]) == ("town.work", ended[1])
            assert letter["attempts"] == (3 if row.how == "always flaky" else 1)
    assert len(diary.all(letter=...)) == sum(row.state is State.DEAD for row in TABLE)
    assert len(diary.all(outcome=...)) == len(TABLE)


async def test_in_one_process_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(town, "say", lambda **words: None)
    async with serve(town.town, store=f"sqlite:///{tmp_path / 'store.db'}", http=None) as client:

        async def send(operation: Operation[Job, Done], job: Job) -> Done:
            return await _ticket(await client.send(operation, job))

        for operation in (Town.work, Town.work_def):
            for number, row in enumerate(TABLE):
                await _calm(client, operation)
                job = Job(number, row.how)
                assert await _ended(client.call(operation, job)) == (row.call[0], row.call[1].format(number)), row
                wanted = (row.message[0], row.message[1].format(number))
                assert await _ended(send(operation, job)) == wanted, row
                assert await _ended(_reply(client, operation, job)) == wanted, row


async def test_a_publish_reaches_two_services_in_two_processes(here: Place) -> None:
    await here.scene.serve("suburb")
    for client in (here.at_store, here.at_door):
        receipt = await client.publish(Town.happened, Done(1))
        assert receipt.receivers == 2
    async with a_client(town=here.url) as client:
        first = await client.publish(Town.happened, Done(2), idempotency_key="once")
        again = await client.publish(Town.happened, Done(2), idempotency_key="once")
        assert (first.duplicate, again.duplicate) == (False, True)
    diary = here.scene.diary
    for where in ("town", "suburb"):
        await diary.until(2, heard=where, number=1)
        await diary.until(1, heard=where, number=2)
    await diary.until(2, number=2, heard=...)
    assert len(diary.all(heard=..., number=2)) == 2


async def _call(url: str, job: dict[str, Any], key: str, **headers: str) -> Reply:
    return await asked(url, "POST", "/town/work", job, idempotency_key=f'"{key}"', **headers)


@pytest.mark.parametrize("prefer", ["wait=20", "respond-async, wait=20"])
async def test_a_key_makes_a_request_one_request(here: Place, prefer: str) -> None:
    """Called and sent: the same bytes for a repeat, 409 while it runs, 422 for another body."""
    diary, url = here.scene.diary, here.url
    job = {"number": 1, "how": "wait:go"}
    first = asyncio.ensure_future(_call(url, job, "k", prefer=prefer))
    await diary.until(began=1)
    meanwhile = await _call(url, job, "k", prefer=prefer.replace("20", "1") if "async" in prefer else prefer)
    if "async" in prefer:  # a ticket of the one that runs
        assert (meanwhile.status, meanwhile.json["duplicate"]) == (202, True)
    else:
        assert meanwhile.status == 409
        assert int(meanwhile.headers["retry-after"]) >= 1
        assert meanwhile.headers["content-type"] == "application/problem+json"
    other = await _call(url, {"number": 2}, "k", prefer=prefer)
    assert other.status == 422
    here.scene.tell("go")
    answered = await first
    assert answered.status == 200
    again = await _call(url, job, "k", prefer=prefer)
    assert (again.status, again.body) == (answered.status, answered.body)
    # The same request, written otherwise.
    spaced = await _call(url, {"how": "wait:go", "number": 1}, "k", prefer=prefer)
    assert spaced.body == answered.body
    assert len(diary.all(began=1)) == 1


async def test_a_problem_is_kept_under_its_key_and_a_failure_is_not(here: Place) -> None:
    refused = await _call(here.url, {"number": 1, "how": "raise problem"}, "p")
    again = await _call(here.url, {"number": 1, "how": "raise problem"}, "p")
    assert (refused.status, refused.body) == (409, again.body)
    assert len(here.scene.diary.all(began=1)) == 1
    for _ in range(2):
        assert (await _call(here.url, {"number": 2, "how": "raise error"}, "f")).status == 500
    assert len(here.scene.diary.all(began=2)) == 2


async def test_a_key_counts_for_called_and_sent_alike(here: Place) -> None:
    first = await here.at_store.send(Town.work, Job(1), idempotency_key="k")
    assert (await first.result(30)).number == 1
    again = await here.at_door.send(Town.work, Job(1), idempotency_key="k")
    assert (again.duplicate, again.id) == (True, first.id)
    assert (await here.at_door.call(Town.work, Job(1), idempotency_key="k")).number == 1
    assert len(here.scene.diary.all(began=1)) == 1


async def test_calls_nest_over_processes_and_deadlines_shrink(here: Place) -> None:
    _, suburb = await here.scene.serve("suburb")
    diary = here.scene.diary
    async with a_client(town=here.url, suburb=suburb) as client:
        assert (await client.call(Town.ask, Job(1), timeout=8)).number == 2
        outer, inner = (await diary.until(asked=1)), (await diary.until(deeper=1))
        assert 0 < inner["remaining_s"] < outer["remaining_s"] < 8
        with pytest.raises(DeadlineExceeded):
            await client.call(Town.ask, Job(2, "wait:never"), timeout=0.5)
        with pytest.raises(TimeoutError), deadline(0.5):
            await client.call(Town.ask, Job(3, "wait:never"))
        # What meets itself again is refused, to who asked first as well; any other failure further down isn't ours.
        assert await _ended(client.call(Town.ask, Job(4, "back"))) == ("OperationFailed", "loop_detected")
        assert await _ended(client.call(Town.ask, Job(5, "raise error"))) == ("OperationFailed", "handler_error")
    assert len(diary.all(asked=4)) == 1


async def test_a_call_to_a_service_that_is_not_there_says_so_and_call_or_send_waits_for_it(here: Place) -> None:
    with pytest.raises(Unavailable) as caught:
        await here.at_store.call(Suburb.deeper, Job(1))
    assert caught.value.processed == "no"
    assert await _ended(here.at_door.call(Town.ask, Job(1))) == ("Unavailable", "")
    ticket = await here.at_store.call_or_send(Suburb.deeper, Job(2))
    assert isinstance(ticket, Ticket)
    await here.scene.start("suburb")
    assert (await ticket.result(30)).number == 2


async def test_a_ticket_of_an_unknown_id_is_not_found(here: Place) -> None:
    id = ids.text(ids.uuid7(time.time_ns() // 1_000_000, 1))
    for path in (f"/tickets/{id}", f"/tickets/{id}/result", "/tickets/nothing"):
        assert (await asked(here.url, "GET", path)).status == 404
    assert (await asked(here.url, "DELETE", f"/tickets/{id}")).status == 404
    for client in (here.at_store, here.at_door):
        with pytest.raises(StateError):
            await client.ticket(Town.work, id).status()
        with pytest.raises(StateError):
            await client.ticket(Town.work, id).cancel()


async def test_many_threads_share_one_blocking_client(here: Place) -> None:
    with ThreadPoolExecutor(8) as threads:
        client = await asyncio.wrap_future(threads.submit(blocking.Client, addresses={"town": here.url}))
        calls = [threads.submit(client.call, Town.work_def, Job(number)) for number in range(40)]
        replies = [await asyncio.wrap_future(call) for call in calls]
        assert [reply.number for reply in replies] == list(range(40))
        both = threads.submit(client.call_all, Town.work, [Job(number) for number in range(40)])
        assert [reply.number for reply in await asyncio.wrap_future(both)] == list(range(40))
        await asyncio.wrap_future(threads.submit(client.close))
    assert {reply.by for reply in replies} == {here.scene.first.pid} != {os.getpid()}
