"""Rehearsals: handlers run as for a worker, and nothing of it takes effect, whatever they do."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from ringpost import blocking
from ringpost.client.posting import new_id
from ringpost.contract.contract import Contract
from ringpost.contract.errors import Reject, RetryLater, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.problem import Problem
from ringpost.core import ids
from ringpost.core.message import Cause, Envelope, Failure, Message, Record, Settlement, State
from ringpost.core.retry import Retry
from ringpost.service.context import Context
from ringpost.service.dry_run import DryRun
from ringpost.service.host import Host
from ringpost.service.rehearsal import Rehearsal, Rehearsed
from ringpost.service.service import HandlerOptions, Service
from ringpost.service.undone_store import UndoneStore
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Filter

QUEUE = "stage.do"


class Part(msgspec.Struct):
    number: int


class Refused(Problem, status=409):
    why: str


class Stage(Contract):
    do = Operation(Part, int, raises=[Refused])
    keyed = Operation(Part, idempotency_key=lambda part: f"part-{part.number}")
    note = Operation(Part)
    change = Operation(Part, int)
    look = Operation(Part, int, effect="read")
    looked = Operation(Part)
    told = Operation(Outcome[Part, int])
    done = Event(Part)


QUIET: Sequence[Operation[Any, None]] = (Stage.keyed, Stage.note, Stage.looked, Stage.told)
Behave = Callable[[Part, Context], Awaitable[Any]]


class Stages:
    """A store with a dead letter, and a service that rehearses it."""

    def __init__(self, rehearsal: Rehearsal, store: MemoryStore) -> None:
        self.rehearsal = rehearsal
        self.store = store
        self.changed: list[Part] = []

    async def of(self, **given: Any) -> Rehearsed:
        """Rehearse a dead letter, and see that nothing has changed by it."""
        record = await dead(self.store, **given)
        before = await everything(self.store)
        found = await self.rehearsal.of(record)
        await asyncio.sleep(0)
        assert await everything(self.store) == before
        return found


async def everything(store: MemoryStore) -> Any:
    """Give all that a store holds."""
    rows = await store.find(Filter(kind=None, limit=1000))
    audits = [await store.audit(row.id) for row in rows]
    return rows, audits, await store.notes(), await store.depths()


async def dead(store: MemoryStore, body: bytes = b'{"number":7}', envelope: Envelope | None = None) -> Record:
    headers = b"{}" if envelope is None else msgspec.json.encode(envelope)
    id = new_id()
    await store.put([Message(id, QUEUE, body, headers)])
    (delivery,) = (await store.claim({QUEUE: 1}, 1, 30.0)).deliveries
    failure = Failure("ValueError", "no", "", 1, 1, "h")
    await store.settle([Settlement(delivery, State.DEAD, cause=Cause.HANDLER_ERROR, failure=failure)])
    (record,) = await store.read([id], bodies=True)
    assert record is not None
    return record


@contextlib.asynccontextmanager
async def stages(behave: Behave, **options: Any) -> AsyncIterator[Stages]:
    service = Service(Stage)
    chosen: HandlerOptions = {"dry_run": True, **options}  # type: ignore[typeddict-item]

    @service.implements(Stage.do, **chosen)
    async def do(part: Part, ctx: Context) -> Any:
        return await behave(part, ctx)

    @service.implements(Stage.change)
    async def change(part: Part) -> int:
        stage.changed.append(part)
        return 1

    @service.implements(Stage.look)
    async def look(part: Part, ctx: Context) -> int:
        assert ctx.dry_run
        await ctx.send(Stage.looked, part)
        return part.number + 1

    for operation in QUIET:

        @service.implements(operation)
        async def nothing(part: object) -> None: ...

    store = MemoryStore(Settings())
    await store.open(create=True)
    async with asyncio.timeout(60), Rehearsal([service], store, Settings()) as rehearsal:
        stage = Stages(rehearsal, store)
        yield stage
    await store.close()


async def foretold(behave: Behave, **options: Any) -> Rehearsed:
    async with stages(behave, **options) as stage:
        return await stage.of()


def sent(found: Rehearsed) -> list[str]:
    return [message.event or message.queue for message in found.sends]


# --- how it would end


async def test_a_handler_runs_in_a_dry_run_as_at_its_first_attempt() -> None:
    seen: list[Any] = []

    async def behave(part: Part, ctx: Context) -> int:
        seen.append((part, ctx.dry_run, ctx.attempt, ctx.fence, ctx.message_id, ctx.identity, ctx.cancelled))
        return part.number

    async with stages(behave) as stage:
        found = await stage.of()
        (record,) = await stage.store.find(Filter())
        assert await stage.store.notes() == []
    assert (found.foretold, found.answer and found.answer.body, found.sends) == ("succeeds", b"7", ())
    assert seen == [(Part(7), True, 1, record.fence, ids.text(record.id), None, None)]


async def test_each_end_is_told_and_logged_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    def raising(error: Exception) -> Behave:
        async def behave(part: Part, ctx: Context) -> int:
            await ctx.send(Stage.note, part)
            raise error

        return behave

    async def returning(part: Part, ctx: Context) -> Refused:
        await ctx.send(Stage.note, part)
        return Refused(why="full")

    caplog.set_level(logging.DEBUG, "ringpost")
    returned = await foretold(returning)
    assert (returned.foretold, sent(returned)) == ("problem", ["stage.note"])
    raised = await foretold(raising(Refused(why="full")))
    assert (raised.foretold, sent(raised)) == ("problem", [])
    assert raised.answer is not None
    assert b'"full"' in raised.answer.body
    later = await foretold(raising(RetryLater(60)))
    assert (later.foretold, later.delay_s, sent(later)) == ("later", 60.0, [])
    rejected = await foretold(raising(Reject("no such address")))
    assert (rejected.foretold, sent(rejected)) == ("dies", [])
    assert rejected.failure is not None
    assert rejected.failure.message == "no such address"
    failed = await foretold(raising(ValueError("no such item")))
    assert (failed.foretold, sent(failed)) == ("fails", [])
    assert failed.failure is not None
    assert (failed.failure.type, failed.failure.attempt) == ("ValueError", 1)
    assert (await foretold(raising(ValueError()), retry=Retry(attempts=1))).foretold == "dies"
    assert caplog.text == ""


async def test_what_cant_be_read_dies_again() -> None:
    async def behave(part: Part, ctx: Context) -> int:
        raise AssertionError("never run")

    async with stages(behave) as stage:
        found = await stage.of(body=b'{"number":"x"}')
        far = await stage.of(envelope=Envelope(hops=100))
    assert (found.foretold, far.foretold) == ("dies", "dies")
    assert found.failure is not None
    assert "number" in found.failure.message


async def test_a_handler_is_bounded_by_max_run() -> None:
    async def behave(part: Part, ctx: Context) -> int:
        await asyncio.Event().wait()
        return 1

    found = await foretold(behave, max_run=0.05)
    assert found.foretold == "fails"
    assert found.failure is not None
    assert "max_run" in found.failure.message


async def test_a_def_handler_goes_the_same_way() -> None:
    service = Service(Stage, name="stage")
    others: Sequence[Operation[Any, Any]] = (*QUIET, Stage.change, Stage.look)
    for operation in others:

        @service.implements(operation)
        async def nothing(part: object) -> Any: ...

    @service.implements(Stage.do, dry_run=True)
    def do(part: Part, ctx: blocking.Context) -> int:
        assert ctx.dry_run
        ctx.send(Stage.note, part)
        return 5

    store = MemoryStore(Settings())
    await store.open(create=True)
    async with asyncio.timeout(60), Rehearsal([service], store, Settings()) as rehearsal:
        found = await Stages(rehearsal, store).of()
    assert (found.foretold, found.answer and found.answer.body, sent(found)) == ("succeeds", b"5", ["stage.note"])


async def test_a_handler_that_doesnt_heed_it_is_never_run() -> None:
    async def behave(part: Part, ctx: Context) -> int:
        return 1

    async with stages(behave) as stage:
        record = await dead(stage.store)
        with pytest.raises(AssertionError, match=r"heed ctx\.dry_run"):
            await stage.rehearsal.of(msgspec.structs.replace(record, queue="stage.change"))
        assert stage.changed == []


# --- what it would send


async def send_all_ways(part: Part, ctx: Context) -> int:
    await ctx.send(Stage.note, part)
    await ctx.send_all(Stage.note, [part])
    await ctx.publish(Stage.done, part)
    receipt = await ctx.now.send(Stage.keyed, part)
    assert not receipt.duplicate
    await ctx.now.publish(Stage.done, part, idempotency_key="once")
    await ctx.progress(0.5, "half")
    return 1


ALL_WAYS = ["stage.keyed", "stage.done", "stage.note", "stage.note", "stage.done"]


async def test_whatever_a_handler_sends_is_captured() -> None:
    assert sent(await foretold(send_all_ways)) == ALL_WAYS


async def test_what_leaves_at_once_is_told_of_a_failure_too() -> None:
    async def behave(part: Part, ctx: Context) -> int:
        await ctx.now.send(Stage.keyed, part)
        await ctx.send(Stage.note, part)
        raise ValueError

    assert sent(await foretold(behave)) == ["stage.keyed"]


async def test_the_letter_to_reply_to_is_told() -> None:
    async def behave(part: Part, ctx: Context) -> int:
        return 1

    async with stages(behave) as stage:
        found = await stage.of(envelope=Envelope(operation=QUEUE, reply_to="stage.told"))
    assert sent(found) == ["stage.told"]


async def test_each_rehearsal_begins_anew() -> None:
    async with stages(send_all_ways) as stage:
        assert sent(await stage.of()) == ALL_WAYS
        assert sent(await stage.of()) == ALL_WAYS


async def test_a_store_that_lets_a_verb_through_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def through(self: UndoneStore, messages: Any) -> Any:
        return await self._store.put(messages)

    monkeypatch.setattr(UndoneStore, "put", through)
    with pytest.raises(AssertionError):
        await foretold(send_all_ways)


async def test_a_rehearsal_that_attends_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has the real store, and so notes what it serves, as a process that runs would."""
    init = Host.__init__

    def real(self: Host, services: Any, store: Any, settings: Settings, *, dry: DryRun | None = None, **_: Any) -> None:
        init(self, services, store._store, settings)

    monkeypatch.setattr(Host, "__init__", real)

    async with stages(send_all_ways) as stage:
        assert await stage.store.notes() != []


