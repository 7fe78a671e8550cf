"""What `ringpost explain` says is what happens: calls go where it says, and each figure names who set it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ringpost.cli import route
from ringpost.cli.facts import Known, known
from ringpost.cli.main import ringpost
from ringpost.cli.output import instant
from ringpost.client.client import Client
from ringpost.contract.contract import Contract
from ringpost.contract.errors import Unavailable
from ringpost.contract.operation import Operation
from ringpost.core import notes
from ringpost.core.call import Accepted, Call
from ringpost.core.maintenance import Window
from ringpost.core.message import Answer
from ringpost.service.service import Service
from ringpost.settings import Settings, load
from ringpost.store.hostclock import boot_id, wall_ms
from ringpost.store.port import Note
from ringpost.store.sqlite.store import SqliteStore

CODE = """
from ringpost import Contract, Event, Operation, Retry, Service


class Kiosk(Contract):
    buy = Operation(str, str, timeout=2, effect="idempotent", doc="Buy something.")
    forget = Operation(str, idempotency_key=str, ordering_key=str, ttl=60, priority="low")
    slow = Operation(str, timeout=600)
    price = Operation(str, int, effect="read")
    bought = Event(str)


kiosk = Service(Kiosk)


@kiosk.implements(Kiosk.buy, concurrency=4, retry={ConnectionError: Retry(attempts=50)}, max_run=60)
async def buy(item: str) -> str:
    return item


@kiosk.implements(Kiosk.forget, finish=True, halt=True)
def forget(item: str) -> None: ...


@kiosk.implements(Kiosk.slow)
async def slow(item: str) -> None: ...


@kiosk.implements(Kiosk.price, limiter="fixed", call_queue=0)
async def price(item: str) -> int:
    return 1


