"""The life of messages and of processes, end to end: cancelling, progress, order, time, stopping, waking."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from scene import Scene, a_client, a_scene, asked
from town import Done, Job, Town

from ringpost import Client, OperationFailed, RingpostError, Ticket
from ringpost.core.message import Record, State

LEASE_S = 5.0


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_scene(tmp_path, LEASE_S) as scene:
        yield scene


@pytest.fixture
async def far_beats(tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene whose leases are so long that no renewal comes during a test: what is heard was told."""
    async with a_scene(tmp_path, 600.0) as scene:
        yield scene


# --- cancelling and watching


async def test_a_waiting_message_is_cancelled_at_once_and_a_running_one_is_ended(far_beats: Scene) -> None:
    scene, diary = far_beats, far_beats.diary
    _, url = await scene.serve("town")
    await scene.start("town")  # so that who cancels is rarely who runs it
    async with a_client(store=scene.url) as at_store, a_client(town=url) as at_door:
        for number, client in enumerate((at_store, at_door)):
            waiting = await at_store.send(Town.work, Job(10 + number), delay=3600)
            ticket = client.ticket(Town.work, waiting.id)
            assert await ticket.cancel() == "cancelled"
            assert await ticket.cancel() == "too_late"
            with pytest.raises(OperationFailed) as caught:
                await ticket.result(10)
            assert (caught.value.cause, caught.value.state) == ("cancelled", "cancelled")

            running = await client.send(Town.work, Job(number, "wait:never"))
            await diary.until(began=number)
            assert await running.cancel() == "requested"
            with pytest.raises(OperationFailed) as caught:
                await running.result(30)
            assert caught.value.state == "cancelled"
            assert (await diary.until(cancelled=number))["why"] == "user"
            assert (await running.status()).state == "cancelled"
    assert diary.all(noted=...) == []


async def test_cancelling_is_heard_while_others_come_and_go(far_beats: Scene) -> None:
    scene, diary = far_beats, far_beats.diary
    _, url = await scene.serve("town")
    over = asyncio.Event()

    async def busy(client: Client) -> None:
        while not over.is_set():
            await (await client.send(Town.noted, Done(0))).result(30)

    async with a_client(store=scene.url) as at_store, a_client(town=url) as at_door:
        traffic = asyncio.ensure_future(busy(at_store))
        tickets = [await at_door.send(Town.work, Job(number, "wait:never")) for number in range(1, 9)]
        for number, ticket in enumerate(tickets, 1):
            await diary.until(began=number)
            await asyncio.sleep(0.05 * number)  # soon after it began, or later
            assert await ticket.cancel() == "requested"
        for number in range(1, 9):
            assert (await diary.until(cancelled=number))["why"] == "user"
        over.set()
        await traffic


async def test_without_a_word_to_the_handler_it_would_run_on(far_beats: Scene) -> None:
    await far_beats.start("stubborn")
    async with a_client(store=far_beats.url) as client:
        ticket = await client.send(Town.work, Job(1, "wait:go"))
        await far_beats.diary.until(began=1)
        assert await ticket.cancel() == "requested"
        far_beats.tell("go")
        await ticket.result(30)
    assert far_beats.diary.all(cancelled=1) == []


async def test_the_handler_of_a_call_ends_when_its_caller_goes_away(scene: Scene) -> None:
    _, url = await scene.serve("town")
    asking = asyncio.ensure_future(asked(url, "POST", "/town/work", {"number": 1, "how": "wait:never"}))
    await scene.diary.until(began=1)
    asking.cancel()
    await asyncio.wait((asking,))
    assert (await scene.diary.until(cancelled=1))["why"] == "caller_gone"


async def test_a_request_that_was_accepted_over_http_can_be_ended_too(far_beats: Scene) -> None:
    _, url = await far_beats.serve("town")
    accepted = await asked(url, "POST", "/town/work", {"number": 1, "how": "wait:never"}, prefer="respond-async")
    place = accepted.headers["operation-location"].removeprefix(url)
    await far_beats.diary.until(began=1)
    assert (await asked(url, "DELETE", place)).status == 202
    result = await asked(url, "GET", f"{place}/result", prefer="wait=20")
    assert (result.status, result.json["code"]) == (409, "cancelled")
    assert (await far_beats.diary.until(cancelled=1))["why"] == "user"


