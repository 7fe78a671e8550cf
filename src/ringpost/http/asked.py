"""What a request asks for: the call that it is, and whether its body is said to be JSON."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from ringpost.contract.errors import UsageError
from ringpost.core.call import Call
from ringpost.core.message import Priority
from ringpost.wire import headers as read
from ringpost.wire.http import Request

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"


_length_s = lru_cache(maxsize=1024)(read.length_s)  # there are only so many that are in use


class WrongMediaType(UsageError):
    """Say that a body can't be JSON by its own headers: a 415."""


def check_json(headers: Mapping[str, str]) -> None:
    """Refuse a body that isn't said to be JSON.

    `curl -d` calls everything a form, and some clients say nothing, so that passes; not from a browser, where any page
    could send one or the other without being asked about its origin first.
    """
    if "content-type" not in headers:
        if _is_browser(headers):
            raise _wrong_kind()
    elif headers["content-type"] != _JSON:
        _check_kind(headers["content-type"], headers)
    if "content-encoding" in headers and headers["content-encoding"].lower() != "identity":
        raise WrongMediaType("Bodies are taken uncompressed, without Content-Encoding.")


def _check_kind(content_type: str, headers: Mapping[str, str]) -> None:
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind == _FORM:
        known = not _is_browser(headers)
    elif kind.startswith("application/cloudevents"):
        known = False  # an event, sent to an operation
    else:
        known = kind == _JSON or (kind.startswith("application/") and kind.endswith("+json"))
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if not known or ("charset=" in charset and "charset=utf-8" not in charset):
        raise _wrong_kind()


def _is_browser(headers: Mapping[str, str]) -> bool:
    return "origin" in headers or "sec-fetch-site" in headers


def _wrong_kind() -> WrongMediaType:
    return WrongMediaType("Send JSON in UTF-8, with Content-Type: application/json.")


def call_of(request: Request, operation: str, timeout_s: float, longest_s: float, usual: Priority) -> Call:
    """Make the call that a request is. `timeout_s` and `usual` hold where the caller says nothing."""
    headers = request.headers
    if "request-timeout" in headers:
        timeout_s = min(_length_s(headers["request-timeout"]), longest_s)
    call = Call(operation, request.body, request.arrived_s + timeout_s, headers, None, usual)
    call.since_s = request.since_s
    if "idempotency-key" in headers:
        call.idempotency_key = read.idempotency_key(headers["idempotency-key"])
    if "traceparent" in headers:
        call.trace = read.traceparent(headers["traceparent"])
        call.tracestate = headers.get("tracestate", "")
    if "ringpost-priority" in headers:
        call.priority = read.priority(headers["ringpost-priority"])
    if "ringpost-depth" in headers:
        call.depth = read.depth(headers["ringpost-depth"])
    if "ringpost-path" in headers:
        call.path = read.path(headers["ringpost-path"])
    if "ringpost-attempt" in headers:
        call.attempt = read.attempt(headers["ringpost-attempt"])
    if "ringpost-after" in headers:
        call.after = read.after(headers["ringpost-after"])
    if "ringpost-callback" in headers:
        raise read.BadHeader(
            "Ringpost-Callback",
            headers["ringpost-callback"],
            "webhooks aren't in this version; leave it out and poll the ticket",
        )
    return call
