"""Responses that the door gives of itself, without a handler: problems, JSON, refusals off the wire."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ringpost.http.framing import Refused
from ringpost.wire.http import Response

PROBLEM = "application/problem+json"
_NOT_PROCESSED = ("Ringpost-Processed", "no")
_encode = msgspec.json.Encoder().encode


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    members: dict[str, Any] | None = None,
    retry_after_s: int | None = None,
) -> Response:
    """Say no in the form of RFC 9457; certainly no handler ran."""
    body = {"type": f"urn:ringpost:problem:{code}", "title": HTTPStatus(status).phrase, "status": status, "code": code}
    body["detail"] = detail
    body.update(members or {})
    extra = [_NOT_PROCESSED, *headers]
    if retry_after_s is not None:
        extra.append(("Retry-After", str(retry_after_s)))
    return Response(status, _encode(body), tuple(extra), PROBLEM)


def refusal(refused: Refused) -> Response:
    """Answer what is no request that we take, and close."""
    response = problem(refused.status, refused.code, refused.detail)
    response.close = True
    return response


def json(status: int, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Answer with a JSON value."""
    return Response(status, _encode(value), headers)
