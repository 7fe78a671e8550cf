"""What an ending becomes: the answer of a call, the settlement of a message. The table is `core/outcome.py`; here are
clock, chance, the failure's description and the letters that tell of an end."""

import os
import socket
import time
import traceback
from asyncio import CancelledError
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ringpost.client.world import World
from ringpost.contract.errors import InvalidRequest
from ringpost.contract.problem import Problem
from ringpost.core.farewell import letters
from ringpost.core.message import Answer, Cause, Delivery, Ended, Failure, Message, Settlement, State
from ringpost.core.outcome import (
    Disposition,
    Ending,
    Stopped,
    Tried,
    call_answer,
    declared_answer,
    ending_of,
    message_disposition,
    problem_answer,
)
from ringpost.service.handler import Handler

RETRY_S = 1.0
_MESSAGE_BYTES_MAX = 2048
_TRACEBACK_BYTES_MAX = 16 * 1024
_FRAMES_MAX = 50
_HOST = socket.gethostname()
_OURS = str(Path(__file__).parents[1]) + os.sep


def refusal(
    code: str, detail: str, operation: str, *, retry_after_s: float | None = None, processed: bool = False
) -> Answer:
    """Answer with a problem of ours before a handler ran."""
    return problem_answer(code, detail, operation=operation, retry_after_s=retry_after_s, processed=processed)


def contract_of(handler: Handler) -> str:
    """Give the name of the contract that a handler's Problems belong to."""
    return "" if handler.operation is None else handler.operation.contract_name


def from_handler_on(error: Exception) -> Exception:
    """Let the traceback of an error begin where the handler does: the way there is ours, and tells its author nothing.

    An error that never left Ringpost's own code keeps all of it.
    """
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename.startswith(_OURS):
        place = place.tb_next
    return error if place is None else error.with_traceback(place)


def told(handler: Handler, error: BaseException, stopped: Stopped | None) -> tuple[Ending, BaseException]:
    """Tell how a handling ended that raised. A Problem that can't be written is a failure, as its author's mistake."""
    ending = ending_of(error, handler.raises, stopped, cancelled=isinstance(error, CancelledError))
    if ending is Ending.PROBLEM_RAISED:
        try:
            call_answer(ending, error, handler.name, contract_of(handler), _now())
        except InvalidRequest as unfit:
            return Ending.FAILED, unfit
    return ending, error


def failed_answer(handler: Handler, ending: Ending, error: BaseException) -> Answer:
    """Give the answer of a call whose handler raised."""
    return call_answer(ending, error, handler.name, contract_of(handler), _now())


def failed_settlement(
    handler: Handler, delivery: Delivery, ending: Ending, error: BaseException, world: World, *, charging: bool
) -> Settlement:
    """Settle a message whose handler raised: nothing of what it staged leaves."""
    now_ms = world.wall_ms()
    age_s = (now_ms - delivery.created_ms) / 1000
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    tried = Tried(delivery.attempt, age_s, handler.retry, world.chance(), now, charging)
    what = message_disposition(ending, error, tried)
    answer = None
    if isinstance(error, Problem) and ending is Ending.PROBLEM_RAISED:
        answer = declared_answer(error, contract_of(handler))
    if what.to is None:
        return Settlement(delivery, State.READY, charge=False)  # another worker has it: the fence refuses this one
    if what.to.terminal:
        failure = failure_of(error, delivery, now_ms) if what.to is State.DEAD else None
        return ended(delivery, what, answer, (), failure=failure)
    # A handler that asks for a later time hasn't failed: neither its record nor the intake breaker shall say so.
    asked = ending is Ending.LATER or what.to is State.READY
    failure = None if asked else failure_of(error, delivery, now_ms)
    return Settlement(delivery, what.to, delay_s=what.delay_s, charge=what.charge, failure=failure, feeds=what.feeds)


def ended(
    delivery: Delivery,
    what: Disposition,
    answer: Answer | None,
    staged: Sequence[Message],
    *,
    failure: Failure | None = None,
) -> Settlement:
    """Settle a message for good, with the letter to `reply_to`. Of a death the store tells: it knows all the errors."""
    assert what.to is not None
    if what.to is not State.DEAD and b'"reply_to"' in delivery.headers:
        gone = Ended(
            delivery.id,
            delivery.queue,
            what.to,
            what.cause,
            delivery.attempt if what.charge else delivery.attempt - 1,
            delivery.generation,
            delivery.headers,
            delivery.body,
            answer,
            [],
            "",
        )
        staged = [*staged, *letters(gone, time.time_ns() // 1_000_000)]
    return Settlement(
        delivery,
        what.to,
        answer,
        tuple(staged),
        charge=what.charge,
        cause=what.cause,
        failure=failure,
        feeds=what.feeds,
    )


def dead(delivery: Delivery, cause: Cause, error: BaseException) -> Settlement:
    """Settle a message that no handler can take."""
    failure = failure_of(error, delivery, time.time_ns() // 1_000_000)
    what = Disposition(State.DEAD, cause, charge=True)
    return ended(delivery, what, None, (), failure=failure)


def failure_of(error: BaseException, delivery: Delivery, now_ms: int) -> Failure:
    """Describe a failed attempt as a dead letter shows it."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    lines = traceback.format_exception(kind, error, error.__traceback__, limit=-_FRAMES_MAX)
    return Failure(
        name,
        _text_of(error).encode("utf-8", "backslashreplace")[:_MESSAGE_BYTES_MAX].decode("utf-8", "ignore"),
        "".join(lines).encode("utf-8", "backslashreplace")[-_TRACEBACK_BYTES_MAX:].decode("utf-8", "ignore"),
        delivery.attempt,
        now_ms,
        _HOST,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (a border: an exception that can't be shown must not hide that it failed)
        return "(its text could not be made)"


def _now() -> datetime:
    return datetime.now(UTC)
