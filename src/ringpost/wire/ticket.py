"""Tickets as HTTP has them: the monitor that shows a message, its result, and how soon to ask again.

The result is what the call would have answered, the same bytes. A monitor is always 200 and JSON; its `status` has the
words that clients of other people's operations know, its `state` ours.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from ringpost.core import ids
from ringpost.core.life import shown
from ringpost.core.message import Answer, Envelope, Record, State
from ringpost.core.outcome import PROBLEMS, detail_of_end, problem_of_end
from ringpost.core.receipt import Status

RETRY_AFTER_S_FIRST = 1
RETRY_AFTER_S_LAST = 30
_ASKS_PER_AGE = 10  # to ask again after a tenth of the age finds an end at most a tenth late
_NOTHING_BACK = Answer(204)


def monitor_of(record: Record) -> dict[str, Any]:
    """Show a message: the body of the monitor, and of the 202 that announces it."""
    look = shown(record)
    monitor: dict[str, Any] = {
        "id": ids.text(record.id),
        "status": look.status,
        "state": look.state,
        "generation": record.generation,
        "operation": record.queue,
        "attempt": attempt_of(record),
        "createdDateTime": _instant(record.created_ms),
        "lastActionDateTime": _instant(updated_ms(record)),
    }
    if record.expires_ms is not None and not record.state.terminal:
        monitor["expirationDateTime"] = _instant(record.expires_ms)
    if record.cancel_asked and not record.state.terminal:
        monitor["cancelRequested"] = True
    share = share_of(record)
    if share is not None:
        monitor["percentComplete"] = round(share * 100, 2)
    if record.progress is not None and record.progress.note:
        monitor["note"] = record.progress.note
    if look.status == "Failed":
        monitor["error"] = _error_of(record)
    return monitor


def status_of(record: Record) -> Status:
    """Show a message as `Ticket.status()` gives it."""
    return Status(
        state=shown(record).state,
        progress=share_of(record),
        note=record.progress.note if record.progress is not None else "",
        attempt=attempt_of(record),
        generation=record.generation,
        updated_at=datetime.fromtimestamp(updated_ms(record) / 1000, UTC),
    )


def result_of(record: Record) -> Answer:
    """Give the result of a message that has ended: what the call would have answered. It was read with bodies."""
    assert record.state.terminal, "only what has ended has a result"
    if record.answer is not None:
        return record.answer
    if record.state is State.SUCCEEDED:
        return _NOTHING_BACK
    detail = detail_of_end(record.cause, record.failures)
    return problem_of_end(record.state, record.cause, _operation_of(record), detail)


def retry_after_s(record: Record, now_ms: int) -> int:
    """Say how soon to look again: after 1 s at first, rising with the age to 30 s."""
    age_s = max(0, now_ms - record.created_ms) // 1000
    return max(RETRY_AFTER_S_FIRST, min(age_s // _ASKS_PER_AGE, RETRY_AFTER_S_LAST))


def attempt_of(record: Record) -> int:
    """Count the attempts so far, with the one that is running."""
    return record.attempts + (record.state is State.RUNNING)


def share_of(record: Record) -> float | None:
    """Give how much is done, 0 to 1; None where nobody said. What has succeeded is done."""
    if record.progress is None or record.progress.share is None:
        return None
    return 1.0 if record.state is State.SUCCEEDED else record.progress.share


def updated_ms(record: Record) -> int:
    """Give the instant of the last change that shows."""
    reported_ms = record.progress.at_ms if record.progress is not None else 0
    return max(record.created_ms, record.started_ms or 0, record.settled_ms or 0, reported_ms)


def event_id(record: Record) -> str:
    """Name what a stream has shown, for Last-Event-ID: it changes whenever the monitor does."""
    return f"{record.generation}.{shown(record).rank}.{attempt_of(record)}.{updated_ms(record)}"


def frame(record: Record) -> bytes:
    """Show a message as a server-sent event."""
    return b"id: %s\ndata: %s\n\n" % (event_id(record).encode(), _encode(monitor_of(record)))


HEARTBEAT = b":\n\n"
"""A comment: it says nothing, and keeps what stands between from cutting a silent stream."""


def _error_of(record: Record) -> dict[str, str]:
    """Say why in the monitor: code and message, never what is internal."""
    if record.state is State.FAILED and record.answer is not None:
        try:
            problem = _read_problem(record.answer.body)
        except msgspec.DecodeError:
            problem = _Said()
        return {"code": problem.code or "problem", "message": problem.detail or problem.title}
    code = "expired" if record.state is State.EXPIRED else record.cause.word
    word = PROBLEMS.get(code) or PROBLEMS["handler_error"]
    if code not in PROBLEMS:
        code = "handler_error"
    return {"code": code, "message": detail_of_end(record.cause, record.failures) or word.title}


class _Said(msgspec.Struct):
    """Of a problem body, what a monitor repeats."""

    code: str = ""
    title: str = ""
    detail: str = ""


def _operation_of(record: Record) -> str:
    try:
        return _read_envelope(record.headers).operation or record.queue
    except msgspec.DecodeError:
        return record.queue


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_encode = msgspec.json.Encoder().encode
_read_problem = msgspec.json.Decoder(_Said).decode
_read_envelope = msgspec.json.Decoder(Envelope).decode
