"""What the end of a handling means: one table for both styles, so that call and message never tell two stories.

A handler answers by returning a reply, or a Problem of its operation's `raises=`, returned or raised. A returned one
commits what was written and staged; a raised one discards it. Everything else that is raised is a failure and no
answer: a call says so without internals, a message is tried again, and dead in the end. What was cancelled is told by
who cancelled it, as an exception of the handler's can't tell.

The words of our own problems (RFC 9457) are here too: a ticket's result has the same ones as the call.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ringpost.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    OperationFailed,
    Overloaded,
    Reject,
    RetryLater,
    StoreError,
    TransportError,
    Unavailable,
)
from ringpost.contract.problem import PROBLEM_URN, Problem, to_members
from ringpost.core.message import Answer, Cause, Failure, State
from ringpost.core.retry import UNCHARGED_S_MAX, Rules, next_delay_s, rule_for, spent

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 1.0
"""What is said where nothing better is known."""

Stopped = Literal["user", "deadline", "caller_gone", "max_run", "lease_lost", "shutdown"]
"""Why a handler was cancelled, as `ctx.cancelled` tells it."""


# --- the words of our own problems


class Word(Struct, frozen=True):
    """A problem of ours: its status, and a title that is the same each time."""

    status: int
    title: str


PROBLEMS: Mapping[str, Word] = MappingProxyType(
    {
        "invalid": Word(400, "The request doesn't fit"),
        "not_found": Word(404, "There is nothing here"),
        "method_not_allowed": Word(405, "Not with this method"),
        "in_flight": Word(409, "A request with this key is being handled"),
        "never": Word(409, "What it is to come after won't take effect"),
        "not_here": Word(409, "What it is to come after isn't known here"),
        "not_yet": Word(409, "What it is to come after hasn't taken effect yet"),
        "cancelled": Word(409, "It was cancelled"),
        "too_late": Word(409, "It has ended already"),
        "gone": Word(410, "It is kept no longer"),
        "too_large": Word(413, "Too large"),
        "unsupported_media_type": Word(415, "Not in this form"),
        "wrong_store": Word(421, "Meant for another store"),
        "wrong_instance": Word(421, "Meant for another instance"),
        "key_reused": Word(422, "The key was used with another request"),
        "mismatch": Word(422, "The id was used with another content"),
        "rejected": Word(422, "The request was rejected"),
        "handler_error": Word(500, "The handler failed"),
        "worker_lost": Word(500, "Its workers were lost, one after the other"),
        "undecodable": Word(500, "What was sent can't be read"),
        "too_old": Word(500, "Too old to tell whether it was done before"),
        "checksum": Word(500, "What was stored is damaged"),
        "too_far": Word(500, "Messages go in a circle"),
        "outcome_unknown": Word(500, "The outcome is known no longer"),
        "queue_full": Word(429, "The queue is full"),
        "unavailable": Word(503, "Not available now"),
        "overloaded": Word(503, "Too much to do"),
        "maintenance": Word(503, "Closed for maintenance"),
        "deadline_exceeded": Word(504, "The time was over"),
        "expired": Word(504, "It expired before it was handled"),
        "store_full": Word(507, "The store has no room"),
        "loop_detected": Word(508, "Calls go in a circle or too deep"),
    }
)


def problem_answer(
    code: str,
    detail: str = "",
    *,
    operation: str = "",
    status: int | None = None,
    retry_after_s: float | None = None,
    processed: bool = True,
    members: Mapping[str, Any] | None = None,
) -> Answer:
    """Answer with a problem of ours, by its code. `processed=False`: certainly no handler ran."""
    word = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": PROBLEM_URN + code,
        "title": word.title,
        "status": word.status if status is None else status,
        "code": code,
    }
    if detail:
        body["detail"] = detail
    if operation:
        body["operation"] = operation
    if members:
        body.update(members)
    return Answer(body["status"], _encode(body), PROBLEM_JSON, retry_after_s, processed)


DEPTH_MAX = 8
"""So many calls stand one behind the other at most."""


def loop_answer(path: Sequence[str], operation: str, *, processed: bool) -> Answer:
    """Answer that calls went in a circle or too deep, and through which operations. Each caller on the way up answers
    with the same, where its handler lets it pass: the mistake is in how the services are put together, and whoever
    asked first is told where. It says nothing of whether somebody is there, so no breaker counts it and nothing is
    tried again for it."""
    detail = f"Calls went {' → '.join(path)}: at most {DEPTH_MAX} deep, none twice."
    members = {"path": list(path)}
    return problem_answer("loop_detected", detail, operation=operation, processed=processed, members=members)


def declared_answer(problem: Problem, contract: str) -> Answer:
    """Answer with a Problem of the contract of that name. Raises InvalidRequest where a field of it doesn't fit."""
    return Answer(type(problem).status, _encode(to_members(problem, contract)), PROBLEM_JSON)


