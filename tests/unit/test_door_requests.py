"""The door as the function that it is: what a request means, and what is answered, over a host that says as told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from ringpost.contract.contract import Contract, events_of, operations_of
from ringpost.contract.errors import StoreError
from ringpost.contract.operation import Event, Operation
from ringpost.core import ids
from ringpost.core.call import Accepted, Call
from ringpost.core.maintenance import Window
from ringpost.core.message import Answer, Message, Priority, Reservation, Settlement, State
from ringpost.core.outcome import problem_answer
from ringpost.http.door import Door
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note, Store
from ringpost.wire.http import Request, Response


class Adding(Contract):
    add = Operation(list[int], int, timeout=2)
    urgent = Operation(int, int, priority="high")
    added = Event(int)


class Health(msgspec.Struct):
    ready: bool = True
    reasons: tuple[str, ...] = ()
    closed: dict[str, Window] = {}


Told = Callable[[Call], Answer]


class FakeHost:
    """What the door sees of a host. Calls are kept; `accept` lets a message be born running in the store."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.instance = "i1"
        self.operations = {found.full_name: found for found in operations_of(Adding).values()}
        self.events = {found.full_name: found for found in events_of(Adding).values()}
        self.calls: list[Call] = []
        self.told: Told = lambda call: Answer(200, b"3")
        self.state = Health()
        self.refusing: Answer | None = None
        self.accepted = asyncio.Event()

    def health(self) -> Health:
        return self.state

    def serves(self, operation: str) -> bool:
        return operation in self.operations

    async def call(self, call: Call) -> Answer:
        self.calls.append(call)
        return self.told(call)

    async def accept(self, call: Call) -> Accepted | Answer:
        self.calls.append(call)
        if self.refusing is not None:
            return self.refusing
        assert self.store is not None
        id = ids.uuid7(1_795_000_000_000, len(self.calls))
        message = Message(id, call.operation, call.body, reserve=Reservation(1, 30.0))
        (put,) = await self.store.put([message])
        self.delivery = put.delivery
        self.accepted.set()
        return Accepted(put.id, put.duplicate, 1, "buffered")

    async def settle(self, answer: Answer) -> None:
        assert self.store is not None
        assert self.delivery is not None
        await self.store.settle([Settlement(self.delivery, State.SUCCEEDED, answer=answer)])


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore(Settings())
    await store.open(create=True)
    yield store
    await store.close()


@pytest.fixture
def host(store: MemoryStore) -> FakeHost:
    return FakeHost(store)


@pytest.fixture
def door(host: FakeHost) -> Door:
    return Door(host, Settings())


