"""Farewells: who is told when a message has ended, and what they are told.

`reply_to` gets the Outcome, good or bad, with the request in it; the service's `on_failure` gets a DeadLetter of what
is dead or expired. Both are messages of the commit that ends the row. Their ids derive from the message, its generation
and the purpose, so that a repetition is absorbed. Nothing here may fail: the end of a message can't wait for a letter.
"""

import msgspec
from msgspec import Raw, Struct

from ringpost.contract.depth import DEPTH_MAX, too_deep
from ringpost.core import ids
from ringpost.core.keep import KEEP_PLAIN_S
from ringpost.core.life import TICKETS
from ringpost.core.message import Cause, Ended, Envelope, Message, State
from ringpost.core.outcome import detail_of_end, problem_of_end
from ringpost.core.receipt import TicketState

_ERRORS_MAX = 5
_NULL = Raw(b"null")


class _Outcome(Struct, omit_defaults=True):
    """As `contract.outcome.Outcome` reads it. One of reply and problem is there, or neither: nothing came back."""

    operation: str
    message_id: str
    request: Raw
    generation: int
    state: TicketState
    cause: str = ""
    reply: Raw | None = None
    problem: Raw | None = None


class _DeadLetter(Struct):
    """As `contract.outcome.DeadLetter` reads it."""

    operation: str
    message_id: str
    cause: str
    attempts: int
    errors: list[str]
    generation: int


def letters(ended: Ended, now_ms: int) -> list[Message]:
    """Give the messages that tell of an end; none where nobody asked. `now_ms`: the instant of the end."""
    envelope = _envelope_of(ended.headers)
    told: list[Message] = []
    if envelope.reply_to:
        body = _encode(_outcome(ended, envelope))
        told.append(_letter(ended, envelope, "outcome", envelope.reply_to, body))
    fails = ended.state is State.DEAD or ended.state is State.EXPIRED
    if fails and ended.failure_queue and ended.failure_queue != ended.queue:
        body = _encode(_dead_letter(ended, envelope))
        told.append(_letter(ended, envelope, "dead letter", ended.failure_queue, body))
    return told


def _outcome(ended: Ended, envelope: Envelope) -> _Outcome:
    answer = ended.answer
    outcome = _Outcome(
        operation=envelope.operation or ended.queue,
        message_id=ids.text(ended.id),
        request=_raw(ended.body),
        generation=ended.generation,
        state=TICKETS[ended.state].state,
        cause=_cause(ended),
    )
    if ended.state is State.SUCCEEDED:
        outcome.reply = None if answer is None or not answer.body else _raw(answer.body)
    elif ended.state is State.FAILED and answer is not None and _is_object(answer.body):
        outcome.problem = Raw(answer.body)
    else:
        detail = detail_of_end(ended.cause, ended.failures)
        outcome.problem = Raw(problem_of_end(ended.state, ended.cause, outcome.operation, detail).body)
    return outcome


def _dead_letter(ended: Ended, envelope: Envelope) -> _DeadLetter:
    return _DeadLetter(
        operation=envelope.operation or ended.queue,
        message_id=ids.text(ended.id),
        cause=_cause(ended),
        attempts=ended.attempts,
        errors=[f"{failure.type}: {failure.message}" for failure in ended.failures[-_ERRORS_MAX:]],
        generation=ended.generation,
    )


def _cause(ended: Ended) -> str:
    """Say why; of what went well or expired without saying so, nothing or the state itself."""
    if ended.cause is not Cause.NONE:
        return ended.cause.word
    return "expired" if ended.state is State.EXPIRED else ""


def _letter(ended: Ended, envelope: Envelope, purpose: str, queue: str, body: bytes) -> Message:
    message_id = ids.text(ended.id)
    headers = Envelope(
        operation=queue,
        causation_id=message_id,
        correlation_id=envelope.correlation_id or message_id,
        trace=envelope.trace,
        tracestate=envelope.tracestate,
        sender=envelope.sender,
        hops=envelope.hops + 1,
    )
    return Message(
        id=ids.derived(ended.id, str(ended.generation), purpose),
        queue=queue,
        body=body,
        headers=_encode(headers),
        keep_s=KEEP_PLAIN_S,
    )


def _raw(body: bytes) -> Raw:
    """Take JSON as it is. What isn't JSON, or can't be read within another document, is null."""
    return Raw(body) if _is_json(body) else _NULL


def _is_object(body: bytes) -> bool:
    return body.startswith(b"{") and _is_json(body)


def _is_json(body: bytes) -> bool:
    if not body or _nests_too_deep(body):
        return False
    try:
        body.decode()
        _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _nests_too_deep(body: bytes) -> bool:
    """Say whether it is too deep to stand within another document: counted simply where brackets are few."""
    return body.count(b"[") + body.count(b"{") >= DEPTH_MAX and too_deep(b"[" + body + b"]")


def _envelope_of(headers: bytes) -> Envelope:
    try:
        return _decode_envelope(headers)
    except msgspec.DecodeError:
        return Envelope()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
