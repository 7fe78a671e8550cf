"""Problems on the wire (RFC 9457): from an error to what is answered, and from what was answered to an error.

Two tables. The caller finds the class by the problem's `type`, then by the status, so that it raises the same whether
the answer came from a handler in its own process, over HTTP, or by a ticket; and something sensible for what was
answered by no Ringpost at all. What is answered to a caller never shows internals.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from ringpost.contract.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotHere,
    NotYet,
    OperationFailed,
    Overloaded,
    Processed,
    Reject,
    RingpostError,
    StateError,
    StoreError,
    TicketExpired,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import PROBLEM_URN, Problem, from_members
from ringpost.core.message import Answer
from ringpost.core.outcome import RETRY_AFTER_S, declared_answer, invalid_answer, problem_answer
from ringpost.wire.headers import BadHeader, retry_after_s, retry_after_text
from ringpost.wire.http import Response

PROCESSED = "ringpost-processed"
_PATH_MAX = 64  # names of a path that somebody says; ours are far shorter
Asked = Operation[Any, Any] | Event[Any]


# --- from an error to an answer


def answer_of(error: BaseException, operation: Asked | None = None) -> Answer:
    """Answer with what an error says. What isn't meant for callers is a 500 that tells nothing."""
    name = "" if operation is None else operation.full_name
    match error:
        case Problem():
            return _answer_of_problem(error, operation, name)
        case BadHeader():
            errors = [{"header": error.header, "detail": error.detail}]
            return problem_answer("invalid", str(error), operation=name, processed=False, members={"errors": errors})
        case InvalidRequest():
            return invalid_answer(error, name)
        case Overloaded():
            return _retried("overloaded", str(error), name, error.retry_after, error.processed)
        case Unavailable():
            return _retried("unavailable", str(error), name, error.retry_after or RETRY_AFTER_S, error.processed)
        case DeadlineExceeded():
            return _retried("deadline_exceeded", str(error), name, None, error.processed)
        case TransportError():
            return _retried("unavailable", str(error), name, RETRY_AFTER_S, error.processed)
        case Reject():
            return problem_answer("rejected", error.reason, operation=name)
        case TicketExpired():
            return problem_answer("gone", str(error), operation=name, processed=False)
        case StoreError():
            return _retried("unavailable", "The store can't take it now.", name, RETRY_AFTER_S, "maybe")
        case _:
            return problem_answer("handler_error", "The handler failed; the log says why.", operation=name)


