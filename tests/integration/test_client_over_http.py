"""A client without store or handler: calls, messages and tickets over HTTP, against a door that says as told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from servers.programs import free_port

from ringpost.client.client import Client
from ringpost.client.router import Router
from ringpost.client.ticket import Ticket
from ringpost.contract.contract import Contract
from ringpost.contract.errors import (
    DeadlineExceeded,
    Overloaded,
    RingpostError,
    StateError,
    TicketExpired,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.problem import PROBLEM_URN, Problem, to_members
from ringpost.core import ids, notes
from ringpost.core.call import Call
from ringpost.settings import Settings
from ringpost.store.hostclock import boot_id
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note

ID = ids.text(ids.uuid7(2**47, 1))


@dataclass
class Word:
    text: str


class TooLoud(Problem, status=409):
    level: int


class NotFound(Problem, status=404):
    """Has the status and code of a ticket that isn't there."""


class Talking(Contract):
    say = Operation(Word, str, raises=[TooLoud, NotFound])
    hush = Operation(Word)
    heard = Operation(Outcome[Word, str])
    said = Event(Word)


class Asked(msgspec.Struct):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Asked], bytes]


def answer(status: int, body: Any = b"", *more: str, kind: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}", *more, "", ""]
    return "\r\n".join(lines).encode() + data


class Door:
    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.asked: list[Asked] = []
        self.url = ""

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.strip().split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines)
                body = await reader.readexactly(int(headers["content-length"]))
                method, path, _ = first.split(" ")
                self.asked.append(Asked(method, path, headers, body))
                writer.write(self.answering(self.asked[-1]))
        writer.close()


@asynccontextmanager
async def a_door(answering: Answering) -> AsyncIterator[Door]:
    door = Door(answering)
    server = await asyncio.start_server(door.meet, "127.0.0.1", 0)
    door.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield door
    finally:
        server.close()


@asynccontextmanager
async def a_client(door: Door, store: MemoryStore | None = None) -> AsyncIterator[Client]:
    client = Client._attached(store, None, Settings(addresses={"talking": door.url + "/base"}))
    try:
        yield client
    finally:
        await client.close()


def saying(*answers: bytes) -> Answering:
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


async def test_a_call_says_what_it_is_and_gives_the_reply() -> None:
    async with a_door(saying(answer(200, "A"))) as door, a_client(door) as client:
        assert await client.call(Talking.say, Word("a"), timeout=2) == "A"
        (asked,) = door.asked
        assert (asked.method, asked.path, asked.body) == ("POST", "/base/talking/say", b'{"text":"a"}')
        remaining_ms = int(asked.headers.pop("request-timeout").removesuffix("ms"))
        assert 1500 < remaining_ms <= 2000
        asked.headers.pop("host")
        assert asked.headers == {"content-type": "application/json", "content-length": "12"}


async def test_what_is_special_about_a_call_travels_with_it() -> None:
    async with a_door(saying(answer(204))) as door:
        router = Router(Settings(addresses={"talking": door.url}))
        parent = Call("shop.order", b"", asyncio.get_running_loop().time() + 2, path=("web.page",), trace="00-x")
        options: Any = {"idempotency_key": 'a"b\\c', "priority": "low", "headers": {"X-A": "b"}}
        assert await router.call(Talking.hush, Word("a"), options, parent) is None
        await router.close()
        headers = door.asked[0].headers
        assert headers["idempotency-key"] == '"a\\"b\\\\c"'
        assert headers["ringpost-priority"] == "low"
        assert headers["ringpost-depth"] == "1"
        assert headers["ringpost-path"] == "web.page, shop.order"
        assert (headers["x-a"], headers["traceparent"]) == ("b", "00-x")


async def test_a_problem_comes_back_as_itself() -> None:
    body = msgspec.json.encode(to_members(TooLoud(level=3), "talking"))
    async with a_door(saying(answer(409, body, kind="application/problem+json"))) as door, a_client(door) as client:
        with pytest.raises(TooLoud) as caught:
            await client.call(Talking.say, Word("a"))
        assert caught.value.level == 3


