"""Type checkers see the blocking classes: what the asynchronous ones await, these give."""

from pathlib import Path

import pytest
from mypy import api

RIGHT = """
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_type
from ringpost import Contract, Operation
from ringpost.blocking import Client, Context, Receipt, Ticket
from ringpost.contract.outcome import Outcome

@dataclass
class Word:
    text: str

class Talking(Contract):
    say = Operation(Word, str)

def use(client: Client, ctx: Context) -> None:
    assert_type(client.call(Talking.say, Word("a"), timeout=2), str)
    ticket = client.send(Talking.say, Word("a"), delay=1)
    assert_type(ticket, Ticket[str])
    assert_type(ticket.result(timeout=60), str)
    assert_type(client.call_or_send(Talking.say, Word("a"), wait=2), str | Ticket[str])
    assert_type(client.call_all(Talking.say, [Word("a")]), list[str])
    assert_type(client.call_each(Talking.say, [Word("a")]), Iterator[Outcome[Word, str]])
    assert_type(ctx.send(Talking.say, Word("a")), Receipt)
    assert_type(ctx.now.send(Talking.say, Word("a"), idempotency_key="k"), Receipt)
    with Client(store="memory:") as opened:
        assert_type(opened, Client)
"""
WRONG = {
    'client.call(Talking.say, {"text": "a"})': "arg-type",
    'client.send(Talking.say, Word("a"), timeout=2)': "call-arg",
    'client.call(Talking.say, Word("a")).append(1)': "attr-defined",
}


def checked(folder: Path, text: str) -> tuple[str, int]:
    file = folder / "uses.py"
    file.write_text(text)
    said, _, code = api.run(["--strict", "--no-error-summary", str(file)])
    return said, code


def test_right_uses_pass(tmp_path: Path) -> None:
    said, code = checked(tmp_path, RIGHT)
    assert code == 0, said


@pytest.mark.parametrize("use", WRONG)
def test_wrong_uses_are_refused(tmp_path: Path, use: str) -> None:
    said, code = checked(tmp_path, f"{RIGHT}\n\ndef wrong(client: Client) -> None:\n    {use}\n")
    assert code == 1
    assert WRONG[use] in said, said