# --- what it doesn't do


async def test_a_call_that_only_reads_goes_out_and_takes_no_effect_either() -> None:
    async def behave(part: Part, ctx: Context) -> int:
        return await ctx.call(Stage.look, part)

    found = await foretold(behave)
    assert (found.foretold, found.answer and found.answer.body, sent(found)) == ("succeeds", b"8", ["stage.looked"])


async def call(part: Part, ctx: Context) -> int:
    return await ctx.call(Stage.change, part)


async def call_all(part: Part, ctx: Context) -> int:
    return len(await ctx.call_all(Stage.change, [part]))


async def call_or_send(part: Part, ctx: Context) -> int:
    await ctx.call_or_send(Stage.change, part)
    return 1


async def call_or_send_a_read(part: Part, ctx: Context) -> int:
    await ctx.call_or_send(Stage.look, part)
    return 1


async def call_under_a_key(part: Part, ctx: Context) -> int:
    return await ctx.call(Stage.look, part, idempotency_key="k")


async def wait_for_what_was_sent(part: Part, ctx: Context) -> int:
    receipt = await ctx.now.send(Stage.keyed, part)
    return await ctx.call(Stage.look, part, after=receipt)


async def swallow(part: Part, ctx: Context) -> int:
    with contextlib.suppress(UsageError):
        await ctx.call(Stage.change, part)
    return 1


NOT_DONE: dict[Behave, str] = {
    call: 'declared with effect="read"',
    call_all: 'declared with effect="read"',
    call_or_send: 'declared with effect="read"',
    call_or_send_a_read: "may keep it as a message",
    call_under_a_key: "its key would have to be kept",
    wait_for_what_was_sent: "nobody handles it",
    swallow: "nothing would undo what it does there",
}


@pytest.mark.parametrize("behave", NOT_DONE, ids=lambda behave: behave.__name__)
async def test_what_a_rehearsal_doesnt_do_leaves_the_end_open(behave: Behave) -> None:
    async with stages(behave) as stage:
        found = await stage.of()
        assert (found.foretold, stage.changed) == ("unsure", [])
        assert NOT_DONE[behave] in found.why


async def test_a_rehearsal_that_lets_a_call_out_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DryRun, "check_call", lambda *_: None)
    async with stages(call) as stage:
        assert (await stage.of()).foretold == "succeeds"
        assert stage.changed == [Part(7)]