async def test_a_thread_is_told_at_its_next_word_of_progress(far_beats: Scene) -> None:
    await far_beats.start("town")
    async with a_client(store=far_beats.url) as client:
        ticket = await client.send(Town.patient, Job(1))
        await far_beats.diary.until(patient=1)
        assert await ticket.cancel() == "requested"
        with pytest.raises(OperationFailed) as caught:
            await ticket.result(30)
        assert caught.value.state == "cancelled"


async def test_progress_is_told_to_the_end(scene: Scene) -> None:
    _, url = await scene.serve("town")
    async with a_client(store=scene.url) as at_store, a_client(town=url) as at_door:
        for number, client in enumerate((at_store, at_door)):
            ticket = await client.send(Town.work, Job(number, f"progress:go{number}"))
            seen = []
            async for status in ticket.updates():
                seen.append(status)
                if status.progress == 0.5:
                    assert status.note == "half"
                    scene.tell(f"go{number}")
            assert next(status.state for status in seen if status.state != "accepted") == "running"
            assert any(status.progress == 0.5 for status in seen)
            assert seen[-1].state == "succeeded"
            assert all(status.state in ("accepted", "running") for status in seen[:-1])


async def test_a_stream_of_events_ends_with_the_last_one(scene: Scene) -> None:
    _, url = await scene.serve("town")
    accepted = await asked(url, "POST", "/town/work", {"number": 1, "how": "progress:go"}, prefer="respond-async")
    place = accepted.headers["operation-location"].removeprefix(url)
    stream = asyncio.ensure_future(asked(url, "GET", place, accept="text/event-stream"))
    await scene.diary.until(began=1)
    scene.tell("go")
    reply = await stream
    assert reply.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in reply.body.decode().split("\n") if line.startswith("data: ")]
    assert json.loads(data[-1])["state"] == "succeeded"


# --- time and order


async def test_ticks_come_once_over_two_processes(scene: Scene) -> None:
    for _ in range(2):
        await scene.start("clock")
    await scene.diary.until(6, tick=...)
    ticks = [line["tick"] for line in scene.diary.all(tick=...)]
    assert len(ticks) == len(set(ticks))
    times = sorted(datetime.fromisoformat(tick).timestamp() for tick in ticks)
    assert all(abs(at / 0.5 - round(at / 0.5)) < 0.001 for at in times)


async def test_a_delay_is_kept_and_what_is_overdue_expires(scene: Scene) -> None:
    async with a_client(store=scene.url) as client:
        dead = await client.send(Town.work, Job(1), ttl=0.1)
        sent_s = time.time()
        later = await client.send(Town.work, Job(2), delay=0.6)
        await asyncio.sleep(0.2)
        await scene.start("town")
        with pytest.raises(OperationFailed) as caught:
            await dead.result(30)
        assert (caught.value.cause, caught.value.state) == ("expired", "expired")
        await later.result(30)
        record = await scene.until_ended(later.id)
        assert record.started_ms is not None
        assert record.started_ms / 1000 >= sent_s + 0.6
    assert scene.diary.all(began=1) == []


async def test_what_is_urgent_is_taken_first(scene: Scene) -> None:
    async with a_client(store=scene.url) as client:
        tickets = []
        for number, priority in enumerate(("low", "normal", "high", "low", "normal", "high")):
            tickets.append(await client.send(Town.one_by_one, Job(number), priority=priority))
        await scene.start("town")
        for ticket in tickets:
            await ticket.result(30)
    assert [line["one"] for line in scene.diary.all(one=...)] == [2, 5, 1, 4, 0, 3]


KEYS, EACH = 12, 12
FAILING = {(3, 0), (5, 4), (7, 8)}  # message and key: done at the third attempt


