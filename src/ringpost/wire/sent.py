"""What a sender says beside a request that is to become a message: under which id, and how the message goes on.

`Operation-Id` is the sender's own id of the message: whoever brings it first wins, a repeat attaches to what is there.
The others travel where a message comes from another store; each is left out where it says nothing.
"""

from collections.abc import Mapping
from urllib.parse import quote, unquote

from ringpost.core import ids
from ringpost.core.call import Sent
from ringpost.core.message import Record, State
from ringpost.wire.headers import BadHeader, hops, length_s, length_text

ID = "operation-id"
STATE = "ringpost-state"
GENERATION = "ringpost-generation"
STORE = "ringpost-store"
_ORDERING_KEY = "ringpost-ordering-key"
_TTL, _AGE = "ringpost-ttl", "ringpost-age"
_HOPS = "ringpost-hops"
_CORRELATION_ID, _CAUSATION_ID, _SENDER = "ringpost-correlation-id", "ringpost-causation-id", "ringpost-sender"
_TEXT_MAX = 255
_NOTHING = Sent()


def read(headers: Mapping[str, str]) -> Sent:
    """Read what a sender says. Raises BadHeader."""
    if ID not in headers and not any(name in headers for name in (_ORDERING_KEY, _TTL, _HOPS)):
        return _NOTHING
    return Sent(
        _id(headers[ID]) if ID in headers else None,
        _ordering_key(headers[_ORDERING_KEY]) if _ORDERING_KEY in headers else None,
        _ttl_s(headers[_TTL]) if _TTL in headers else None,
        length_s(headers[_AGE], "Ringpost-Age") if _AGE in headers else 0.0,
        hops(headers[_HOPS]) if _HOPS in headers else 0,
        _text(headers, _CORRELATION_ID),
        _text(headers, _CAUSATION_ID),
        _text(headers, _SENDER),
    )


def written(sent: Sent) -> list[tuple[str, str]]:
    """Write what `read` reads."""
    said: list[tuple[str, str]] = []
    if sent.id is not None:
        said.append((ID, ids.text(sent.id)))
    if sent.ordering_key is not None:
        said.append((_ORDERING_KEY, quote(sent.ordering_key, safe="")))
    if sent.ttl_s is not None:
        said.append((_TTL, length_text(max(sent.ttl_s, 0.001))))
    if sent.age_s:
        said.append((_AGE, length_text(sent.age_s)))
    if sent.hops:
        said.append((_HOPS, str(sent.hops)))
    texts = ((_CORRELATION_ID, sent.correlation_id), (_CAUSATION_ID, sent.causation_id), (_SENDER, sent.sender))
    return said + [(name, text) for name, text in texts if text]


def state_headers(record: Record) -> tuple[tuple[str, str], ...]:
    """Say of which row an answer is the outcome: an outcome can look like the refusal of a door."""
    return (
        ("Operation-Id", ids.text(record.id)),
        ("Ringpost-State", state_word(record.state)),
        ("Ringpost-Generation", str(record.generation)),
    )


def state_word(state: State) -> str:
    """Give the word for a state, in which dead is told from failed."""
    return state.name.lower()


def _id(value: str) -> bytes:
    try:
        return ids.parse(value.strip())
    except ValueError:
        raise BadHeader("Operation-Id", value, "takes a uuid, best one of version 7") from None


def _ordering_key(value: str) -> str:
    try:
        key = unquote(value, errors="strict")
    except UnicodeDecodeError:
        key = ""
    if not 0 < len(key) <= _TEXT_MAX or not key.isprintable():
        raise BadHeader("Ringpost-Ordering-Key", value, f"takes 1 to {_TEXT_MAX} characters, percent-encoded")
    return key


def _ttl_s(value: str) -> float:
    ttl_s = length_s(value, "Ringpost-Ttl")
    if ttl_s <= 0:
        raise BadHeader("Ringpost-Ttl", value, "takes more than 0 seconds")
    return ttl_s


def _text(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if len(value) > _TEXT_MAX:
        raise BadHeader(name, value, f"takes at most {_TEXT_MAX} characters")
    return value
