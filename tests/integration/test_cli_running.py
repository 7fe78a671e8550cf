"""The command line against services that really run: one process, real HTTP, one SQLite file."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ringpost.cli.main import ringpost

sys.path.insert(0, str(Path(__file__).parent))
from cli_town import SERVICES, Town, environment, ran, url_of, wait_until_ready, watching


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    names = ("services:accounts", "services:jobs", "services:analytics")
    town = Town(tmp_path_factory.mktemp("town"), *names, "--http", "127.0.0.1:0")
    try:
        wait_until_ready(town)
        yield town
    finally:
        assert town.stop() == 0, town.heard


@pytest.fixture
def here(town: Town, monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.chdir(town.folder)
    return town


@pytest.fixture
def outside(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A folder that knows of the door alone."""
    (tmp_path / "ringpost.toml").write_text(f'http = "{url_of(town).removeprefix("http://")}"\n')
    monkeypatch.chdir(tmp_path)
    return town


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(ringpost, arguments)


def new_user(email: str) -> str:
    return json.dumps({"email": email})


# --- call


def test_call_prints_the_reply_and_a_problem_is_exit_code_1(here: Town) -> None:
    first = cli("call", "accounts.register", new_user("ada@example.com"))
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["email"] == "ada@example.com"
    again = cli("call", "accounts.register", new_user("ada@example.com"))
    assert again.exit_code == 1
    assert again.stdout == ""
    assert again.stderr == (
        "ringpost: accounts.register said no: This email is already registered"
        ' (409 email_taken; email: "ada@example.com")\n'
    )
    for_machines = cli("call", "accounts.register", new_user("ada@example.com"), "--json")
    assert json.loads(for_machines.stdout)["code"] == "email_taken"


def test_call_of_what_doesnt_fit_names_the_field(here: Town) -> None:
    result = cli("call", "accounts.register", '{"email": 5}')
    assert result.exit_code == 2
    assert "doesn't fit NewUser at /email" in result.stderr


def test_call_of_an_unknown_operation_gives_a_hint(here: Town) -> None:
    result = cli("call", "accounts.regster", "{}")
    assert result.exit_code == 2
    assert "Did you mean accounts.register?" in result.stderr


def test_call_that_takes_too_long_is_exit_code_3(here: Town) -> None:
    result = cli("call", "jobs.count", "1000", "--timeout", "200ms")
    assert result.exit_code == 3
    assert "jobs.count: The time was over" in result.stderr


def test_call_with_a_key_gives_the_stored_answer(here: Town) -> None:
    first = cli("call", "accounts.register", new_user("keyed@example.com"), "--key", "one")
    again = cli("call", "accounts.register", new_user("keyed@example.com"), "--key", "one")
    assert (again.exit_code, again.stdout) == (0, first.stdout)