def problem_of_end(state: State, cause: Cause, operation: str = "", detail: str = "") -> Answer:
    """Give the result of what ended without an answer: dead 500 with its cause (422 where rejected), cancelled 409,
    expired 504."""
    if state is State.CANCELLED:
        code = "cancelled"
    elif state is State.EXPIRED:
        code = "expired"
    else:
        code = cause.word if cause.word in PROBLEMS else "handler_error"
    return problem_answer(code, detail, operation=operation)


def detail_of_end(cause: Cause, failures: Sequence[Failure]) -> str:
    """Say what whoever asked may read of why it ended: the reason that a handler gave to reject it, nothing else."""
    return failures[-1].message if cause is Cause.REJECTED and failures else ""


# --- the table


class Ending(StrEnum):
    """How a handling ended."""

    REPLY = "returns a reply"
    PROBLEM_RETURNED = "returns a Problem"
    PROBLEM_RAISED = "raises a declared Problem"
    FAILED = "raises an undeclared Problem or anything else"
    UNAVAILABLE = "a service behind it isn't there, or has too much to do"
    TIMED_OUT = "a service behind it didn't answer in time"
    LOOP = "a call that it made was refused, as calls went in a circle or too deep"
    LATER = "raises RetryLater"
    REJECTED = "raises Reject"
    UNDECODABLE = "never begins: the body doesn't fit"
    DEADLINE = "cancelled: the caller's time is over"
    MAX_RUN = "cancelled: it ran for max_run"
    CALLER_GONE = "cancelled: the caller has gone away"
    SHUTDOWN = "cancelled: the process stops"
    USER = "cancelled: somebody asked for it"
    LEASE_LOST = "cancelled: another worker has taken over"


class Line(Struct, frozen=True):
    """One line of the table: what an ending means for a call, and what for a message.

    `code`: of the problem that a call answers with; empty: the reply's or Problem's own answer. `to`: where a message
    goes, dead instead of scheduled after the last attempt; None: it isn't ours any more. `commits`: what was written
    and staged stays. `charge`: the attempt counts. `feeds`: how it counts for the intake breaker.
    """

    code: str
    to: State | None
    cause: Cause = Cause.NONE
    commits: bool = False
    charge: bool = False
    feeds: Literal["", "good", "bad", "downstream"] = ""


E, S = Ending, State
TABLE: Mapping[Ending, Line] = MappingProxyType(
    {
        E.REPLY: Line("", S.SUCCEEDED, commits=True, charge=True, feeds="good"),
        E.PROBLEM_RETURNED: Line("", S.FAILED, Cause.PROBLEM, commits=True, charge=True, feeds="good"),
        E.PROBLEM_RAISED: Line("", S.FAILED, Cause.PROBLEM, charge=True, feeds="good"),
        E.FAILED: Line("handler_error", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True, feeds="bad"),
        E.UNAVAILABLE: Line("unavailable", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True, feeds="downstream"),
        E.TIMED_OUT: Line("deadline_exceeded", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True, feeds="downstream"),
        E.LOOP: Line("loop_detected", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True, feeds="bad"),
        E.LATER: Line("unavailable", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True),
        E.REJECTED: Line("rejected", S.DEAD, Cause.REJECTED, charge=True, feeds="good"),
        E.UNDECODABLE: Line("invalid", S.DEAD, Cause.UNDECODABLE, charge=True),
        E.DEADLINE: Line("deadline_exceeded", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True, feeds="bad"),
        E.MAX_RUN: Line("deadline_exceeded", S.SCHEDULED, Cause.HANDLER_ERROR, charge=True, feeds="bad"),
        E.CALLER_GONE: Line("unavailable", S.READY),
        E.SHUTDOWN: Line("unavailable", S.READY),
        E.USER: Line("cancelled", S.CANCELLED, Cause.CANCELLED, charge=True),
        E.LEASE_LOST: Line("unavailable", None),
    }
)

_OF_STOPPED: Mapping[Stopped, Ending] = MappingProxyType(
    {
        "user": E.USER,
        "deadline": E.DEADLINE,
        "caller_gone": E.CALLER_GONE,
        "max_run": E.MAX_RUN,
        "lease_lost": E.LEASE_LOST,
        "shutdown": E.SHUTDOWN,
    }
)


def ending_of(
    error: BaseException, raises: Sequence[type[Problem]], stopped: Stopped | None, *, cancelled: bool
) -> Ending:
    """Tell how a handling ended that raised.

    `stopped`: why it was cancelled, if it was. `cancelled`: the error is how that shows (a CancelledError). One that
    nobody caused is the handler's own, a failure.
    """
    if stopped is not None and (cancelled or isinstance(error, Cancelled)):
        return _OF_STOPPED[stopped]
    match error:
        case Problem():
            return E.PROBLEM_RAISED if isinstance(error, tuple(raises)) else E.FAILED
        case Unavailable() | Overloaded() | StoreError():
            return E.UNAVAILABLE
        case DeadlineExceeded():
            return E.TIMED_OUT
        case OperationFailed(cause="loop_detected"):
            return E.LOOP
        case RetryLater():
            return E.LATER
        case Reject():
            return E.REJECTED
        case _:
            return E.FAILED


