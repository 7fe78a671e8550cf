"""What an ending means: a result or an exception becomes the answer of a call or the settlement of a message.

One table for both styles, DECISIONS 7 in words: declared Problems are answers; anything else raised is a failure, which
a call answers with 500 (503 and 504 where a service behind this one didn't answer) and a message is tried again for.
"""

import random
import socket
import time
import traceback
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder, Encoder

from ringpost.client.options import when
from ringpost.contract.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    Reject,
    RetryLater,
    StoreError,
    Unavailable,
)
from ringpost.contract.problem import PROBLEM_URN, Problem, to_members
from ringpost.core import retry as retries
from ringpost.core.farewell import letters
from ringpost.core.message import (
    Answer,
    Cause,
    Delivery,
    Ended,
    Envelope,
    Failure,
    Message,
    Settlement,
    State,
)
from ringpost.service.handler import Handler

_PROBLEM_JSON = "application/problem+json"
_MESSAGE_MAX = 2048
_TRACEBACK_MAX = 16 * 1024
_RETRY_S = 1.0
_FRAMES_MAX = 50
_HOST = socket.gethostname()
_encode = Encoder().encode
_decode_envelope = Decoder(Envelope).decode


class Refusal(Struct, frozen=True):
    """An answer of ours: how its problem body begins."""

    status: int
    code: str
    title: str


INVALID = Refusal(400, "invalid", "The request doesn't fit")
IN_FLIGHT = Refusal(409, "in_flight", "A request with this key is being handled")
KEY_REUSED = Refusal(422, "key_reused", "The key was used with another request")
REJECTED = Refusal(422, "rejected", "The request was rejected")
HANDLER_ERROR = Refusal(500, "handler_error", "The handler failed")
UNAVAILABLE = Refusal(503, "unavailable", "Not available now")
OVERLOADED = Refusal(503, "overloaded", "Too much to do")
TOO_LATE = Refusal(504, "deadline_exceeded", "The time was over")
LOOP = Refusal(508, "loop_detected", "Calls go in a circle or too deep")
FULL = Refusal(429, "overloaded", "The queue is full")
NO_ROOM = Refusal(507, "store_full", "The store has no room")
NOT_FOUND = Refusal(404, "not_found", "No such operation")


def refusal(
    kind: Refusal,
    detail: str,
    operation: str,
    *,
    retry_after_s: float | None = None,
    processed: bool = False,
    **members: Any,
) -> Answer:
    """Answer with a problem of ours."""
    body = {
        "type": PROBLEM_URN + kind.code,
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "detail": detail,
        "operation": operation,
        **members,
    }
    return Answer(kind.status, _encode(body), _PROBLEM_JSON, retry_after_s, processed)


def invalid(error: InvalidRequest, operation: str) -> Answer:
    """Answer a request that doesn't fit, naming the field."""
    return refusal(INVALID, str(error), operation, errors=[{"pointer": error.pointer, "detail": error.detail}])


def problem_answer(problem: Problem, handler: Handler) -> Answer:
    """Answer with a declared Problem. Raises InvalidRequest where one of its fields doesn't fit."""
    contract = "" if handler.operation is None else handler.operation.contract_name
    return Answer(type(problem).status, _encode(to_members(problem, contract)), _PROBLEM_JSON)


def failed_answer(error: BaseException, handler: Handler) -> Answer:
    """Answer a call whose handler raised what is no answer of its own. Nothing internal goes out."""
    name = handler.name
    match error:
        case RetryLater():
            after_s = _after_s(error)
            return refusal(UNAVAILABLE, "Try again later.", name, retry_after_s=after_s, processed=True)
        case Reject():
            return refusal(REJECTED, error.reason, name, processed=True)
        case Overloaded():
            detail = "A service behind this one has too much to do."
            return refusal(UNAVAILABLE, detail, name, retry_after_s=error.retry_after, processed=True)
        case Unavailable():
            after_s = error.retry_after or _RETRY_S
            detail = "A service behind this one isn't available."
            return refusal(UNAVAILABLE, detail, name, retry_after_s=after_s, processed=True)
        case DeadlineExceeded():
            return refusal(TOO_LATE, "A service behind this one didn't answer in time.", name, processed=True)
        case StoreError():
            detail = "The store can't take what the handler sent."
            return refusal(UNAVAILABLE, detail, name, retry_after_s=_RETRY_S, processed=True)
        case _:
            return refusal(HANDLER_ERROR, "The handler failed; its log says why.", name, processed=True)