async def ask(door: Door, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
    now_s = asyncio.get_running_loop().time()
    return await door(Request(method, path, "", headers or {}, body, now_s, "http://shop:8000"))


async def post(door: Door, body: bytes = b"[1,2]", path: str = "/adding/add", **headers: str) -> Response:
    return await ask(door, "POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})


def header(response: Response, name: str) -> str | None:
    return dict((key.lower(), value) for key, value in response.headers).get(name)


def problem(response: Response) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = msgspec.json.decode(response.body)
    assert body["status"] == response.status
    assert body["type"] == f"urn:ringpost:problem:{body['code']}"
    assert header(response, "ringpost-processed") == "no"
    return body


# Operations.


async def test_a_call_reaches_the_handler_with_all_that_its_headers_say(door: Door, host: FakeHost) -> None:
    now_s = asyncio.get_running_loop().time()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    response = await post(
        door,
        content_type="application/json; charset=utf-8",
        request_timeout="1500ms",
        idempotency_key='"a \\"b\\""',
        ringpost_priority="low",
        ringpost_depth="2",
        ringpost_path="a.b, c.d",
        ringpost_attempt="3",
        traceparent=trace,
        tracestate="x=y",
        x_user="ada",
    )
    assert (response.status, response.body, response.content_type) == (200, b"3", "application/json")
    (call,) = host.calls
    assert (call.operation, call.body) == ("adding.add", b"[1,2]")
    assert call.deadline_s == pytest.approx(now_s + 1.5, abs=0.5)
    assert call.idempotency_key == 'a "b"'
    assert call.priority is Priority.LOW
    assert (call.depth, call.path, call.attempt) == (2, ("a.b", "c.d"), 3)
    assert (call.trace, call.tracestate) == (trace, "x=y")
    assert call.headers["x-user"] == "ada"


async def test_without_headers_the_operation_says(door: Door, host: FakeHost) -> None:
    now_s = asyncio.get_running_loop().time()
    await post(door)
    await post(door, path="/adding/urgent")
    assert host.calls[0].deadline_s == pytest.approx(now_s + 2, abs=0.5)
    assert host.calls[1].deadline_s == pytest.approx(now_s + 5, abs=0.5)
    assert [call.priority for call in host.calls] == [Priority.NORMAL, Priority.HIGH]


async def test_a_deadline_has_a_limit(door: Door, host: FakeHost) -> None:
    now_s = asyncio.get_running_loop().time()
    await post(door, request_timeout="2h")
    assert host.calls[0].deadline_s == pytest.approx(now_s + 60, abs=0.5)


async def test_an_outcome_keeps_its_status_and_says_when_to_come_back(door: Door, host: FakeHost) -> None:
    host.told = lambda call: problem_answer("overloaded", retry_after_s=1.2, processed=False)
    response = await post(door)
    assert response.status == 503
    assert header(response, "retry-after") == "2"
    assert problem(response)["code"] == "overloaded"


async def test_no_reply_is_204(door: Door, host: FakeHost) -> None:
    host.told = lambda call: Answer(204)
    assert (await post(door)).status == 204


REFUSED_HEADERS = {
    "ringpost-callback": ("https://x", 400, "invalid"),
    "request-timeout": ("soon", 400, "invalid"),
    "idempotency-key": ("", 400, "invalid"),
    "ringpost-priority": ("huge", 400, "invalid"),
    "ringpost-depth": ("-1", 400, "invalid"),
    "ringpost-attempt": ("0", 400, "invalid"),
    "ringpost-path": ("a", 400, "invalid"),
    "prefer": ("wait=forever", 400, "invalid"),
    "content-type": ("text/plain", 415, "unsupported_media_type"),
    "content-encoding": ("gzip", 415, "unsupported_media_type"),
    "ringpost-instance": ("i2", 421, "wrong_instance"),
    "ringpost-store": ("another", 421, "wrong_store"),
}


@pytest.mark.parametrize(("name", "value", "status", "code"), [(n, *rest) for n, rest in REFUSED_HEADERS.items()])
async def test_what_cant_be_read_or_met_is_refused(
    door: Door, host: FakeHost, name: str, value: str, status: int, code: str
) -> None:
    response = await ask(door, "POST", "/adding/add", b"[]", {name: value})
    assert (response.status, problem(response)["code"]) == (status, code)
    assert host.calls == []


async def test_a_callback_is_told_to_be_of_a_later_version(door: Door) -> None:
    said = problem(await post(door, ringpost_callback="https://x"))["detail"]
    assert "webhooks aren't in this version" in said


async def test_what_is_meant_for_this_instance_and_store_passes(door: Door, host: FakeHost) -> None:
    assert host.store is not None
    response = await post(door, ringpost_instance="i1", ringpost_store=host.store.facts.store_id)
    assert response.status == 200


async def test_curl_may_call_json_a_form_and_a_browser_may_not(door: Door, host: FakeHost) -> None:
    form = "application/x-www-form-urlencoded"
    assert (await post(door, content_type=form)).status == 200
    assert (await post(door, content_type=form, origin="https://evil")).status == 415
    assert (await post(door, content_type=form, sec_fetch_site="cross-site")).status == 415
    assert (await post(door, origin="https://evil")).status == 415, "a page can send a body of no type, too"
    assert (await post(door, content_type="application/vnd.shop+json")).status == 200
    assert (await post(door, content_type="application/json; charset=latin-1")).status == 415
    assert len(host.calls) == 2


async def test_paths_and_methods(door: Door) -> None:
    assert (await ask(door, "POST", "/adding/nothing")).status == 404
    assert (await ask(door, "GET", "/")).status == 404
    assert problem(await ask(door, "POST", "/Adding/add"))["code"] == "not_found"
    wrong = await ask(door, "GET", "/adding/add")
    assert (wrong.status, header(wrong, "allow"), problem(wrong)["code"]) == (405, "POST", "method_not_allowed")
    assert header(await ask(door, "POST", "/healthz"), "allow") == "GET, HEAD"
    options = await ask(door, "OPTIONS", "/adding/add")
    assert (options.status, header(options, "allow")) == (204, "POST")


async def test_while_closing_nothing_is_begun(door: Door, host: FakeHost) -> None:
    door.closing = True
    response = await post(door)
    assert (response.status, header(response, "retry-after")) == (503, "1")
    assert (await ask(door, "GET", "/healthz")).status == 200
    assert host.calls == []


# Later.


async def test_wait_alone_is_how_long_the_caller_waits(door: Door, host: FakeHost) -> None:
    now_s = asyncio.get_running_loop().time()
    response = await post(door, prefer="wait=1")
    assert response.status == 200
    assert header(response, "preference-applied") == "wait=1"
    assert header(response, "vary") == "Prefer"
    assert host.calls[0].deadline_s == pytest.approx(now_s + 1, abs=0.5)


async def test_unknown_preferences_are_ignored(door: Door) -> None:
    response = await post(door, prefer="return=minimal")
    assert (response.status, header(response, "preference-applied")) == (200, None)


async def test_respond_async_says_where_to_look(door: Door, host: FakeHost) -> None:
    response = await post(door, prefer="respond-async")
    assert response.status == 202
    body = msgspec.json.decode(response.body)
    assert header(response, "operation-location") == f"http://shop:8000/tickets/{body['id']}"
    assert header(response, "location") == f"http://shop:8000/tickets/{body['id']}/result"
    assert header(response, "preference-applied") == "respond-async"
    assert header(response, "vary") == "Prefer"
    assert header(response, "retry-after") is not None
    assert (body["status"], body["state"], body["generation"]) == ("Running", "running", 1)
    assert (body["level"], body["duplicate"], body["receivers"]) == ("buffered", False, 1)


async def test_the_public_url_wins_over_the_requests_host(host: FakeHost) -> None:
    door = Door(host, Settings(advertise="https://api.shop.example/rpc/"))
    response = await post(door, prefer="respond-async")
    assert (header(response, "location") or "").startswith("https://api.shop.example/rpc/tickets/")


async def test_respond_async_with_wait_gives_the_answer_if_it_comes_in_time(door: Door, host: FakeHost) -> None:
    asking = asyncio.create_task(post(door, prefer="respond-async, wait=20"))
    await host.accepted.wait()
    await host.settle(Answer(200, b"42"))
    response = await asking
    assert (response.status, response.body) == (200, b"42")
    assert header(response, "preference-applied") == "respond-async, wait=20"


async def test_respond_async_with_wait_gives_the_ticket_if_it_doesnt(door: Door) -> None:
    response = await post(door, prefer="respond-async, wait=0")
    assert response.status == 202


async def test_what_isnt_accepted_is_answered_at_once(door: Door, host: FakeHost) -> None:
    host.refusing = problem_answer("key_reused", processed=False)
    response = await post(door, prefer="respond-async")
    assert problem(response)["code"] == "key_reused"


async def test_without_store_there_is_no_later() -> None:
    door = Door(FakeHost(None), Settings())
    assert (await post(door)).status == 200
    assert problem(await post(door, prefer="respond-async"))["code"] == "unavailable"
    assert (await ask(door, "GET", f"/tickets/{ids.text(ids.uuid7(1, 1))}")).status == 404
    assert problem(await event(door))["code"] == "unavailable"


# Events.


async def event(door: Door, body: bytes = b"7", **headers: str) -> Response:
    usual = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "shop", "ce_type": "adding.added"}
    return await post(door, body, "/events", **{**usual, **headers})


async def test_an_event_is_stored_for_those_who_listen_and_a_repeat_is_absorbed(door: Door, host: FakeHost) -> None:
    assert host.store is not None
    await host.store.note_put(Note("subscription/adding.added/audit.on.adding.added", b'{"service":"audit"}'))
    first = await event(door, content_type="application/json")
    assert first.status == 202
    body = msgspec.json.decode(first.body)
    assert (body["receivers"], body["duplicate"]) == (1, False)
    again = msgspec.json.decode((await event(door)).body)
    assert (again["id"], again["duplicate"]) == (body["id"], True)
    depths = {depth.queue: depth.ready for depth in await host.store.depths()}
    assert depths["audit.on.adding.added"] == 1
    other = msgspec.json.decode((await event(door, ce_source="elsewhere")).body)
    assert other["id"] != body["id"]


async def test_events_are_refused_that_cant_be_taken(door: Door) -> None:
    assert problem(await event(door, b'"x"'))["errors"][0]["pointer"] == ""
    assert (await event(door, ce_type="adding.unknown")).status == 404
    assert (await event(door, ce_id="")).status == 400
    assert (await event(door, ce_specversion="0.3")).status == 400
    for kind, mode in (
        ("application/cloudevents+json", "Structured"),
        ("application/cloudevents-batch+json", "Batched"),
    ):
        refused = await event(door, content_type=kind)
        assert refused.status == 415
        assert mode in problem(refused)["detail"]
    assert (await event(door, content_type="text/xml")).status == 415


# How the process is.


async def test_health_is_told_honestly(door: Door, host: FakeHost) -> None:
    assert (await ask(door, "GET", "/healthz")).status == 200
    assert (await ask(door, "GET", "/readyz")).status == 200
    host.state = Health(ready=False, reasons=("stopping",))
    response = await ask(door, "GET", "/readyz")
    assert (response.status, msgspec.json.decode(response.body)) == (
        503,
        {"status": "not ready", "reasons": ["stopping"]},
    )
    host.state = Health(closed={"shop": Window(until_ms=1_795_000_000_000, reason="new disk")})
    response = await ask(door, "GET", "/readyz")
    assert (response.status, msgspec.json.decode(response.body)["maintenance"]) == (
        200,
        [{"service": "shop", "until": "2026-11-18T11:06:40Z", "reason": "new disk"}],
    )
    assert (await ask(door, "GET", "/healthz")).status == 200


# Borders.


async def test_a_store_that_fails_is_a_503_and_tells_nothing(door: Door, host: FakeHost) -> None:
    class Broken(MemoryStore):
        async def put(self, messages: Any) -> Any:
            raise StoreError("disk /var/secret is gone")

    host.store = Broken(Settings())
    await host.store.open(create=True)
    response = await event(door)
    assert response.status == 503
    assert b"secret" not in response.body


async def test_who_goes_away_cancels(door: Door, host: FakeHost) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    class Slow(FakeHost):
        async def call(self, call: Call) -> Answer:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
            return Answer(204)

    asking = asyncio.create_task(post(Door(Slow(host.store), Settings())))
    await began.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert ended.is_set()
