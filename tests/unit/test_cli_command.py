"""The command as a whole: what it loads, what it says to what is wrong, its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ringpost.cli.main import COMMANDS, LazyGroup, ringpost

HEAVY = ("apsw", "httptools", "uvloop", "rich", "jsonschema", "cronsim", "asyncio")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE", "HTTP", "ADDRESSES"):
        monkeypatch.delenv(f"RINGPOST_{name}", raising=False)
    monkeypatch.setenv("RINGPOST_HTTP", "127.0.0.1:1")  # nothing listens there
    return tmp_path


def ran(*arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(ringpost, arguments, input=given)


def test_help_loads_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from ringpost.cli.main import ringpost;"
        "result = CliRunner().invoke(ringpost, ['--help']); assert result.exit_code == 0, result.output;"
        f"print([m for m in {HEAVY!r} if m in sys.modules]"
        " + [m for m in sys.modules if m.startswith(('ringpost.store', 'ringpost.http'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    result = ran("--help")
    assert result.exit_code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"{name} " in result.output
        assert text in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    assert isinstance(ringpost, LazyGroup)
    if name in ("contract", "dead", "outbox", "subscriptions"):
        group = ringpost.get_command(None, name)  # type: ignore[arg-type]
        paths = [(name, sub) for sub in group.commands]  # type: ignore[union-attr]
    else:
        paths = [(name,)]
    for path in paths:
        result = ran(*path, "--help")
        assert result.exit_code == 0, result.output
        assert f"Example:\n    ringpost {' '.join(path)}" in result.output.replace("Examples:", "Example:"), path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["call"], "Missing argument 'NAME'. See ringpost call --help."),
        (["call", "accounts.register", "--wings"], "No such option '--wings'"),
        (["call", "register"], "'register' is no operation: names are contract.operation, as in accounts.register."),
        (["call", "a.b", '{"email'], "the request is no JSON"),
        (["call", "a.b", "@nothing.json"], "nothing.json can't be read: No such file or directory."),
        (["call", "a.b", "{}", "--timeout", "soon"], "'soon' is no length of time; write 90, 500ms, 10s, 5m, 2h or 3d"),
        (["call", "a.b", "{}", "--key", "ü"], "--key must be 1 to 255 printable ASCII characters"),
        (["send", "a.b", "--delay", "2026-12-24T18:00:00"], "is no time; write 10m"),
        (["ticket", "x"], "'x' is no message id"),
        (["ticket", "0" * 32, "--cancel", "--watch"], "--cancel goes alone"),
        (["dead", "replay"], "say which: ringpost dead replay ID, or --queue Q --all."),
        (["dead", "drop", "--queue", "a.b"], "say which: ringpost dead drop --queue a.b --all."),
        (["dead", "drop", "--all"], "dropping them all can't be undone: add --yes."),
        (["queues", "--store", "elsewhere"], 'takes a URL such as "sqlite:///ringpost.db"'),
        (["run", "accounts"], "'accounts' names no service; write module:attribute"),
        (["run", "not_there:accounts"], "there is no module 'not_there' here or on the Python path"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(folder: Path, arguments: list[str], said: str) -> None:
    result = ran(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.startswith("ringpost: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_deep_json_is_refused_before_anything_reads_it(folder: Path) -> None:
    result = ran("call", "a.b", "[" * 100_000)
    assert result.exit_code == 2
    assert "nests deeper than 64" in result.stderr


@pytest.mark.parametrize("command", [["queues"], ["dead", "list"], ["subscriptions", "list"]])
def test_without_a_store_the_exit_code_is_4(folder: Path, command: list[str]) -> None:
    result = ran(*command)
    assert result.exit_code == 4
    assert "no store is configured: run this where ringpost.toml is" in result.stderr
    result = ran(*command, "--store", "sqlite:///none.db")
    assert result.exit_code == 4
    assert f"there is no store at {folder / 'none.db'}" in result.stderr
    assert not (folder / "none.db").exists()
    result = ran(*command, "--store", "memory:")
    assert result.exit_code == 4
    assert "lives inside the process" in result.stderr


@pytest.mark.parametrize("verb", ["call", "send"])
def test_without_door_or_store_nobody_serves(folder: Path, verb: str) -> None:
    result = ran(verb, "accounts.register", "{}")
    assert result.exit_code == 3
    assert "nobody serves accounts.register now (Can't reach http://127.0.0.1:1" in result.stderr
    assert "`ringpost run MODULE:SERVICE`" in result.stderr
    assert "RINGPOST_ADDRESSES=accounts=https://" in result.stderr


def test_a_named_store_that_is_missing_is_an_error_of_the_verbs_too(folder: Path) -> None:
    result = ran("call", "accounts.register", "{}", "--store", "sqlite:///none.db")
    assert result.exit_code == 4
    assert "there is no store at" in result.stderr


def test_a_delay_needs_a_store(folder: Path) -> None:
    result = ran("send", "accounts.register", "{}", "--delay", "1m")
    assert result.exit_code == 2
    assert "--delay needs the store" in result.stderr


def test_run_names_the_services_that_a_module_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "town_of_cli.py").write_text("from ringpost import Service\nmail = Service(name='mail')\nother = 3\n")
    monkeypatch.syspath_prepend(str(folder))
    result = ran("run", "town_of_cli:post", "--http", "none")
    assert (result.exit_code, result.stderr) == (
        2,
        "ringpost: town_of_cli:post is missing; it has town_of_cli:mail.\n",
    )
    result = ran("run", "town_of_cli:other", "--http", "none")
    assert result.stderr == "ringpost: town_of_cli:other is not a Service; it has town_of_cli:mail.\n"


def test_doctor_without_anything_warns_and_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGPOST_HTTP")
    monkeypatch.setenv("RINGPOST_ADDRESSES", "billing=http://127.0.0.1:1")
    result = ran("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert found["python"]["level"] == found["libraries"]["level"] == "ok"
    assert found["store"]["level"] == "warn"
    assert found["address"]["level"] == "warn"
    assert all(finding["to_do"] for finding in found.values() if finding["level"] != "ok")


def test_doctor_fails_on_a_configuration_that_cant_be_read(folder: Path) -> None:
    (folder / "ringpost.toml").write_text('stor = "sqlite:///a.db"\n')
    result = ran("doctor")
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert "Did you mean store?" in result.stdout
    assert "→" in result.stdout


def test_doctor_fails_on_a_store_that_isnt_one(folder: Path) -> None:
    (folder / "ringpost.toml").write_text('store = "sqlite:///a.db"\n')
    (folder / "a.db").write_text("these are not the bytes of a database, however many there may be of them" * 20)
    result = ran("doctor")
    assert result.exit_code == 1
    assert "is not a SQLite database" in result.stdout.replace("\n", " ")


def test_init_makes_a_project_and_its_store_and_overwrites_nothing(folder: Path) -> None:
    result = ran("init", "shop")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (folder / "shop").iterdir()} >= {
        "ringpost.toml",
        "contracts.py",
        "services.py",
        "ringpost.db",
    }
    assert "ringpost run services:accounts services:mail" in result.stdout
    (folder / "shop" / "services.py").write_text("mine")
    again = ran("init", "shop")
    assert again.exit_code == 0
    assert (folder / "shop" / "services.py").read_text() == "mine"
    (folder / "other").mkdir()
    (folder / "other" / "contracts.py").write_text("mine")
    refused = ran("init", "other")
    assert refused.exit_code == 2
    assert "contracts.py in other would be overwritten" in refused.stderr
    assert not (folder / "other" / "ringpost.toml").exists()


def test_init_says_that_another_store_is_not_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGPOST_STORE", "postgresql://shop:secret@127.0.0.1:1/shop")
    for _ in ("made", "there already"):
        told = ran("init", "shop")
        assert (told.exit_code, told.stdout.count(f"the store is sqlite:///{folder}/shop/ringpost.db")) == (0, 1)
        assert "RINGPOST_STORE names another store, which was not made: write it into shop/ringpost" in told.stderr
        assert "secret" not in told.output
    monkeypatch.setenv("RINGPOST_STORE", "sqlite:///ringpost.db")
    assert ran("init", "shop").stderr == ""