def cancelled_answer(reason: str, handler: Handler) -> Answer:
    """Answer a call whose handler was cancelled. Its effects elsewhere can't be rolled back: it may have been done."""
    if reason == "shutdown":
        return refusal(UNAVAILABLE, "This process is stopping.", handler.name, retry_after_s=_RETRY_S, processed=True)
    if reason == "lease_lost":
        return refusal(UNAVAILABLE, "The lease was lost.", handler.name, retry_after_s=_RETRY_S, processed=True)
    if reason == "user":
        return refusal(Refusal(409, "cancelled", "It was cancelled"), "Cancelled.", handler.name, processed=True)
    return refusal(TOO_LATE, "The time was over before the handler had ended.", handler.name, processed=True)


def ended(
    delivery: Delivery,
    to: State,
    answer: Answer | None,
    staged: list[Message] | tuple[()],
    *,
    cause: Cause = Cause.NONE,
    failure: Failure | None = None,
    failure_queue: str = "",
) -> Settlement:
    """Settle a message for good, with the letters that tell of it: to `reply_to`, and to on_failure."""
    if to is State.DEAD or b'"reply_to"' in delivery.headers:
        now_ms = time.time_ns() // 1_000_000
        errors = [] if failure is None else [f"{failure.type}: {failure.message}"]
        gone = Ended(
            delivery.id,
            delivery.queue,
            to,
            cause,
            delivery.attempt,
            delivery.generation,
            delivery.headers,
            delivery.body,
            answer,
            errors,
            failure_queue,
        )
        staged = [*staged, *letters(gone, now_ms)]
    return Settlement(delivery, to, answer, staged, cause=cause, failure=failure)


def again(
    handler: Handler, delivery: Delivery, error: BaseException, *, charge: bool, failure_queue: str
) -> Settlement:
    """Settle a message that failed: tried again by the rule of the exception's nearest class, or dead."""
    rule = retries.rule_for(handler.retry, error)
    if isinstance(error, RetryLater):
        charge = charge and error.counts
        delay_s = _after_s(error)
    else:
        delay_s = retries.next_delay_s(rule, delivery.attempt, random.random())
    if charge:
        last = retries.spent(rule, delivery.attempt)
    else:
        last = time.time_ns() // 1_000_000 - delivery.created_ms > retries.UNCHARGED_S_MAX * 1000
    if last:
        return dead(delivery, Cause.HANDLER_ERROR, error, failure_queue)
    # A handler that asks for a later time hasn't failed: neither its record nor the intake breaker shall say so.
    failure = None if isinstance(error, RetryLater) else failure_of(error, delivery)
    return Settlement(delivery, State.SCHEDULED, delay_s=delay_s, charge=charge, failure=failure)


def dead(delivery: Delivery, cause: Cause, error: BaseException, failure_queue: str) -> Settlement:
    """Settle a message that is given up."""
    failure = failure_of(error, delivery)
    return ended(delivery, State.DEAD, None, (), cause=cause, failure=failure, failure_queue=failure_queue)


def failure_of(error: BaseException, delivery: Delivery) -> Failure:
    """Describe a failed attempt as a dead letter shows it."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    lines = traceback.format_exception(kind, error, error.__traceback__, limit=-_FRAMES_MAX)
    return Failure(
        name,
        _cut(_text_of(error), _MESSAGE_MAX),
        _cut_front("".join(lines), _TRACEBACK_MAX),
        delivery.attempt,
        time.time_ns() // 1_000_000,
        _HOST,
    )


def envelope_of(delivery: Delivery) -> Envelope:
    """Read what travels beside a body."""
    return _decode_envelope(delivery.headers)


def _after_s(error: RetryLater) -> float:
    delay_s, due_ms = when(error.after, "RetryLater")
    return delay_s if due_ms is None else max(due_ms / 1000 - time.time(), 0.0)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (a border: an exception that can't be shown must not hide that it failed)
        return "(its text could not be made)"


def _cut(text: str, bytes_max: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    return data[:bytes_max].decode("utf-8", "ignore")


def _cut_front(text: str, bytes_max: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    return data[-bytes_max:].decode("utf-8", "ignore")
