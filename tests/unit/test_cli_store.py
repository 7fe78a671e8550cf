"""What the command line does with a store when no service runs: checks against noted schemas, dead letters, queues."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pytest
from click.testing import CliRunner, Result

from ringpost import Outcome
from ringpost.cli.dead.editing import patched
from ringpost.cli.dead.letter import masked
from ringpost.cli.main import ringpost
from ringpost.client.posting import new_id
from ringpost.core import ids, notes
from ringpost.core.line import line_id
from ringpost.core.message import Cause, Envelope, Failure, Message, Record, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Note, Store
from ringpost.store.sqlite.store import SqliteStore

T = TypeVar("T")
HOSTILE = "Traceback \x1b]0;owned\x07 \x9b2J …"


class Address(msgspec.Struct):
    street: str
    number: Annotated[int, msgspec.Meta(ge=1)] = 1


class Order(msgspec.Struct):
    item: str
    password: str = ""
    to: list[Address] = []


def noted(kind: Any, **more: Any) -> notes.Described:
    return notes.Described(kind=kind, service="shop", request=msgspec.json.schema(Order), **more)


KNOWN = {
    "shop.order": noted("operation", secrets=("/password",), ttl_s=60.0, priority="high"),
    "shop.keyed": noted("operation", keyed=True),
    "shop.ordered": noted("operation", ordered=True),
    "shop.stop": notes.Described(service="shop"),
    "shop.heard": notes.Described(service="shop", request=msgspec.json.schema(Outcome[Order, str])),
    "shop.ordered_something": noted("event"),
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ringpost.toml").write_text('store = "sqlite:///shop.db"\nhttp = "127.0.0.1:1"\n')

    async def make(store: Store) -> None:
        for name, described in KNOWN.items():
            await store.note_put(Note(notes.operation(name), notes.encode(described)))

    with_store(tmp_path / "shop.db", make, create=True)
    return tmp_path / "shop.db"


def with_store(path: Path, use: Callable[[Store], Awaitable[T]], *, create: bool = False) -> T:
    async def work() -> T:
        store = SqliteStore(path, Settings())
        await store.open(create=create)
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(work())


def ran(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(ringpost, arguments, input=given)


def row(path: Path, id: str) -> Record:
    async def read(store: Store) -> Record:
        (record,) = await store.read([ids.parse(id)], bodies=True)
        assert record is not None
        return record

    return with_store(path, read)


def killed(
    path: Path, count: int = 1, queue: str = "shop.order", body: bytes = b'{"item":"x","password":"p4ss"}'
) -> None:
    async def kill(store: Store) -> None:
        headers = msgspec.json.encode(Envelope(operation=queue, sender="shop", trace="00-1-2-01"))
        await store.put([Message(new_id(), queue, body, headers=headers) for _ in range(count)])
        claimed = await store.claim({queue: count}, 1, 30.0)
        failure = Failure("ValueError", "no such item [red]", f"{HOSTILE}\nValueError: no such item", 1, 1, "host-1")
        await store.settle(
            [
                Settlement(delivery, State.DEAD, cause=Cause.HANDLER_ERROR, failure=failure)
                for delivery in claimed.deliveries
            ]
        )

    with_store(path, kill)


# --- send and publish into the store


def test_send_puts_what_fits_the_noted_schema(path: Path) -> None:
    result = ran("send", "shop.order", '{"item": "x"}')
    assert result.exit_code == 0, result.output
    record = row(path, result.stdout.strip())
    assert (record.queue, record.state, record.body) == ("shop.order", State.READY, b'{"item": "x"}')
    assert record.priority.name == "HIGH"
    assert record.expires_ms is not None
    assert "into sqlite:///" in result.stderr
    assert "(durable)" in result.stderr
    assert "@" in msgspec.json.decode(record.headers, type=Envelope).sender


def test_send_reads_a_request_from_a_file_or_standard_input(path: Path) -> None:
    (path.parent / "order.json").write_text('{"item": "file"}\n')
    by_file = ran("send", "shop.order", "@order.json")
    by_stdin = ran("send", "shop.order", "-", given='{"item": "stdin"}')
    assert row(path, by_file.stdout.strip()).body == b'{"item": "file"}'
    assert row(path, by_stdin.stdout.strip()).body == b'{"item": "stdin"}'


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ('{"item": 5}', "at /item: 5 is not of type 'string'"),
        ("{}", "at /item: this field is required and missing"),
        ('{"item": "x", "to": [{"street": "a"}, {"street": "b", "number": 0}]}', "at /to/1/number: 0 is less than"),
        ('{"item": "x", "to": [{}]}', "at /to/0/street: this field is required and missing"),
        ('{"item": "x", "password": 12345}', "at /password: it isn't what the schema says"),
        ("[]", "doesn't fit: [] is not of type 'object'"),
    ],
)
def test_what_doesnt_fit_is_refused_naming_the_field(path: Path, request_text: str, said: str) -> None:
    result = ran("send", "shop.order", request_text)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "12345" not in result.stderr
    assert json.loads(ran("queues", "--json", "--interval", "100ms").stdout) == []


def test_a_request_that_is_missing_is_described(path: Path) -> None:
    result = ran("send", "shop.order")
    assert result.exit_code == 2
    assert 'shop.order takes a request: {"item": string, "password": string' in result.stderr
    assert ran("send", "shop.stop").exit_code == 0
    assert "takes nothing" in ran("send", "shop.stop", "{}").stderr


def test_unknown_names_get_a_hint(path: Path) -> None:
    result = ran("send", "shop.odrer", "{}")
    assert result.exit_code == 2
    assert "Did you mean shop.order?" in result.stderr
    assert "shop.order is an operation. Use `ringpost send`." in ran("publish", "shop.order", '{"item": "x"}').stderr
    assert "is an event. Use `ringpost publish`." in ran("send", "shop.ordered_something", "{}").stderr
    assert "Did you mean shop.order?" in ran("send", "shop.order", '{"item": "x"}', "--reply-to", "shop.ordr").stderr


def test_a_known_operation_that_nobody_serves_is_called_in_vain(path: Path) -> None:
    result = ran("call", "shop.order", '{"item": "x"}')
    assert result.exit_code == 3
    assert "nobody serves shop.order now" in result.stderr


def test_options_of_a_message_are_kept(path: Path) -> None:
    arguments = ["--delay", "1h", "--ttl", "2h", "--key", "k", "--ordering-key", "line 1", "--priority", "low"]
    result = ran("send", "shop.order", '{"item": "x"}', *arguments, "--reply-to", "shop.heard", "--json")
    assert result.exit_code == 0, result.output
    receipt = json.loads(result.stdout)
    assert (receipt["level"], receipt["duplicate"]) == ("durable", False)
    record = row(path, receipt["id"])
    assert (record.state, record.priority.name, record.keep_s) == (State.SCHEDULED, "LOW", 7 * 86400)
    assert record.expires_ms is not None
    assert 3590 < (record.due_ms - record.created_ms) / 1000 < 3610
    assert 7190 < (record.expires_ms - record.created_ms) / 1000 < 7210
    envelope = msgspec.json.decode(record.headers, type=Envelope)
    assert (envelope.reply_to, envelope.key) == ("shop.heard", "line 1")
    again = json.loads(ran("send", "shop.order", '{"item": "x"}', *arguments, "--json").stdout)
    assert (again["id"], again["duplicate"]) == (receipt["id"], True)
    other = ran("send", "shop.order", '{"item": "y"}', "--key", "k")
    assert other.exit_code == 2
    assert "was used before with another request" in other.stderr


@pytest.mark.parametrize(("name", "option"), [("shop.keyed", "--key"), ("shop.ordered", "--ordering-key")])
def test_keys_that_only_the_contract_works_out_must_be_given(path: Path, name: str, option: str) -> None:
    result = ran("send", name, '{"item": "x"}')
    assert result.exit_code == 2
    assert f"give {option}" in result.stderr
    assert ran("send", name, '{"item": "x"}', option, "7").exit_code == 0


def test_publish_delivers_to_the_subscriptions_of_the_store(path: Path) -> None:
    async def subscribe(store: Store) -> None:
        name = notes.subscription("shop.ordered_something", "mail.on.shop.ordered_something")
        await store.note_put(Note(name, notes.encode(notes.Subscription("mail", 1, 1))))

    with_store(path, subscribe)
    first = json.loads(ran("publish", "shop.ordered_something", '{"item": "x"}', "--key", "1", "--json").stdout)
    again = json.loads(ran("publish", "shop.ordered_something", '{"item": "x"}', "--key", "1", "--json").stdout)
    assert (first["receivers"], first["duplicate"]) == (1, False)
    assert (again["id"], again["duplicate"]) == (first["id"], True)
    assert "at /item" in ran("publish", "shop.ordered_something", "{}").stderr
    shown = json.loads(ran("subscriptions", "list", "--json").stdout)
    assert [(row["event"], row["state"], row["waiting"]) for row in shown] == [("shop.ordered_something", "unseen", 1)]
    wrong = ran("subscriptions", "remove", "shop.ordered_something", "mail")
    assert wrong.exit_code == 2
    assert "There is shop.ordered_something mail.on.shop.ordered_something." in wrong.stderr
    gone = ran("subscriptions", "remove", "shop.ordered_something", "mail.on.shop.ordered_something")
    assert gone.exit_code == 0
    assert "1 that came before wait there still" in gone.stderr
    assert ran("subscriptions", "list").stdout == "Nobody subscribes to an event here.\n"


EVENT, LATE = "shop.ordered_something", "mail.on.shop.ordered_something"


def change_subscription(path: Path, change: Callable[[notes.Subscription], notes.Subscription]) -> None:
    async def work(store: Store) -> None:
        (note,) = await store.notes(notes.subscription(EVENT, LATE))
        await store.note_put(Note(note.name, notes.encode(change(notes.decode_subscription(note.value)))))

    with_store(path, work)


@pytest.fixture
def suspended(path: Path) -> Path:
    """A subscription that is suspended."""

    async def subscribe(store: Store) -> None:
        name = notes.subscription(EVENT, LATE)
        await store.note_put(Note(name, notes.encode(notes.Subscription("mail", 1, 1, suspended=True))))

    with_store(path, subscribe)
    return path


def publish(path: Path, *bodies: bytes, log_s: int) -> None:
    async def work(store: Store) -> None:
        await store.put([Message(new_id(), "", body, event=EVENT, log_s=log_s) for body in bodies])

    with_store(path, work)


def bodies(path: Path) -> list[bytes]:
    async def work(store: Store) -> list[bytes]:
        return [one.body for one in (await store.claim({LATE: 10}, 1, 30.0)).deliveries]

    return with_store(path, work)


def test_what_a_suspended_subscription_missed_is_refilled_in_order_and_before_what_comes(suspended: Path) -> None:
    publish(suspended, b"1", b"2", b"3", log_s=3600)
    assert "missed 3 since" in (shown := ran("subscriptions", "list").stdout) and "refill gives it" in shown
    early = ran("subscriptions", "refill", EVENT, LATE)
    assert early.exit_code == 0
    assert "its service isn't back yet" in early.stdout
    publish(suspended, b"4", log_s=3600)  # it waits for its place behind the others
    assert bodies(suspended) == []
    change_subscription(suspended, lambda one: msgspec.structs.replace(one, suspended=False))
    assert "catching up" in ran("subscriptions", "list").stdout
    told = json.loads(ran("subscriptions", "refill", EVENT, LATE, "--json").stdout)
    assert (told["given"], told["ends"]) == (4, True)
    assert bodies(suspended) == [b"1", b"2", b"3", b"4"]
    again = ran("subscriptions", "refill", EVENT, LATE)
    assert again.exit_code == 2
    assert "missed nothing" in again.stderr


def test_what_no_log_has_is_lost_and_that_is_said(suspended: Path) -> None:
    publish(suspended, b"1", log_s=0)
    assert ": lost" in ran("subscriptions", "list").stdout
    refused = ran("subscriptions", "refill", EVENT, LATE)
    assert refused.exit_code == 2
    assert "they are lost" in refused.stderr
    assert "doesn't subscribe" in ran("subscriptions", "refill", EVENT, "mail").stderr


# --- tickets


def test_a_ticket_is_read_from_the_store(path: Path) -> None:
    id = ran("send", "shop.order", '{"item": "x"}').stdout.strip()
    assert "state        accepted" in ran("ticket", id).stdout
    waited = ran("ticket", id, "--wait", "50ms")
    assert waited.exit_code == 3
    assert "it goes on" in waited.stderr
    assert json.loads(ran("ticket", id, "--cancel", "--json").stdout) == {"result": "cancelled"}
    ended = ran("ticket", id)
    assert ended.exit_code == 1
    assert "state        cancelled" in ended.stdout
    late = ran("ticket", id, "--cancel")
    assert late.exit_code == 1
    assert late.stdout == "too late: it has ended already\n"
    result = ran("ticket", id, "--result", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["code"] == "cancelled"


def test_an_unknown_ticket_says_so(path: Path) -> None:
    result = ran("ticket", ids.text(new_id()))
    assert result.exit_code == 1
    assert "There is no message" in result.stderr


# --- dead letters


def test_dead_letters_are_listed_shown_replayed_and_dropped(path: Path) -> None:
    assert ran("dead", "list").stdout == "No dead letters.\n"
    killed(path, 3)
    listed = ran("dead", "list")
    assert "handler_error" in listed.stdout
    assert "ValueError: no such item [red]" in listed.stdout
    rows = json.loads(ran("dead", "list", "--json", "--queue", "shop.order").stdout)
    assert [(row["cause"], row["error"]["type"]) for row in rows] == [("handler_error", "ValueError")] * 3
    assert "2 more: --limit 3" in ran("dead", "list", "--limit", "1").stderr
    first, second, third = (row["id"] for row in rows)

    replayed = ran("dead", "replay", first)
    assert (replayed.exit_code, replayed.stdout) == (0, "replayed 1 dead letter\n")
    assert (row(path, first).state, row(path, first).generation) == (State.READY, 2)
    dropped = ran("dead", "drop", second, "--json")
    assert json.loads(dropped.stdout) == {"dropped": [second], "missed": []}
    some = ran("dead", "replay", "--queue", "shop.order", "--all", "--rate", "1000")
    assert some.stdout == "replayed 1 dead letter\n"
    assert row(path, third).state is State.READY
    assert ran("dead", "list", "--queue", "shop.order").stdout == "No dead letters of shop.order.\n"


def test_a_shown_dead_letter_tells_everything_but_secrets(path: Path) -> None:
    killed(path)
    (found,) = json.loads(ran("dead", "list", "--json").stdout)
    shown = ran("dead", "show", found["id"])
    assert shown.exit_code == 0
    for part in (
        "handler_error",
        "sender       shop",
        "trace        00-1-2-01",
        '"password": "***"',
        "ValueError: no such",
    ):
        assert part in shown.stdout
    assert "p4ss" not in shown.stdout
    assert "\\x1b]0;owned" in shown.stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(shown.stdout), "nothing of a message may steer the terminal"
    letter = json.loads(ran("dead", "show", found["id"], "--json").stdout)
    assert letter["body"] == {"item": "x", "password": "***"}
    assert letter["errors"][0]["traceback"].endswith("ValueError: no such item")
    assert letter["replays"] == 0


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b'"text"', b"[1]", b'{"password": {"deep": 1}}'])
def test_a_poison_body_is_shown_all_the_same(path: Path, body: bytes) -> None:
    killed(path, body=body)
    (found,) = json.loads(ran("dead", "list", "--json").stdout)
    assert ran("dead", "show", found["id"]).exit_code == 0
    assert "deep" not in ran("dead", "show", found["id"]).stdout


def test_what_is_no_dead_letter_is_refused_and_nothing_else_is_changed(path: Path) -> None:
    killed(path)
    (found,) = json.loads(ran("dead", "list", "--json").stdout)
    alive = ran("send", "shop.order", '{"item": "x"}').stdout.strip()
    result = ran("dead", "replay", found["id"], alive)
    assert result.exit_code == 1
    assert f"{alive} is no dead letter: it is accepted" in result.stderr
    assert row(path, found["id"]).state is State.DEAD
    assert "`ringpost dead list` shows the dead ones" in ran("dead", "show", ids.text(new_id())).stderr
    assert ran("dead", "show", "poison").exit_code == 2
    assert (
        "there is no queue shop.odrer here. Did you mean shop.order?"
        in ran("dead", "list", "--queue", "shop.odrer").stderr
    )


def test_a_dead_letter_is_sent_again_with_changes(path: Path) -> None:
    killed(path)
    (found,) = json.loads(ran("dead", "list", "--json").stdout)
    wrong = ran("dead", "edit", found["id"], '{"item": 5}')
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "at /item: 5 is not of type 'string'" in wrong.stderr
    result = ran("dead", "edit", found["id"], '{"item": "y"}')
    assert result.exit_code == 0, result.output
    new = row(path, result.stdout.strip())
    assert (new.queue, new.state) == ("shop.order", State.READY)
    assert json.loads(new.body) == {"item": "y", "password": "p4ss"}
    assert "p4ss" not in result.output
    envelope = msgspec.json.decode(new.headers, type=Envelope)
    assert (envelope.causation_id, envelope.operation, envelope.sender) == (found["id"], "shop.order", "shop")
    assert row(path, found["id"]).state is State.DEAD, "it stays"

    again = ran("dead", "edit", found["id"], '{"item": "y"}', "--drop")
    assert again.stdout == result.stdout, "the same edit is the same message"
    assert "nothing was sent again" in again.stderr
    assert ran("dead", "show", found["id"]).exit_code == 1, "and now it is dropped"
    assert json.loads(ran("queues", "--json", "--interval", "100ms").stdout)[0]["ready"] == 1


def test_a_dry_run_says_what_would_not_be_read_and_replays_nothing(path: Path) -> None:
    killed(path, 2)
    assert ran("dead", "replay", "--all", "--dry-run").stdout == "shop.order: 2\n2 fit, 0 don't; nothing was replayed\n"
    killed(path, body=b'{"item": 5, "password": "p4ss"}')
    killed(path, queue="shop.unheard_of")
    killed(path, body=b"no JSON")
    result = ran("dead", "replay", "--all", "--dry-run")
    assert result.exit_code == 1
    assert "2 fit, 2 don't, 1 of which nobody noted what they must be; nothing was replayed" in result.stdout
    assert "at /item: it doesn't fit" in result.stdout
    assert "it is no JSON" in result.stdout
    assert "p4ss" not in result.stdout
    assert len(json.loads(ran("dead", "list", "--json").stdout)) == 5
    assert json.loads(ran("dead", "replay", "--all", "--dry-run", "--json").stdout)["unfit"] == 2


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": None, "e": 4}}, {"a": 1, "b": {"d": 3, "e": 4}}),
        ({"a": [1]}, {"a": [2, 3]}, {"a": [2, 3]}),
        ({"a": 1}, "text", "text"),
        ([1], {"a": 1}, {"a": 1}),
        ({}, {"a": {"b": None}}, {"a": {}}),
    ],
)
def test_a_merge_patch_does_what_the_standard_says(before: Any, patch: Any, after: Any) -> None:
    assert patched(before, patch) == after


def test_drop_all_needs_a_yes(path: Path) -> None:
    killed(path, 2)
    assert ran("dead", "drop", "--all").exit_code == 2
    assert ran("dead", "drop", "--queue", "shop.order", "--all", "--yes").stdout == "dropped 2 dead letters\n"


def test_masks_follow_pointers() -> None:
    value = {"a": {"b/c": "x", "d": "y"}, "list": [{"s": 1}, {"s": 2}]}
    assert masked(value, ["a", "b~1c"]) == {**value, "a": {"b/c": "***", "d": "y"}}
    assert masked(value, ["list", "*", "s"]) == {**value, "list": [{"s": "***"}, {"s": "***"}]}
    assert masked({"a": None}, ["a", "b"]) == {"a": None}
    assert masked({"a": "secret in the wrong place"}, ["a", "b"]) == {"a": "***"}


# --- queues and doctor


def test_queues_show_what_waits_without_consumer(path: Path) -> None:
    assert "No queue has ever had a message here" in ran("queues", "--interval", "100ms").stdout
    ran("send", "shop.order", '{"item": "x"}')

    async def pause(store: Store) -> None:
        await store.note_put(Note(notes.pause("shop.keyed"), notes.encode(notes.Pause("ada", 1, "a flood"))))
        await store.put([Message(new_id(), "shop.keyed", b"{}", line=line_id("shop", "k")) for _ in range(3)])

    with_store(path, pause)
    shown = {row["queue"]: row for row in json.loads(ran("queues", "--json", "--interval", "100ms").stdout)}
    assert (shown["shop.order"]["ready"], shown["shop.order"]["consumers"]) == (1, 0)
    assert shown["shop.order"]["oldest_s"] >= 0
    assert (shown["shop.keyed"]["ready"], shown["shop.keyed"]["waiting"]) == (1, 2)
    table = ran("queues", "--interval", "100ms").stdout
    assert "no consumer" in table
    assert "paused by ada: a flood" in table


def test_doctor_names_what_is_stuck_and_fails_on_nothing_that_isnt_broken(path: Path) -> None:
    killed(path)
    ran("send", "shop.order", '{"item": "x"}')
    result = ran("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert found["store"]["level"] == "ok"
    assert "level durable" in found["store"]["said"]
    assert found["queue"]["said"] == "shop.order: 1 wait and nobody takes them"
    assert found["dead letters"]["said"] == "shop.order 1"
    assert found["instances"]["level"] == "warn"
    path.chmod(0o644)
    rights = {finding["what"]: finding for finding in json.loads(ran("doctor", "--json").stdout)}["rights"]
    assert (rights["level"], rights["to_do"]) == ("warn", f"chmod 600 {path}")
