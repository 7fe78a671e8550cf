"""The exit code of an answer: a service that is closed is nobody who answers, not a no."""

import msgspec
import pytest

from ringpost.cli.said import code_of
from ringpost.core.message import Answer
from ringpost.core.outcome import problem_answer


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("maintenance", 3),
        ("unavailable", 3),
        ("overloaded", 3),
        ("invalid", 2),
        ("store_full", 4),
        ("handler_error", 1),
    ],
)
def test_exit_codes_of_our_own_problems(code: str, expected: int) -> None:
    assert code_of(problem_answer(code, "", operation="a.b")) == expected


def test_others() -> None:
    assert code_of(Answer(200, b"1")) == 0
    assert code_of(Answer(409, msgspec.json.encode({"type": "urn:x", "code": "maintenance"}))) == 1