class Lines:
    """What the diary says about ordering keys."""

    def __init__(self, scene: Scene) -> None:
        self.inversions = self.overlaps = 0
        self.begun = 0
        running: dict[str, int] = {}
        last: dict[str, int] = {}
        for line in scene.diary.all(step=...):
            key, number = line["key"], line["number"]
            if line["step"] == "end":
                running[key] = running.get(key, 0) - 1
                continue
            self.begun += 1
            self.overlaps += running.get(key, 0) > 0
            running[key] = running.get(key, 0) + 1
            self.inversions += number < last.get(key, -1)
            last[key] = number


async def _send_lines(client: Client, operation: str, turn: int) -> None:
    tickets = []
    for number in range(EACH):
        jobs = [Job(number, "flaky" if (number, key) in FAILING else "", f"{turn} {key}", 0.003) for key in range(KEYS)]
        tickets += await client.send_all(getattr(Town, operation), jobs)
    for ticket in tickets:
        await ticket.result(30)


@pytest.mark.parametrize("operation", ["keyed", "keyless"])
async def test_messages_of_one_key_are_handled_one_after_the_other_in_their_order(scene: Scene, operation: str) -> None:
    for _ in range(2):
        await scene.start("town")
    turns = 0
    async with a_client(store=scene.url) as client:
        while len({line["pid"] for line in scene.diary.all(step=...)}) < 2:  # one alone may be fast enough for all
            await _send_lines(client, operation, turns)
            turns += 1
    found = Lines(scene)
    assert found.begun == turns * (KEYS * EACH + 2 * len(FAILING))
    if operation == "keyed":
        assert (found.inversions, found.overlaps) == (0, 0)
    else:  # the same work without keys: it is the keys that do it
        assert found.inversions + found.overlaps > 0


# --- stopping


async def _waiting_work(scene: Scene) -> list[Record]:
    return [record for record in await scene.rows(State.READY, State.RUNNING) if record.queue == "town.work"]


async def _stop_at_work(scene: Scene, role: str) -> tuple[int, float, Done | RingpostError, Ticket[Done]]:
    """Stop a process with a call and a message running; they end when it has begun to refuse new ones.

    Gives its exit code, how long it took, what became of the call, and the message's ticket.
    """
    running, url = await scene.serve(role, shutdown=8)
    async with a_client(store=scene.url) as client, a_client(town=url) as caller:
        call = asyncio.ensure_future(caller.call(Town.work, Job(1, "wait:go"), timeout=20))
        message = await client.send(Town.work, Job(2, "wait:go"))
        await scene.diary.until(began=1)
        await scene.diary.until(began=2)
        running.signal(signal.SIGTERM)
        began_s = time.monotonic()
        async with asyncio.timeout(20):
            while (ready := await asked(url, "GET", "/readyz")).status == 200:
                pass  # the signal may still be on its way
        assert ready.json["reasons"] == ["stopping"]
        assert (await asked(url, "GET", "/healthz")).status == 200
        assert (await caller.call(Town.work, Job(4))).number == 4  # who still comes is served
        async with asyncio.timeout(20):
            with suppress(ConnectionError, IndexError):
                while (await asked(url, "POST", "/town/work", {"number": 5})).status == 200:
                    pass
        scene.tell("go")
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        code = await running.ended()
        assert isinstance(outcome, Done | RingpostError)
        return code, time.monotonic() - began_s, outcome, message


async def test_a_process_that_is_told_to_stop_ends_what_runs_and_loses_nothing(scene: Scene) -> None:
    code, took_s, outcome, message = await _stop_at_work(scene, "town")
    assert (code, took_s < 28) == (0, True)
    assert outcome == Done(1, scene.first.pid)
    assert (await scene.until_ended(message.id)).state is State.SUCCEEDED
    assert await _waiting_work(scene) == []


async def test_one_that_leaves_at_once_fails_its_callers(scene: Scene) -> None:
    _, _, outcome, _ = await _stop_at_work(scene, "abrupt")
    assert isinstance(outcome, RingpostError)
    assert len(await _waiting_work(scene)) == 1