async def test_what_is_no_door_isnt_taken_for_a_reply() -> None:
    page = answer(404, b"<html>", kind="text/html")
    async with a_door(saying(page)) as door, a_client(door) as client:
        with pytest.raises(RingpostError):
            await client.call(Talking.say, Word("a"))
        with pytest.raises(TransportError, match="no door of Ringpost"):
            door.answering = saying(answer(200, b"<html>", kind="text/html"))
            await client.send(Talking.say, Word("a"))


async def test_a_message_is_posted_and_its_ticket_read_there() -> None:
    taken = {"id": ID, "status": "NotStarted", "state": "accepted", "level": "durable", "receivers": 1}
    answers = saying(answer(202, taken), answer(202, taken), answer(200, "A"))
    async with a_door(answers) as door, a_client(door) as client:
        ticket = await client.send(Talking.say, Word("a"), idempotency_key="k")
        assert (ticket.id, ticket.level, ticket.receivers, ticket.duplicate) == (ID, "durable", 1, False)
        assert await ticket.result(timeout=20) == "A"
        posted, *polls = door.asked
        assert (posted.headers["prefer"], posted.headers["idempotency-key"]) == ("respond-async", '"k"')
        assert [(poll.method, poll.path) for poll in polls] == [("GET", f"/base/tickets/{ID}/result")] * 2
        assert polls[0].headers["prefer"] == "wait=19"


async def test_a_result_that_isnt_there_in_time() -> None:
    async with a_door(saying(answer(202, {"id": ID, "state": "running"}))) as door, a_client(door) as client:
        with pytest.raises(DeadlineExceeded):
            await client.ticket(Talking.say, ID).result(timeout=0)


async def test_less_than_a_second_is_cut_off_here() -> None:
    async with a_door(saying(b"")) as door, a_client(door) as client:
        with pytest.raises(DeadlineExceeded):
            await client.ticket(Talking.say, ID).result(timeout=0.05)
        assert door.asked[0].headers["prefer"] == "wait=1"


async def test_unknown_and_forgotten_tickets_are_told_apart() -> None:
    unknown = {"type": "urn:ringpost:problem:not_found", "code": "not_found"}
    async with a_door(saying(answer(404, unknown))) as door, a_client(door) as client:
        ticket = client.ticket(Talking.say, ID)
        for look in (ticket.status, ticket.cancel):
            with pytest.raises(StateError, match="There is no message"):
                await look()  # type: ignore[operator]
        with pytest.raises(StateError, match="There is no message"):
            await ticket.result()
    async with a_door(saying(answer(410, {"type": "urn:ringpost:problem:gone"}))) as door, a_client(door) as client:
        with pytest.raises(TicketExpired):
            await client.ticket(Talking.say, ID).result()


async def test_an_outcome_of_404_isnt_taken_for_a_missing_ticket() -> None:
    body = msgspec.json.encode(to_members(NotFound(), "talking"))
    async with a_door(saying(answer(404, body, kind="application/problem+json"))) as door, a_client(door) as client:
        with pytest.raises(NotFound):
            await client.ticket(Talking.say, ID).result()


async def test_updates_come_as_events_until_the_end() -> None:
    def events(*states: str) -> bytes:
        body = b"".join(b": hello\n\ndata: %b\n\n" % msgspec.json.encode({"id": ID, "state": one}) for one in states)
        return answer(200, body, kind="text/event-stream")

    answers = saying(events("accepted", "running", "running"), events("running", "succeeded"))
    async with a_door(answers) as door, a_client(door) as client:
        states = [status.state async for status in client.ticket(Talking.say, ID).updates()]
        assert states == ["accepted", "running", "succeeded"]
        assert door.asked[0].headers["accept"] == "text/event-stream"


