"""Handing a message over to another store: which queue it waits in, and what the other side's answer means for it.

A message for a contract with an address waits in the sender's own store, in the forward queue of that contract, until
the store behind the address has it under the same id. What has been handed over and whose outcome somebody wants is
*forwarded*; the outcome is asked for afterwards. An answer that doesn't say whose it is decides nothing: whatever a
proxy or a process that is going says is an outage, costs no attempt, and ends only by expiry or after 14 days.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec
from msgspec import Struct

from ringpost.core.message import Cause, State

FORWARD_S_MAX = 14 * 24 * 3600.0
"""For how long after it was put a message is forwarded, and its outcome asked for."""
UNHURRIED_S_FIRST, UNHURRIED_S_MAX = 0.5, 10.0
_QUEUE = "forward.to."  # in three parts, so that no operation has this name


def forward_queue(contract: str) -> str:
    """Name the queue in which messages for a contract wait to be forwarded."""
    return _QUEUE + contract


def forwarded_contract(queue: str) -> str:
    """Give the contract whose forward queue this is; empty where it is none."""
    return queue.removeprefix(_QUEUE) if queue.startswith(_QUEUE) else ""


class Heard(Struct, frozen=True):
    """What came back for a message that was posted to another store.

    `state` is the word of its row there, where the answer is that row's; `code` of a problem that says no without one,
    with `declared` where the contract declares it; `processed` False where certainly nothing was written.
    """

    status: int
    state: str = ""
    code: str = ""
    declared: bool = False
    processed: bool = True


class Receipt(Struct, frozen=True):
    """What is kept of a message that is away: under which id which store has it, and in which generation."""

    id: str
    store_id: str
    generation: int = 1


encode_receipt = msgspec.json.Encoder().encode
_receipt = msgspec.json.Decoder(Receipt)


def decode_receipt(body: bytes) -> Receipt | None:
    """Read a receipt; None for what is none."""
    try:
        return _receipt.decode(body)
    except msgspec.MsgspecError:
        return None


class Step(StrEnum):
    """What becomes of a message that was posted."""

    AWAY = "the other store has it"
    ENDED = "the other store has it, and it has ended"
    OUTAGE = "nobody there could take it: again, and nothing is charged"
    AGAIN = "it was refused as it may not be for long: again, and charged"
    ELSEWHERE = "another store answers there than the one that was meant"
    REFUSED = "it was refused for good"


class Course(Struct, frozen=True):
    """A step; where it ends, how and why."""

    step: Step
    to: State | None = None
    cause: Cause = Cause.NONE


_ENDS: Mapping[str, State] = MappingProxyType({state.name.lower(): state for state in State if state.terminal})
_CAUSES: Mapping[str, Cause] = MappingProxyType({cause.word: cause for cause in Cause})
_AWAY, _OUTAGE, _AGAIN, _ELSEWHERE = (Course(step) for step in (Step.AWAY, Step.OUTAGE, Step.AGAIN, Step.ELSEWHERE))

# By status, of answers that aren't an outcome. What isn't here: 4xx are refusals, everything else is an outage.
_STATUSES: Mapping[int, Course] = MappingProxyType(
    {
        202: _AWAY,
        401: _AGAIN,
        403: _AGAIN,
        404: _AGAIN,  # the new version of a service may come, or the right address
        405: _AGAIN,
        408: _OUTAGE,
        409: _OUTAGE,  # a call under the same key is at work
        421: _ELSEWHERE,
        425: _OUTAGE,
        429: _OUTAGE,
    }
)


def course_of(heard: Heard) -> Course:
    """Say what an answer means for the message that was posted."""
    end = _ENDS.get(heard.state)
    if end is not None:
        return Course(Step.ENDED, end, end_cause(end, heard.code))
    if 200 <= heard.status < 300 and heard.status != 202:
        return Course(Step.ENDED, State.SUCCEEDED)  # of a call under the same key
    if heard.declared:
        return Course(Step.ENDED, State.FAILED, Cause.PROBLEM)
    if heard.code == Cause.TOO_OLD.word:
        return Course(Step.REFUSED, State.DEAD, Cause.TOO_OLD)
    known = _STATUSES.get(heard.status)
    if known is not None:
        return known
    if 400 <= heard.status < 500:
        return Course(Step.REFUSED, State.DEAD, Cause.REJECTED)
    return _OUTAGE


def end_of(word: str) -> State | None:
    """Give the end that a word stands for; None for what is no end."""
    return _ENDS.get(word)


def end_cause(end: State, code: str) -> Cause:
    """Give why a message ended elsewhere: `code` is of the problem that its result is."""
    match end:
        case State.SUCCEEDED:
            return Cause.NONE
        case State.FAILED:
            return Cause.PROBLEM
        case State.CANCELLED:
            return Cause.CANCELLED
        case State.EXPIRED:
            return Cause.EXPIRED
        case _:
            return _CAUSES.get(code, Cause.HANDLER_ERROR)


def settles(course: Course) -> bool:
    """Say whether a forwarder may end the message under its lease; others are away for a moment first."""
    return course.step is Step.ENDED and course.to in (State.SUCCEEDED, State.FAILED, State.DEAD)


def outage_delay_s(failures: int, random01: float) -> float:
    """Say when to try again what met an outage: `failures` of its target in a row, `random01` from 0 to 1."""
    longest_s = min(UNHURRIED_S_MAX, UNHURRIED_S_FIRST * 2.0 ** min(max(failures - 1, 0), 10))
    return longest_s * (0.5 + random01 / 2)
