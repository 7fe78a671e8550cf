"""`ringpost contract` and `ringpost check`: for CI, before new code goes live."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ringpost.cli.main import ringpost
from ringpost.client.posting import new_id
from ringpost.core import notes
from ringpost.core.message import Cause, Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.port import Note
from ringpost.store.sqlite.store import SqliteStore

CODE = """
from dataclasses import dataclass
from typing import Annotated
from ringpost import Contract, Operation, Secret, Service

@dataclass
class User:
    email: str
    password: Secret
    {field}

class Accounts(Contract, name="accounts"):
    register = Operation(User)
    hello = Operation(str)

accounts = Service(Accounts)

@accounts.implements(Accounts.register)
async def register(user: User) -> None: ...

@accounts.implements(Accounts.hello)
async def hello(name: str) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ringpost.toml").write_text('store = "sqlite:///shop.db"\n')
    for name, field in (("compat_old", ""), ("compat_new", "name: str"), ("compat_wider", 'name: str = ""')):
        (tmp_path / f"{name}.py").write_text(CODE.replace("{field}", field))
    return tmp_path


def ran(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(ringpost, arguments, input=given)


def fill(path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(path, Settings())
        await store.open(create=True)
        try:
            await store.note_put(Note(notes.queue("accounts.gone"), notes.encode(notes.Queue("accounts"))))
            body = b'{"email": "ada@example.com", "password": "p4ss"}'
            await store.put(
                [
                    *(Message(new_id(), "accounts.register", body) for _ in range(4)),
                    Message(new_id(), "accounts.register", body, delay_s=3600),
                    Message(new_id(), "accounts.hello", b'"ada"'),
                    Message(new_id(), "accounts.gone", b"1"),
                    Message(new_id(), "mail.welcome", b"1"),
                ]
            )
            claimed = await store.claim({"accounts.register": 2}, 1, 30.0)
            dead, done = claimed.deliveries
            await store.settle(
                [Settlement(dead, State.DEAD, cause=Cause.HANDLER_ERROR), Settlement(done, State.SUCCEEDED)]
            )
        finally:
            await store.close()

    asyncio.run(work())


def test_diff_tells_compatible_from_breaking_by_its_exit_code(folder: Path) -> None:
    assert ran("contract", "export", "compat_old:Accounts", "--out", "old.json").exit_code == 0
    same = ran("contract", "diff", "old.json", "compat_old:Accounts")
    assert (same.exit_code, same.stdout) == (0, "compatible\n")
    assert ran("contract", "diff", "old.json", "compat_wider:Accounts").exit_code == 0
    broken = ran("contract", "diff", "-", "compat_new:Accounts", given=(folder / "old.json").read_text())
    assert broken.exit_code == 1
    assert "accounts.register request at /name: it isn't written, and must be there to be read." in broken.stdout
    found = json.loads(ran("contract", "diff", "old.json", "compat_new:Accounts", "--json").stdout)
    assert found["compatible"] is False
    assert found["findings"][0]["who"] == "old callers and waiting messages"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.json", "can't be read: No such file"),
        ("compat_old:User", "is no Contract; it has compat_old:Accounts"),
        ("compat_old:Nobody", "is missing; it has compat_old:Accounts"),
        ("no_such_module:X", "there is no module 'no_such_module'"),
        ("ringpost.toml", "is no document of a contract"),
    ],
)
def test_what_is_no_contract_is_said_in_a_line(folder: Path, target: str, said: str) -> None:
    result = ran("contract", "diff", target, "compat_old:Accounts")
    assert result.exit_code == 2
    assert said in result.stderr


def test_check_finds_what_new_code_cannot_read_and_hides_secrets(folder: Path) -> None:
    fill(folder / "shop.db")
    found = ran("check", "compat_new:accounts", "--json")
    assert found.exit_code == 1
    queues = {one["queue"]: one for one in json.loads(found.stdout)}
    register = queues["accounts.register"]
    assert (register["messages"], register["unreadable"], len(register["examples"])) == (4, 4, 3)
    assert (queues["accounts.hello"]["messages"], queues["accounts.hello"]["unreadable"]) == (1, 0)
    assert queues["accounts.gone"]["lost"] is True
    assert "mail.welcome" not in queues
    assert "p4ss" not in found.stdout
    for_people = ran("check", "compat_new:accounts")
    assert "accounts.register: 4 messages, 4 can't be read" in for_people.stdout
    assert "accounts.gone: 1 messages, and nothing in this code handles them" in for_people.stdout
    assert "p4ss" not in for_people.stdout


def test_check_is_content_with_code_that_reads_all(folder: Path) -> None:
    fill(folder / "shop.db")
    (folder / "compat_more.py").write_text(
        (folder / "compat_wider.py").read_text()
        + "\nclass More(Contract, name='accounts'):\n    gone = Operation(int)\n"
        + "\nmore = Service(More, name='accounts')\n"
        + "\n@more.implements(More.gone)\nasync def gone(number: int) -> None: ...\n"
    )
    result = ran("check", "compat_wider:accounts", "compat_more:more")
    assert result.exit_code == 0, result.output
    assert "accounts.register: 4 messages, all fit" in result.stdout