async def test_cancelling_over_http() -> None:
    told = [(200, "cancelled", "cancelled"), (202, "running", "requested"), (202, "cancelled", "requested")]
    answers = saying(*(answer(status, {"id": ID, "state": state}) for status, state, _ in told))
    async with a_door(answers) as door, a_client(door) as client:
        ticket = client.ticket(Talking.say, ID)
        # A handler that was told may have ended before the door answers: it was told nevertheless.
        assert [await ticket.cancel() for _ in told] == [result for *_, result in told]
        assert {one.method for one in door.asked} == {"DELETE"}


async def test_headers_of_the_client_go_with_tickets_and_events_too() -> None:
    async with a_door(saying(answer(200, {"id": ID, "state": "running"}))) as door, a_client(door) as client:
        client._headers = {"Authorization": "Bearer x"}
        await client.ticket(Talking.say, ID).status()
        await client.publish(Talking.said, Word("a"), headers={"x-a": "b"})
        assert [asked.headers["authorization"] for asked in door.asked] == ["Bearer x"] * 2
        assert door.asked[1].headers["x-a"] == "b"


async def test_an_event_is_posted_as_a_cloudevent() -> None:
    async with a_door(saying(answer(202, {"id": ID, "receivers": 3}))) as door, a_client(door) as client:
        receipt = await client.publish(Talking.said, Word("a"))
        assert (receipt.id, receipt.receivers) == (ID, 3)
        (asked,) = door.asked
        assert (asked.path, asked.headers["ce-type"]) == ("/base/events", "talking.said")
        assert asked.headers["ce-specversion"] == "1.0"
        assert ids.is_uuid7(ids.parse(asked.headers["ce-id"]))


async def test_call_or_send_takes_whichever_comes() -> None:
    taken = {"id": ID, "state": "running", "level": "durable"}
    answers = saying(answer(200, "A"), answer(202, taken), answer(202, taken))
    async with a_door(answers) as door, a_client(door) as client:
        assert await client.call_or_send(Talking.say, Word("a"), wait=2) == "A"
        assert door.asked[0].headers["prefer"] in ("respond-async, wait=1", "respond-async, wait=2")
        ticket = await client.call_or_send(Talking.say, Word("a"), wait=0.01)
        assert isinstance(ticket, Ticket)
        assert ticket.id == ID


async def test_many_are_posted_some_at_a_time() -> None:
    async with a_door(lambda asked: answer(202, {"id": ID})) as door, a_client(door) as client:
        tickets = await client.send_all(Talking.say, [Word(str(n)) for n in range(50)])
        assert len(tickets) == len(door.asked) == 50


@pytest.mark.parametrize("options", [{"delay": 1}, {"ttl": 1}, {"ordering_key": "k"}, {"reply_to": Talking.heard}])
async def test_what_only_a_store_can_do_is_said(options: Any) -> None:
    async with a_door(saying(answer(202, {"id": ID}))) as door, a_client(door) as client:
        with pytest.raises(UsageError, match="needs a store here"):
            await client.send(Talking.say, Word("a"), **options)
        assert door.asked == []


async def instance(store: MemoryStore, id: str, url: str, boot: str, *operations: str, stopping: bool = False) -> None:
    value = notes.encode(notes.Instance(url=url, boot_id=boot, operations=operations, stopping=stopping))
    await store.note_put(Note(notes.instance(id), value, lease_s=60))


async def test_a_live_instance_is_found_in_the_store_and_a_wrong_or_gone_one_passed_over() -> None:
    wrong = answer(421, {"code": "wrong_instance"}, kind="application/problem+json")
    async with a_door(saying(answer(200, "A"))) as door, a_door(saying(wrong)) as other, a_door(saying(wrong)) as far:
        store = MemoryStore()
        await store.open()
        await instance(store, "gone", f"http://127.0.0.1:{free_port()}", boot_id(), "talking.say")
        await instance(store, "wrong", other.url, boot_id(), "talking.say")
        await instance(store, "right", door.url, boot_id(), "talking.say")
        await instance(store, "far", far.url, "another boot", "talking.say")
        await instance(store, "else", far.url, boot_id(), "talking.hush")
        await instance(store, "doorless", "", boot_id(), "talking.say")
        router = Router(Settings(), None, store)
        for _ in range(6):
            assert await router.call(Talking.say, Word("a")) == "A"
        assert {asked.headers["ringpost-instance"] for asked in door.asked} == {"right"}
        assert len(other.asked) == 1  # then it is left alone for a while
        assert far.asked == []
        await router.close()
        await store.close()