async def test_what_does_not_end_in_time_is_given_back_at_no_cost(scene: Scene) -> None:
    running = await scene.start("town", shutdown=4)
    async with a_client(store=scene.url) as client:
        ticket = await client.send(Town.work, Job(1, "wait:go"))
        await scene.diary.until(began=1)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert scene.diary.all(cancelled=1)[0]["why"] == "shutdown"
        (record,) = await _waiting_work(scene)
        assert (record.state, record.attempts, record.losses) == (State.READY, 0, 0)
        scene.tell("go")
        await scene.start("town")
        assert (await ticket.result(30)).number == 1
    assert scene.diary.all(began=1)[-1]["attempt"] == 1


async def test_a_second_signal_ends_it_now(scene: Scene) -> None:
    running = await scene.start("town")
    async with a_client(store=scene.url) as client:
        await client.send(Town.work, Job(1, "wait:never"))
        await scene.diary.until(began=1)
        running.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while running.process.returncode is None:
                running.signal(signal.SIGTERM)
                await asyncio.sleep(0.05)
        assert running.process.returncode == -signal.SIGTERM
    assert scene.diary.all(cancelled=1) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_processes_are_exchanged_one_by_one_and_no_call_fails(scene: Scene, how: signal.Signals) -> None:
    """Callers find the instances in the store: one that stops is passed over for the other. Killed, it fails them."""
    failed: list[str] = []
    answered = 0
    over = asyncio.Event()
    first, _ = await scene.serve("town", shutdown=10)

    async def ask(client: Client, number: int) -> None:
        nonlocal answered
        while not over.is_set():
            try:
                await client.call(Town.work, Job(number, "sleep", length_s=0.002))
                answered += 1
            except RingpostError as error:
                failed.append(f"{type(error).__name__}: {error}")

    async with a_client(store=scene.url) as client:
        asking = [asyncio.ensure_future(ask(client, number)) for number in range(8)]
        await scene.diary.until(effect=...)
        for _ in range(2):
            second, _ = await scene.serve("town", shutdown=10)
            first.signal(how)
            assert await first.ended() == (0 if how is signal.SIGTERM else -how)
            await scene.diary.until(effect=..., pid=second.pid)
            first = second
        over.set()
        await asyncio.gather(*asking)
    assert bool(failed) is (how is signal.SIGKILL), failed[:5]
    if how is signal.SIGTERM:
        assert answered == len(scene.diary.all(effect=...)) > 100


async def test_two_workers_of_one_command_stop_together(scene: Scene) -> None:
    parent, _ = await scene.serve("town", 2, shutdown=6)
    async with a_client(store=scene.url) as client:
        tickets = await client.send_all(Town.work, [Job(number) for number in range(100)])
        parent.signal(signal.SIGTERM)
        assert await parent.ended() == 0
        await scene.start("town")
        for ticket in tickets:
            await ticket.result(30)
    assert await _waiting_work(scene) == []
    effects = [line["effect"] for line in scene.diary.all(effect=...)]
    assert sorted(effects) == list(range(100))


# --- waking


async def test_a_receiver_in_another_process_is_woken_by_the_message(scene: Scene) -> None:
    """With polls that never come: what wakes it is the bell, or nothing."""
    await scene.start("unpolled")
    async with a_client(store=scene.url) as client:
        for number in range(20):
            await client.send(Town.work, Job(number))
            await scene.diary.until(effect=number)


async def test_without_bell_and_poll_nobody_would_wake(scene: Scene) -> None:
    await scene.start("deaf")
    async with a_client(store=scene.url) as client:
        await (await client.send(Town.work, Job(0))).result(30)  # it looked when it started
        for number in range(1, 20):
            await client.send(Town.work, Job(number))
            try:
                async with asyncio.timeout(1):
                    await scene.diary.until(effect=number)
            except TimeoutError:
                return
            async with asyncio.timeout(30):
                while await scene.rows(State.READY, State.RUNNING):
                    pass  # a turn that settles also looks for more
    pytest.fail("something else than the bell woke it, twenty times")
