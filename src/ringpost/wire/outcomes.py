"""One question for the outcomes of many messages, and its answer: `POST /tickets:wait`.

The answer has those that have ended and those that aren't known, and none that still runs. Bodies travel as base64, so
that they arrive byte for byte.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from ringpost.contract.errors import InvalidRequest
from ringpost.core import ids
from ringpost.core.message import Answer, Record
from ringpost.wire.sent import state_word
from ringpost.wire.ticket import result_of

IDS_MAX = 1000
WAIT_S_MAX = 25.0
ANSWER_BYTES_MAX = 1 << 20
"""After so many bytes of results an answer is full; one that is longer comes alone."""
UNKNOWN = "unknown"


class Told(Struct, omit_defaults=True):
    """How a message has ended. `state` is its word, `unknown` where it isn't there or kept no longer."""

    id: str
    state: str
    generation: int = 0
    answer: Answer | None = None


class _Asked(Struct):
    """The body of the question."""

    ids: list[str]


class _Answered(Struct):
    """The body of the answer."""

    tickets: list[Told]


def question(wanted: Iterable[bytes]) -> bytes:
    """Write the question."""
    return _encode(_Asked([ids.text(id) for id in wanted]))


def read_question(body: bytes) -> list[bytes]:
    """Read the question. Raises InvalidRequest."""
    try:
        asked = _asked.decode(body)
        wanted = [ids.parse(text) for text in asked.ids]
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidRequest(f'/tickets:wait takes {{"ids": […]}} with the ids of tickets: {error}') from error
    if not 0 < len(wanted) <= IDS_MAX:
        raise InvalidRequest(f"/tickets:wait takes 1 to {IDS_MAX:,} ids, not {len(wanted):,}.", pointer="/ids")
    return wanted


def answer(wanted: Sequence[bytes], records: Sequence[Record | None]) -> bytes | None:
    """Write the answer; None where all are there and none has ended."""
    told: list[Told] = []
    room = ANSWER_BYTES_MAX
    for id, record in zip(wanted, records, strict=True):
        if record is None:
            told.append(Told(ids.text(id), UNKNOWN))
        elif record.state.terminal:
            result = result_of(record)
            if len(result.body) > room and room < ANSWER_BYTES_MAX:
                continue  # it comes with the next answer
            room -= len(result.body)
            told.append(Told(ids.text(id), state_word(record.state), record.generation, result))
    return _encode(_Answered(told)) if told else None


NOTHING = b'{"tickets":[]}'


def read_answer(body: bytes) -> list[Told]:
    """Read the answer. Raises ValueError for what is none."""
    return _answered.decode(body).tickets


_encode = msgspec.json.Encoder().encode
_asked = msgspec.json.Decoder(_Asked)
_answered = msgspec.json.Decoder(_Answered)