# --- what follows from it


class Disposition(Struct, frozen=True):
    """What to do with a message whose handling has ended. `to` None: nothing, another worker has it."""

    to: State | None
    cause: Cause = Cause.NONE
    commits: bool = False
    charge: bool = False
    delay_s: float = 0.0
    feeds: Literal["", "good", "bad", "downstream"] = ""


class Tried(Struct, frozen=True):
    """What is known of a message when its handling has ended. `random01` is from 0 to 1."""

    attempt: int
    age_s: float  # since it was put
    rules: Rules
    random01: float
    now: datetime
    charging: bool = True  # False: the intake breaker is open


def message_disposition(ending: Ending, error: BaseException | None, tried: Tried) -> Disposition:
    """Say what becomes of a message: its next state, why, after how long, and whether the attempt counts."""
    line = TABLE[ending]
    if line.to is not State.SCHEDULED:
        return Disposition(line.to, line.cause, line.commits, line.charge, feeds=line.feeds)
    assert error is not None
    rule = rule_for(tried.rules, error)
    charge = tried.charging
    if isinstance(error, RetryLater):
        charge = charge and error.counts
        delay_s = later_s(error.after, tried.now)
    else:
        delay_s = next_delay_s(rule, tried.attempt, tried.random01)
    if spent(rule, tried.attempt) if charge else tried.age_s > UNCHARGED_S_MAX:
        return Disposition(State.DEAD, line.cause, charge=charge, feeds=line.feeds)
    return Disposition(State.SCHEDULED, charge=charge, delay_s=delay_s, feeds=line.feeds)


_DETAILS: Mapping[Ending, str] = MappingProxyType(
    {
        E.FAILED: "The handler failed; the log of its service says why.",
        E.LOOP: "A call behind this one went in a circle.",
        E.UNAVAILABLE: "Something behind this service isn't available.",
        E.TIMED_OUT: "A service behind this one didn't answer in time.",
        E.LATER: "Try again later.",
        E.UNDECODABLE: "The request doesn't fit.",
        E.DEADLINE: "The time was over before the handler had ended.",
        E.MAX_RUN: "The handler ran for longer than it may.",
        E.CALLER_GONE: "The caller had gone away.",
        E.SHUTDOWN: "This process is stopping.",
        E.USER: "It was cancelled.",
        E.LEASE_LOST: "Another process has taken it over.",
    }
)


_TRIED: Mapping[str, Any] = MappingProxyType({"retryable": False})


def call_answer(ending: Ending, error: BaseException, operation: str, contract: str, now: datetime) -> Answer:
    """Give the answer of a call whose handler raised. Nothing internal goes out: the texts are ours, and a reason that
    the handler gave for a Reject. Raises InvalidRequest for a declared Problem with a field that doesn't fit."""
    if isinstance(error, Problem) and ending is E.PROBLEM_RAISED:
        return declared_answer(error, contract)
    if isinstance(error, InvalidRequest) and ending is E.UNDECODABLE:
        return invalid_answer(error, operation)
    if isinstance(error, OperationFailed) and ending is E.LOOP and error.path:
        return loop_answer(error.path, operation, processed=True)
    detail = error.reason if isinstance(error, Reject) else _DETAILS.get(ending, "")
    code = TABLE[ending].code
    retry_after_s = None
    if PROBLEMS[code].status == 503:
        retry_after_s = RETRY_AFTER_S
        if isinstance(error, RetryLater):
            retry_after_s = later_s(error.after, now)
        elif isinstance(error, Unavailable | Overloaded) and error.retry_after is not None:
            retry_after_s = error.retry_after
    # What failed is a call made in the handler: it was tried again there, and shall not be by each layer above.
    members = _TRIED if isinstance(error, TransportError) and error.operation else None
    return problem_answer(code, detail, operation=operation, retry_after_s=retry_after_s, members=members)


def invalid_answer(error: InvalidRequest, operation: str = "") -> Answer:
    """Answer a request that doesn't fit its type, naming the field."""
    errors = [{"pointer": error.pointer, "detail": error.detail}]
    return problem_answer("invalid", str(error), operation=operation, processed=False, members={"errors": errors})


def later_s(after: float | timedelta | datetime, now: datetime) -> float:
    """Give the seconds until a time of RetryLater, 0 for what is past. `now` is aware."""
    if isinstance(after, datetime):
        after = after.astimezone(now.tzinfo) - now  # a naive one is taken as local time
    length_s = after.total_seconds() if isinstance(after, timedelta) else float(after)
    return min(max(0.0, length_s), UNCHARGED_S_MAX)  # in this order: a NaN becomes 0


_encode = msgspec.json.Encoder().encode