def refusing(code: str) -> bytes:
    return answer(
        503, {"type": f"{PROBLEM_URN}{code}", "code": code}, "ringpost-processed: no", kind="application/problem+json"
    )


async def test_an_instance_that_is_stopping_is_passed_over_and_one_with_too_much_to_do_is_not() -> None:
    async with a_door(saying(answer(200, "A"))) as door, a_door(saying(refusing("unavailable"))) as going:
        store = MemoryStore()
        await store.open()
        await instance(store, "going", going.url, boot_id(), "talking.say")
        router = Router(Settings(), None, store)
        with pytest.raises(Unavailable):
            await router.call(Talking.say, Word("a"))
        # Whoever comes in its place is found at once.
        await instance(store, "right", door.url, boot_id(), "talking.say")
        assert await router.call(Talking.say, Word("a")) == "A"
        assert len(going.asked) == 1
        door.answering = saying(refusing("overloaded"))
        with pytest.raises(Overloaded):
            await router.call(Talking.say, Word("a"))
        await router.close()
        await store.close()


async def test_an_instance_that_says_it_is_stopping_is_asked_only_where_there_is_no_other() -> None:
    async with a_door(saying(answer(200, "A"))) as door, a_door(saying(answer(200, "B"))) as going:
        store = MemoryStore()
        await store.open()
        await instance(store, "going", going.url, boot_id(), "talking.say", stopping=True)
        router = Router(Settings(), None, store)
        assert await router.call(Talking.say, Word("a")) == "B"
        await router.close()
        await instance(store, "staying", door.url, boot_id(), "talking.say")
        router = Router(Settings(), None, store)
        assert [await router.call(Talking.say, Word("a")) for _ in range(4)] == ["A"] * 4
        await router.close()
        await store.close()


async def test_many_calls_at_once_look_for_instances_once() -> None:
    async with a_door(saying(answer(200, "A"))) as door:
        store = MemoryStore()
        await store.open()
        await instance(store, "one", door.url, boot_id(), "talking.say")
        router = Router(Settings(), None, store)
        assert await asyncio.gather(*(router.call(Talking.say, Word("a")) for _ in range(5))) == ["A"] * 5
        await router.close()
        await store.close()


async def test_where_it_may_have_been_done_no_other_instance_is_asked() -> None:
    async with a_door(saying(answer(200, "A"))) as door, a_door(saying(b"")) as silent:
        store = MemoryStore()
        await store.open()
        await instance(store, "silent", silent.url, boot_id(), "talking.say")
        router = Router(Settings(), None, store)
        with pytest.raises(DeadlineExceeded) as caught:
            await router.call(Talking.say, Word("a"), {"timeout": 0.05})
        assert caught.value.processed == "maybe"
        assert door.asked == []
        await router.close()
        await store.close()


async def test_an_address_that_refuses_says_so() -> None:
    client = Client._attached(None, None, Settings(addresses={"talking": f"http://127.0.0.1:{free_port()}"}))
    with pytest.raises(Unavailable, match="Can't reach"):
        await client.call(Talking.say, Word("a"))
    with pytest.raises(Unavailable):
        await client.call_or_send(Talking.say, Word("a"), wait=1)
    await client.close()


async def test_with_a_store_and_an_address_messages_go_to_the_store() -> None:
    store = MemoryStore()
    await store.open()
    async with a_door(saying(answer(200, "A"))) as door, a_client(door, store) as client:
        ticket = await client.send(Talking.say, Word("a"))
        assert ticket.level == "buffered"
        assert door.asked == []
    await store.close()