def test_a_call_whose_operation_answers_nothing_says_so_beside_its_output(here: Town) -> None:
    cli("call", "jobs.poison", new_user("void@example.com"))
    result = cli("call", "jobs.poison", new_user("void@example.com"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "jobs.poison is done; it answers nothing.\n"
    failed = cli("call", "jobs.poison", new_user("fails@example.com"))
    assert failed.exit_code == 1
    assert "can't stomach" not in failed.output, "internals of a handler are not for callers"


def test_call_finds_the_door_by_address_and_by_configuration(outside: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("call", "jobs.once", '"a"').stdout == '"A"\n'
    unknown = cli("call", "jobs.twice", '"a"')
    assert unknown.exit_code == 3
    assert "does not serve it" in unknown.stderr
    monkeypatch.setenv("RINGPOST_HTTP", "127.0.0.1:1")
    assert cli("call", "jobs.once", '"a"').exit_code == 3
    monkeypatch.setenv("RINGPOST_ADDRESSES", f"jobs={url_of(outside)}")
    assert cli("call", "jobs.once", '"a"').stdout == '"A"\n'


def test_a_door_on_another_store_is_not_taken_for_ours(
    outside: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    assert cli("init", str(mine)).exit_code == 0
    monkeypatch.chdir(mine)
    monkeypatch.setenv("RINGPOST_HTTP", url_of(outside).removeprefix("http://"))
    result = cli("call", "jobs.once", '"a"')
    assert result.exit_code == 3
    assert "is on another store" in result.stderr


# --- send, publish, ticket


def test_send_prints_the_ticket_alone_and_the_ticket_its_result(here: Town) -> None:
    sent = cli("send", "jobs.once", '"abc"')
    assert sent.exit_code == 0, sent.output
    assert re.fullmatch(r"[0-9a-f-]{36}\n", sent.stdout)
    assert f"through {url_of(here)} (durable)" in sent.stderr
    id = sent.stdout.strip()
    result = cli("ticket", id, "--wait", "10s", "--result")
    assert (result.exit_code, result.stdout) == (0, '"ABC"\n')
    assert json.loads(cli("ticket", id, "--json").stdout)["state"] == "succeeded"
    assert "state        succeeded" in cli("ticket", id).stdout


def test_send_and_watch_shows_progress_and_then_the_answer(outside: Town) -> None:
    result = cli("send", "jobs.count", "60", "--watch")
    assert (result.exit_code, result.stdout) == (0, '"counted to 60"\n')
    assert "running" in result.stderr
    assert "of 60" in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("succeeded")


def test_watch_for_machines_is_lines_of_json(here: Town) -> None:
    result = cli("send", "jobs.once", '"x"', "--watch", "--json")
    *monitors, last = (json.loads(line) for line in result.stdout.splitlines())
    assert monitors[-1]["state"] == "succeeded"
    assert (last["status"], last["answer"]) == (200, "X")


def test_a_problem_of_a_message_is_exit_code_1(here: Town) -> None:
    cli("call", "accounts.register", new_user("twice@example.com"))
    result = cli("send", "accounts.register", new_user("twice@example.com"), "--watch")
    assert result.exit_code == 1
    assert "said no: This email is already registered" in result.stderr


@pytest.mark.parametrize("place", ["here", "outside"])
def test_a_ticket_is_watched_and_cancelled(place: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(place)
    id = cli("send", "jobs.hang").stdout.strip()
    shown = cli("ticket", id)
    assert shown.exit_code == 0, shown.output
    assert "jobs.hang" in shown.stdout
    cancelled = cli("ticket", id, "--cancel")
    assert cancelled.exit_code == 0, cancelled.output
    watched = cli("ticket", id, "--watch")
    assert watched.exit_code == 1
    assert "jobs.hang: It was cancelled." in watched.stderr
    assert cli("ticket", id, "--cancel").exit_code == 1


def test_an_unknown_ticket_is_unknown_at_every_door(outside: Town) -> None:
    result = cli("ticket", "01a205a1-ee60-74a2-a575-523908deee40")
    assert result.exit_code == 1
    assert "doesn't know it" in result.stderr


def test_send_of_what_doesnt_fit_is_refused_by_the_door(outside: Town) -> None:
    result = cli("send", "accounts.register", '{"email": []}')
    assert result.exit_code == 2
    assert "at /email" in result.stderr


def test_publish_reaches_the_subscribers(here: Town) -> None:
    result = cli("publish", "accounts.registered", '{"id": "7", "email": "seven@example.com"}')
    assert result.exit_code == 0, result.output
    assert "1 subscription" in result.stderr
    here.until("seen seven@example.com")
    again = [cli("publish", "accounts.registered", '{"id": "8", "email": "e"}', "--key", "8", "--json") for _ in "12"]
    assert [json.loads(one.stdout)["duplicate"] for one in again] == [False, True]
    wrong = cli("publish", "accounts.registered", '{"id": 7}')
    assert wrong.exit_code == 2
    assert "at /id" in wrong.stderr


def test_a_delayed_message_goes_into_the_store(here: Town) -> None:
    id = cli("send", "jobs.once", '"later"', "--delay", "1h").stdout.strip()
    assert "state        accepted" in cli("ticket", id).stdout
    assert cli("ticket", id, "--cancel").stdout == "cancelled; nobody had begun it\n"
    soon = cli("send", "jobs.once", '"soon"', "--delay", "50ms", "--watch")
    assert (soon.exit_code, soon.stdout) == (0, '"SOON"\n')


def test_an_outcome_goes_to_who_can_read_it(here: Town) -> None:
    assert cli("send", "jobs.once", '"told"', "--reply-to", "jobs.heard").exit_code == 0
    here.until("heard TOLD")
    for taker, why in {
        "jobs.count": "jobs.count can't take the outcome of jobs.once",
        "accounts.register": "Operation(Outcome[…])",
        "accounts.registered": "accounts.registered is an event",
        "jobs.nothing": "jobs.nothing",
    }.items():
        refused = cli("send", "jobs.once", '"untold"', "--reply-to", taker)
        assert refused.exit_code == 2, refused.output
        assert why in refused.stderr
    other = cli("send", "jobs.count", "1", "--reply-to", "jobs.heard")
    assert "at /request" in other.stderr


# --- dead letters, queues, subscriptions, doctor


def test_a_poison_message_is_shown_and_replayed(here: Town) -> None:
    request = json.dumps({"email": "poison@example.com", "password": "p4ss"})
    sent = cli("send", "jobs.poison", request, "--json")
    id = json.loads(sent.stdout)["id"]
    failed = cli("ticket", id, "--wait", "10s")
    assert failed.exit_code == 1
    assert "(handler_error)" in failed.stdout
    assert id in cli("dead", "list", "--queue", "jobs.poison").stdout
    shown = cli("dead", "show", id)
    assert "ValueError: can't stomach poison@example.com" in shown.stdout
    assert "Traceback" in shown.stdout
    assert "p4ss" not in shown.stdout
    assert cli("dead", "replay", id).stdout == "replayed 1 dead letter\n"
    healed = cli("ticket", id, "--wait", "10s", "--json")
    assert healed.exit_code == 0, healed.output
    assert (json.loads(healed.stdout)["state"], json.loads(healed.stdout)["generation"]) == ("succeeded", 2)


def test_queues_count_consumers(here: Town) -> None:
    rows = {row["queue"]: row for row in json.loads(cli("queues", "--json", "--interval", "100ms").stdout)}
    assert rows["jobs.once"]["consumers"] == 1
    assert rows["analytics.on.accounts.registered"]["consumers"] == 1
    assert "no consumer" not in cli("queues", "--interval", "100ms").stdout


def test_queues_watch_goes_on_until_interrupted(here: Town) -> None:
    with watching(here.folder, "queues", "--watch", "--interval", "200ms", "--json") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("[")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130


def test_a_subscription_of_a_live_service_is_not_removed_by_mistake(here: Town) -> None:
    queue = "analytics.on.accounts.registered"
    (row,) = json.loads(cli("subscriptions", "list", "--json").stdout)
    assert (row["queue"], row["service"], row["state"]) == (queue, "analytics", "live")
    refused = cli("subscriptions", "remove", "accounts.registered", queue)
    assert refused.exit_code == 2
    assert "is running (pid" in refused.stderr


def test_doctor_finds_all_well(here: Town) -> None:
    result = cli("doctor")
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.stdout
    assert f"is ready at {url_of(here)}" in result.stdout


# --- run


def test_the_project_that_init_makes_runs(tmp_path: Path) -> None:
    made = ran(tmp_path, "init", "shop")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "shop"
    town = Town(
        folder,
        "services:accounts",
        "services:mail",
        "--http",
        "127.0.0.1:0",
        services=(folder / "services.py").read_text(),
        toml=(folder / "ringpost.toml").read_text(),
    )
    try:
        wait_until_ready(town)
        commands = [line.strip() for line in made.stdout.splitlines() if line.startswith("  ringpost ")]
        called = next(line for line in commands if " call " in line)
        sent = next(line for line in commands if " send " in line)
        for command in (called, sent):
            done = subprocess.run(
                f"{sys.executable} -m {command}",
                shell=True,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=30,
                env={**environment(), "RINGPOST_HTTP": url_of(town).removeprefix("http://")},
            )
            assert done.returncode == 0, done.stderr
        town.until("Dear ada@example.com, welcome!")
        town.until("Dear bob@example.com, welcome!")
    finally:
        assert town.stop() == 0


def test_two_workers_share_a_door_and_what_was_sent_before_them_is_done(tmp_path: Path) -> None:
    first = Town(tmp_path / "t", "services:jobs", "--http", "none")
    try:
        first.until("working without a door")
        id = ""
        while not id:  # until the operation is noted
            id = first.ran("send", "jobs.once", '"first"').stdout.strip()
        assert first.ran("ticket", id, "--wait", "20s", "--result").stdout == '"FIRST"\n'
        rows = json.loads(first.ran("queues", "--json", "--interval", "100ms").stdout)
        assert {row["queue"]: row["consumers"] for row in rows}["jobs.once"] == 1
        assert "works without a door" in first.ran("doctor").stdout
    finally:
        assert first.stop() == 0
    id = first.ran("send", "jobs.once", '"second"').stdout.strip()
    assert first.ran("call", "jobs.once", '"x"').returncode == 3
    town = Town(tmp_path / "t", "services:jobs", "--http", "127.0.0.1:0", "--workers", "2")
    try:
        wait_until_ready(town)
        assert town.ran("ticket", id, "--wait", "20s", "--result").stdout == '"SECOND"\n'
        rows = json.loads(town.ran("queues", "--json", "--interval", "100ms").stdout)
        assert {row["queue"]: row["consumers"] for row in rows}["jobs.once"] == 2
        assert f"pid {town.process.pid} on {socket.gethostname()}, 2 processes" in town.ran("doctor").stdout
    finally:
        assert town.stop() == 0, town.heard


def test_reload_serves_the_new_code(tmp_path: Path) -> None:
    town = Town(tmp_path / "t", "services:jobs", "--http", "127.0.0.1:0", "--reload")
    try:
        wait_until_ready(town)
        (town.folder / "services.py").write_text(SERVICES.replace("text.upper()", "text.title()"))
        address = f"jobs={url_of(town)}"
        answers: set[str] = set()
        for _ in range(60):
            answers.add(town.ran("call", "jobs.once", '"abc"', RINGPOST_ADDRESSES=address).stdout)
            if '"Abc"\n' in answers:
                break
        assert '"Abc"\n' in answers, town.heard
    finally:
        assert town.stop() == 0, town.heard


def test_a_lost_tail_is_opened_with_accept_loss_alone(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "ringpost.toml").write_text('store = "sqlite:///town.db"\n')
    assert ran(folder, "init").returncode == 0
    (folder / "town.db.mark").write_bytes((41).to_bytes(8, "big"))
    (folder / "services.py").write_text(SERVICES)
    refused = ran(folder, "run", "services:jobs", "--http", "none")
    assert refused.returncode == 4
    assert "accept-loss" in refused.stderr
    checked = ran(folder, "doctor")
    assert checked.returncode == 1
    assert "accept-loss" in checked.stdout
    town = Town(folder, "services:jobs", "--http", "127.0.0.1:0", "--accept-loss")
    try:
        wait_until_ready(town)
        assert town.ran("send", "jobs.once", '"a"', "--delay", "1ms", "--watch").stdout == '"A"\n'
    finally:
        assert town.stop() == 0


def test_an_interrupted_watch_says_that_it_goes_on(town: Town) -> None:
    with watching(town.folder, "send", "jobs.hang", "--watch") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("sent jobs.hang as ")
        assert process.stderr.readline()  # it is being watched
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
    assert "Traceback" not in said
    found = re.search(r"it goes on; look again with: ringpost ticket (\S+) --watch", said)
    assert found is not None, said
    assert town.ran("ticket", found[1], "--cancel").returncode == 0


def test_a_taken_port_is_exit_code_2(town: Town) -> None:
    done = town.ran("run", "services:jobs", "--http", url_of(town).removeprefix("http://"))
    assert done.returncode == 2
    assert "is taken: another process listens there" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
