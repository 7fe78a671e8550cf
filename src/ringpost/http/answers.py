"""Responses that the door gives of itself, without a handler."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ringpost.contract.errors import InvalidRequest
from ringpost.core.outcome import RETRY_AFTER_S, problem_answer
from ringpost.http.asked import WrongMediaType
from ringpost.http.framing import Refused
from ringpost.wire.cloudevents import WrongForm
from ringpost.wire.headers import BadHeader
from ringpost.wire.http import Request, Response
from ringpost.wire.problem import answer_of, response_of

Headers = tuple[tuple[str, str], ...]

_UNAVAILABLE: Final = 503
_encode = msgspec.json.Encoder().encode


def refusal(refused: Refused) -> Response:
    """Say no in the form of RFC 9457; certainly no handler ran."""
    after_s = RETRY_AFTER_S if refused.status == _UNAVAILABLE else None
    return response_of(
        problem_answer(refused.code, refused.detail, status=refused.status, retry_after_s=after_s, processed=False)
    )


CLIENTS_FAULTS: Final = (InvalidRequest, BadHeader, WrongMediaType, WrongForm)


def failure(error: Exception) -> Response:
    """Say what an error means to who asked, without internals."""
    if isinstance(error, WrongMediaType | WrongForm):
        return refusal(Refused(415, "unsupported_media_type", str(error)))
    return response_of(answer_of(error))


def not_allowed(request: Request, methods: Sequence[str]) -> Response:
    """Say which methods a path takes."""
    allow = ("Allow", ", ".join(methods))
    if request.method == "OPTIONS":
        return Response(204, headers=(allow,))
    answer = problem_answer("method_not_allowed", f"This path takes {allow[1]}.", processed=False)
    return response_of(answer, (allow,))


def json(status: int, value: Any, headers: Headers = ()) -> Response:
    """Answer with a JSON value."""
    return Response(status, _encode(value), headers)


def unix_ms() -> int:
    """Read the wall clock."""
    return time.time_ns() // 1_000_000


def utc(at_ms: int) -> str:
    """Give Unix milliseconds as an RFC 3339 instant in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