def response_of(answer: Answer, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Say an answer over HTTP: 503 with Retry-After, and the mark of what no handler has seen."""
    if answer.retry_after_s is not None:
        headers = (*headers, ("Retry-After", retry_after_text(answer.retry_after_s)))
    if not answer.processed:
        headers = (*headers, ("Ringpost-Processed", "no"))
    return Response(answer.status, answer.body, headers, answer.content_type)


def _answer_of_problem(problem: Problem, operation: Asked | None, name: str) -> Answer:
    if isinstance(operation, Operation) and isinstance(problem, operation.raises):
        return declared_answer(problem, operation.contract_name)
    return problem_answer("handler_error", "The handler failed; the log says why.", operation=name)


def _retried(code: str, detail: str, name: str, after_s: float | None, processed: Processed) -> Answer:
    return problem_answer(code, detail, operation=name, retry_after_s=after_s, processed=processed != "no")


# --- from an answer to an error


class Refusal(Struct):
    """A problem, as far as one refusal is told from another."""

    code: str = ""
    retryable: bool = True


def refusal_of(body: bytes) -> Refusal:
    """Read what a problem says of itself; one of somebody else's says nothing."""
    try:
        return _refusal.decode(body)
    except msgspec.MsgspecError:
        return _NO_REFUSAL


_refusal = msgspec.json.Decoder(Refusal)
_NO_REFUSAL = Refusal()


class Answered(Struct, frozen=True):
    """What was answered, as far as an error is made of it."""

    status: int
    code: str
    members: dict[str, Any]
    asked: str
    retry_after_s: float | None
    processed: Processed

    @property
    def said(self) -> str:
        """What happened to what, for a message."""
        said = self.members.get("detail") or self.members.get("title") or f"answered with status {self.status}"
        return f"{self.asked}: {said}"

    @property
    def message_id(self) -> str:
        id = self.members.get("message_id") or self.members.get("id")
        return id if isinstance(id, str) else ""


def error_of(status: int, body: bytes, headers: Mapping[str, str], operation: Asked) -> RingpostError:
    """Make the error that an answer stands for. Header names are lower case.

    A declared Problem comes back as its class. One that isn't declared, or doesn't fit its class, is OperationFailed
    with its code as the cause.
    """
    members = _members(body)
    urn = members.get("type")
    if isinstance(operation, Operation) and isinstance(urn, str):
        declared = operation.problem_for(urn)
        if declared is not None:
            try:
                return from_members(declared, members)
            except InvalidRequest:
                pass  # The two sides have different versions of it; then it is told as a failure, by its code.
    answered = Answered(
        status,
        _code(urn, members),
        members,
        operation.full_name,
        retry_after_s(headers.get("retry-after")),
        "no" if headers.get(PROCESSED) == "no" else "maybe",
    )
    if is_declared(urn):
        return _failed(answered)
    make = _BY_CODE.get(answered.code) if _is_ours(urn) else None
    error = (make or _BY_STATUS.get(status) or _other)(answered)
    if members.get("retryable") is False and isinstance(error, TransportError):
        error.operation = answered.asked  # a call made behind it failed, and was tried again there
    return error


def _invalid(answered: Answered) -> RingpostError:
    errors = answered.members.get("errors")
    first = (
        cast("dict[str, Any]", errors[0]) if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    )
    pointer, detail = first.get("pointer"), first.get("detail")
    return InvalidRequest(
        answered.said,
        pointer=pointer if isinstance(pointer, str) else "",
        detail=detail if isinstance(detail, str) else "",
    )


def _usage(answered: Answered) -> RingpostError:
    return UsageError(answered.said)


def _unavailable(answered: Answered) -> RingpostError:
    return Unavailable(answered.said, processed=answered.processed, retry_after=answered.retry_after_s)


def _not_there(answered: Answered) -> RingpostError:
    """Nothing is handled where the path is unknown, or the receiver another than was meant."""
    return Unavailable(answered.said, processed="no", retry_after=answered.retry_after_s)


def _overloaded(answered: Answered) -> RingpostError:
    after_s = RETRY_AFTER_S if answered.retry_after_s is None else answered.retry_after_s
    return Overloaded(answered.said, retry_after=after_s, processed=answered.processed)


def _too_late(answered: Answered) -> RingpostError:
    return DeadlineExceeded(answered.said, processed=answered.processed)


def _no_room(answered: Answered) -> RingpostError:
    return StoreError(answered.said)


def _state(answered: Answered) -> RingpostError:
    return StateError(answered.said)


def _not_yet(answered: Answered) -> RingpostError:
    messages = answered.members.get("messages")
    listed = cast("list[object]", messages) if isinstance(messages, list) else []
    named = [cast("dict[str, object]", one) for one in listed if isinstance(one, dict)]
    return NotYet(answered.said, states={str(one.get("id")): str(one.get("state")) for one in named})


def _not_here(answered: Answered) -> RingpostError:
    return NotHere(answered.said)


def _gone(answered: Answered) -> RingpostError:
    return TicketExpired(answered.said)


def _ended(state: Literal["failed", "cancelled", "expired"]) -> Callable[[Answered], RingpostError]:
    def make(answered: Answered) -> RingpostError:
        cause = answered.code or f"http_{answered.status}"
        return OperationFailed(answered.said, message_id=answered.message_id, cause=cause, state=state)

    return make


_failed = _ended("failed")


def _looped(answered: Answered) -> RingpostError:
    path = answered.members.get("path")
    listed = cast("list[object]", path) if isinstance(path, list) else []
    names = [name for name in listed if isinstance(name, str)]
    return OperationFailed(answered.said, cause="loop_detected", path=names[:_PATH_MAX])


# What isn't here is a failure with the code as its cause: handler_error, rejected, worker_lost …
_BY_CODE: Mapping[str, Callable[[Answered], RingpostError]] = {
    "invalid": _invalid,
    "not_found": _not_there,
    "method_not_allowed": _not_there,
    "in_flight": _unavailable,
    "never": _state,
    "not_here": _not_here,
    "not_yet": _not_yet,
    "cancelled": _ended("cancelled"),
    "too_late": _state,
    "gone": _gone,
    "too_large": _usage,
    "unsupported_media_type": _usage,
    "wrong_store": _not_there,
    "wrong_instance": _not_there,
    "key_reused": _usage,
    "mismatch": _usage,
    "loop_detected": _looped,
    "overloaded": _overloaded,
    "queue_full": _overloaded,
    "unavailable": _unavailable,
    "maintenance": _unavailable,
    "deadline_exceeded": _too_late,
    "expired": _ended("expired"),
    "store_full": _no_room,
}

# For answers that aren't Ringpost's: of a proxy, a load balancer, another server at that address.
_BY_STATUS: Mapping[int, Callable[[Answered], RingpostError]] = {
    404: _unavailable,
    408: _too_late,
    413: _usage,
    415: _usage,
    421: _not_there,
    429: _overloaded,
    502: _unavailable,
    503: _unavailable,
    504: _too_late,
    507: _no_room,
}


def _other(answered: Answered) -> RingpostError:
    if answered.code or 400 <= answered.status < 600:
        return _failed(answered)
    return TransportError(f"{answered.asked} was answered with the unexpected status {answered.status}.")


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = _decode(body) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast("dict[str, Any]", members) if isinstance(members, dict) else {}


def _is_ours(urn: object) -> bool:
    """Say whether it is a problem of Ringpost's own: one that a contract declares has a dot in its code."""
    return isinstance(urn, str) and urn.startswith(PROBLEM_URN) and "." not in urn[len(PROBLEM_URN) :]


def is_declared(urn: object) -> bool:
    """Say whether a contract declares it, though not for this operation."""
    return isinstance(urn, str) and urn.startswith(PROBLEM_URN) and not _is_ours(urn)


def _code(urn: object, members: Mapping[str, Any]) -> str:
    if isinstance(urn, str) and _is_ours(urn):
        return urn[len(PROBLEM_URN) :]
    code = members.get("code")
    return code if isinstance(code, str) else ""


_decode = msgspec.json.Decoder().decode