@kiosk.on(Kiosk.bought)
async def note(item: str) -> None: ...
"""


class Routed(Contract):
    ask = Operation(None)


# --- where it goes


class Door:
    """A door that takes every call."""

    url = ""
    asked = 0

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()


@asynccontextmanager
async def a_door() -> AsyncIterator[Door]:
    door = Door()
    server = await asyncio.start_server(door.meet, "127.0.0.1", 0)
    door.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield door
    finally:
        server.close()


class Here:
    """A handler in this process."""

    asked = 0

    def serves(self, operation: str) -> bool:
        return True

    async def call(self, call: Call) -> Answer:
        self.asked += 1
        return Answer(204)

    async def accept(self, call: Call) -> Accepted | Answer:
        raise NotImplementedError


Explain = Callable[[Known], list[route.Place]]
CASES = list(product([False, True], [False, True], ["none", "live", "another host's loopback"]))


async def check_a_case(folder: Path, has_handler: bool, has_address: bool, noted: str, explain: Explain) -> None:
    """Call, and see who was asked; then ask who would be."""
    async with a_door() as addressed, a_door() as instance:
        settings = Settings(
            store=f"sqlite:///{folder}/x.db", addresses={"routed": addressed.url} if has_address else {}
        )
        store = SqliteStore(folder / "x.db", settings)
        await store.open(create=True)
        await store.note_put(Note(notes.operation("routed.ask"), notes.encode(notes.Described(service="routed"))))
        if noted != "none":
            boot = boot_id() if noted == "live" else "another"
            one = notes.Instance(url=instance.url, boot_id=boot, operations=("routed.ask",))
            await store.note_put(Note(notes.instance("1"), notes.encode(one), lease_s=60))
        here = Here()
        client = Client._attached(store, here if has_handler else None, settings)
        try:
            went: tuple[str, ...] = ()
            try:
                await client.call(Routed.ask, None)
            except Unavailable as nobody:
                assert nobody.processed == "no"
            else:
                places = {
                    "the handler in routed": here.asked,
                    addressed.url: addressed.asked,
                    instance.url: instance.asked,
                }
                (went,) = [(place,) for place, asked in places.items() if asked]
            services = [a_service()] if has_handler else []
            said = explain(await known("routed.ask", services, settings, strict=True))
            assert route.goes_to(said) == went
        finally:
            await client.close()
            await store.close()


def a_service() -> Service:
    service = Service(Routed)

    @service.implements(Routed.ask)
    async def ask(_: None) -> None: ...

    return service


@pytest.mark.parametrize(("has_handler", "has_address", "noted"), CASES)
async def test_a_call_goes_where_it_says(tmp_path: Path, has_handler: bool, has_address: bool, noted: str) -> None:
    await check_a_case(tmp_path, has_handler, has_address, noted, route.of_call)


def instances_first(found: Known) -> list[route.Place]:
    return route.of_call(found)[::-1]


def no_address(found: Known) -> list[route.Place]:
    return [place for place in route.of_call(found) if place.where != "addresses"]


def every_loopback(found: Known) -> list[route.Place]:
    handler, address, _ = route.of_call(found)
    urls = tuple(one.url for one in found.instances.values())
    return [handler, address, route.Place("live instances", bool(urls), "", urls)]


@pytest.mark.parametrize("twin", [instances_first, no_address, every_loopback])
async def test_one_that_says_otherwise_is_found(tmp_path: Path, twin: Explain) -> None:
    failed = 0
    for number, case in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            await check_a_case(folder, *case, twin)
        except AssertionError:
            failed += 1
    assert failed


# --- what holds, and why


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kiosk_of_test.py").write_text(CODE)
    (tmp_path / "ringpost.toml").write_text('store = "sqlite:///shop.db"\ncall_timeout_max = 30\n')
    monkeypatch.setenv("RINGPOST_CALL_TIMEOUT", "3")
    monkeypatch.setenv("RINGPOST_ADDRESSES", "courier_of_test=https://mail.example")
    yield tmp_path


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(ringpost, ["explain", *arguments])


def terms(way: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["term"]: (one["value"], one["why"]) for one in way["terms"]}


def ways(*arguments: str) -> dict[str, dict[str, Any]]:
    result = ran(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return {way["verb"]: way for way in json.loads(result.output)["ways"]}


def test_each_figure_names_who_set_it(folder: Path) -> None:
    buy, forget, slow = (ways("kiosk_of_test:kiosk", f"kiosk.{name}") for name in ("buy", "forget", "slow"))
    assert terms(buy["call"])["timeout"] == ("2 s", "timeout=2 in its contract")
    assert terms(forget["call"])["timeout"] == (
        "3 s",
        "call_timeout, in RINGPOST_CALL_TIMEOUT; no timeout= in its contract",
    )
    assert terms(slow["call"])["timeout"] == (
        "30 s",
        "timeout=600 in its contract, cut to call_timeout_max, in ringpost.toml",
    )
    assert terms(buy["call"])["repeating"] == ("safe", "effect='idempotent' in its contract")
    assert terms(forget["call"])["repeating"] == ("safe", "it has an idempotency key, made by its contract")
    assert terms(slow["call"])["repeating"][0] == "where it wasn't processed, or with a key"
    assert terms(buy["call"])["at a time in a process"] == ("4", "concurrency= of the handler in kiosk")
    assert terms(forget["call"])["at a time in a process"] == ("8", "default of def")
    assert terms(buy["send"])["runs for at most"] == ("60 s", "max_run= of the handler in kiosk")
    assert terms(buy["send"])["attempts"][0] == "20, 1 s to 600 s apart; 50, 1 s to 600 s apart for ConnectionError"
    assert terms(forget["send"])["expires"] == ("after 60 s", "ttl=60 in its contract")
    assert terms(forget["send"])["priority"] == ("low", "priority='low' in its contract")
    assert terms(forget["send"])["kept after its end"][0] == "168 h"
    assert terms(buy["send"])["kept after its end"][0] == "24 h"
    assert terms(slow["send"])["kept after its end"][0] == "1 h"
    assert terms(slow["send"])["request"] == ("at most 262,144 bytes", "default of request_bytes_max")


def test_what_protects_a_call_names_who_set_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "ringpost.toml").open("a") as file:
        file.write("[policies]\nattempts = 2\n[policies.kiosk]\nslow = 0.25\nbreaker = true\n")
    monkeypatch.setenv("RINGPOST_POLICIES", "kiosk.buy.limit=8,kiosk.slow.breaker=false,kiosk.slow.hedge=false")
    monkeypatch.setenv("RINGPOST_CALL_QUEUE", "7")
    buy, slow, price = (
        terms(ways("kiosk_of_test:kiosk", f"kiosk.{name}")["call"]) for name in ("buy", "slow", "price")
    )
    assert buy["attempts of a call"][0] == "2 in all"
    assert buy["attempts of a call"][1].startswith("attempts of [policies] in ringpost.toml; budget of 10")
    limit = 'limit of [policies."kiosk.buy"] in RINGPOST_POLICIES; only where it goes out over HTTP'
    assert buy["under way at a target"] == ("at most 8", limit)
    assert slow["under way at a target"][1].startswith("default")
    assert buy["breaker"][0] == "opens at 50% failures, or 80% slower than 0.25 s"
    assert buy["breaker"][1].startswith("default; slow of [policies.kiosk] in ringpost.toml")
    assert slow["breaker"][0] == slow["hedging"][0] == "none"
    assert slow["breaker"][1].startswith('breaker of [policies."kiosk.slow"] in RINGPOST_POLICIES')
    assert buy["hedging"] == ("none", "its contract doesn't say effect='read'; only where it goes out over HTTP")
    assert price["hedging"][0] == "once it is later than 95 % are"
    assert price["calls at a time"] == ("128 (fixed)", "limiter= of the handler in kiosk")
    assert price["calls that wait for a slot"] == ("at most 0", "call_queue= of the handler in kiosk")
    assert buy["calls at a time"] == ("4 to 4 (aimd)", "default of limiter")
    why = "half of those that may run; call_queue, in RINGPOST_CALL_QUEUE: 7"
    assert buy["calls that wait for a slot"] == ("at most 2", why)


def test_nobody_names_everything_that_was_looked_at(folder: Path) -> None:
    call, send = (ways("kiosk_of_test:kiosk", "kiosk.buy")[verb] for verb in ("call", "send"))
    assert call["goes_to"] == ["the handler in kiosk"]
    assert send["goes_to"] == []
    assert [place["where"] for place in call["looked_at"]] == ["this process", "addresses", "live instances"]
    assert "there is no store at" in call["looked_at"][2]["said"]


def test_what_only_an_address_is_known_of(folder: Path) -> None:
    both = ways("courier_of_test.welcome")
    assert both["call"]["goes_to"] == ["https://mail.example"]
    assert both["send"]["goes_to"] == ["the door at https://mail.example"]
    assert terms(both["call"])["what it declares"][0] == "not known here"
    assert "RINGPOST_ADDRESSES" in both["call"]["looked_at"][1]["said"]


async def test_what_has_an_address_waits_in_the_store_and_is_forwarded(folder: Path) -> None:
    store = SqliteStore(folder / "shop.db", load({"store": f"sqlite:///{folder}/shop.db"}))
    await store.open(create=True)
    send = (await asyncio.to_thread(ways, "courier_of_test.welcome"))["send"]
    assert send["goes_to"] == ["the queue forward.to.courier_of_test of the store, then https://mail.example"]
    assert send["looked_at"][2]["said"].startswith("nobody now: it waits until a service on this store runs with")
    assert terms(send)["given up"][0] == "after 14 days"
    here = notes.Instance(url="", boot_id=boot_id(), pid=7, host="h", queues=("forward.to.courier_of_test",))
    await store.note_put(Note(notes.instance("1"), notes.encode(here)))
    await store.close()
    send = (await asyncio.to_thread(ways, "courier_of_test.welcome"))["send"]
    assert (send["looked_at"][2]["where"], send["looked_at"][2]["said"]) == ("forwarded by", "pid 7 on h")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kiosk.by"], "nobody has ever heard of kiosk.by here. there is no store at"),
        (["kiosk_of_test:kiosk"], "'kiosk_of_test:kiosk' is no operation: give its name last"),
        (["kiosk_of_test:kiosk", "buy"], "'buy' is no operation: names are contract.operation"),
        (["nowhere:shop", "kiosk.buy"], "there is no module 'nowhere'"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(folder: Path, arguments: list[str], said: str) -> None:
    result = ran(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith(f"ringpost: {said}")
    assert result.output.count("\n") == 1


async def test_a_store_knows_without_the_code(folder: Path) -> None:
    settings = load({"store": f"sqlite:///{folder}/shop.db"})
    store = SqliteStore(folder / "shop.db", settings)
    await store.open(create=True)
    queue = "depot.on.depot.bought"
    here = notes.Instance(url="http://127.0.0.1:1", boot_id=boot_id(), pid=7, host="h", queues=("depot.buy", queue))
    for name, value in (
        (notes.operation("depot.buy"), notes.Described(service="depot", timeout_s=2.0, doc="\x1b]0;owned\x07Buy")),
        (notes.operation("depot.bought"), notes.Described(kind="event", service="depot")),
        (notes.subscription("depot.bought", queue), notes.Subscription("depot")),
        (notes.subscription("depot.bought", "old.on.depot.bought"), notes.Subscription("old", suspended=True)),
        (notes.pause("depot.buy"), notes.Pause("ada", 1, "stocktaking")),
        (notes.instance("1"), here),
    ):
        await store.note_put(Note(name, notes.encode(value)))
    await store.close()
    both = await asyncio.to_thread(ways, "depot.buy")
    assert terms(both["call"])["timeout"] == ("2 s", "timeout=2 in the store's note")
    assert both["send"]["goes_to"] == ["the queue depot.buy of the store"]
    assert [place["said"] for place in both["send"]["looked_at"]][1:] == [
        "pid 7 on h",
        "by ada: stocktaking; it waits until the queue is resumed",
    ]
    told = (await asyncio.to_thread(ways, "depot.bought"))["publish"]
    assert told["goes_to"] == [queue]
    assert {place["where"]: place["said"] for place in told["looked_at"][1:]} == {
        queue: "pid 7 on h",
        "old.on.depot.bought": "suspended: it gets nothing",
    }
    shown = await asyncio.to_thread(ran, "depot.buy")
    assert shown.exit_code == 0
    assert "\x1b" not in shown.output and "\x07" not in shown.output
    assert "call → nobody" in shown.output
    assert "send → the queue depot.buy of the store" in shown.output


async def test_what_operators_ask_for_is_said_first(folder: Path) -> None:
    store = SqliteStore(folder / "shop.db", load({"store": f"sqlite:///{folder}/shop.db"}))
    await store.open(create=True)
    until_ms = wall_ms() + 3_600_000
    for name, value in (
        (notes.operation("depot.buy"), notes.Described(service="depot")),
        (notes.maintenance("depot"), Window(until_ms, reason="new disk", who="ada")),
        (notes.maintenance("other"), Window(until_ms, who="bob")),
        (notes.override("depot"), notes.Override("closed", "bob", 1, "all of it")),
        (notes.override("depot.buy"), notes.Override("open", "ada", 1, "it burns")),
        (notes.override("depot.buy@http://h:1"), notes.Override("closed", "eve", 1)),
        (notes.override("depot.buyer"), notes.Override("open", "eve", 1)),
    ):
        await store.note_put(Note(name, notes.encode(value)))
    await store.close()
    both = await asyncio.to_thread(ways, "depot.buy")
    asked = [(one["term"], one["value"], one["why"]) for one in both["call"]["terms"]]
    first = [one for one in asked if one[0] == "service" or "held" in one[1]]
    assert first == [
        ("service", f"closed until {instant(until_ms)}", "by ada: new disk; 503, or a ticket"),
        ("breaker", "held open", "by ada: it burns"),
        ("breaker", "held closed at http://h:1", "by eve"),
    ]
    assert both["send"]["looked_at"][-1]["said"] == f"until {instant(until_ms)}, by ada: new disk; it waits for that"
