"""Headers that Ringpost reads: strict, bounded, and each error naming its header. One that is absent costs nothing.

Only what other people's standards say to ignore is ignored: unknown preferences, a trace context that isn't one.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil, isfinite

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.core import ids
from ringpost.core.after import IDS_MAX, After, Awaited
from ringpost.core.message import Priority

KEY_CHARS_MAX = 255
PATH_ITEMS_MAX = 16
_NUMBER_MAX = 1_000
_LENGTH_S_MAX = 366 * 24 * 3600.0
_SHOWN_MAX = 60

_LENGTH = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DIGITS = re.compile(r"[0-9]{1,9}")
_WAIT = re.compile(r"[0-9]{1,9}")
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"')
_ESCAPE = re.compile(r'\\(["\\])')
_OPERATION = re.compile(r"[a-z0-9_]{1,64}(?:\.[a-z0-9_]{1,64}){1,4}")
_STORE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_TRACE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PRIORITIES = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}
PRIORITY_WORDS: Mapping[Priority, str] = {value: word for word, value in _PRIORITIES.items()}


class BadHeader(UsageError):
    """Say which header of a request can't be read, and what it should be: a 400."""

    def __init__(self, header: str, value: str, detail: str) -> None:
        shown = value if len(value) <= _SHOWN_MAX else value[:_SHOWN_MAX] + "…"
        super().__init__(f"{header}: {detail}, not {shown!r}.")
        self.header = header
        self.detail = detail


class Preference(Struct, frozen=True):
    """What a client prefers (RFC 7240): to be answered later, and how long it waits."""

    respond_async: bool = False
    wait_s: float | None = None


NO_PREFERENCE = Preference()


def prefer(value: str | None) -> Preference:
    """Read Prefer: `respond-async, wait=10`. Of a repeated preference the first counts; unknown ones are ignored."""
    if value is None:
        return NO_PREFERENCE
    respond_async, wait_s = False, None
    for item in value.split(","):
        name, given, rest = item.partition("=")
        name = name.partition(";")[0].strip().lower()
        if name == "respond-async":
            respond_async = True
        elif name == "wait" and wait_s is None:
            length = rest.partition(";")[0].strip().strip('"')
            if not given or _WAIT.fullmatch(length) is None:
                raise BadHeader("Prefer", value, "wait takes a whole number of seconds, as in wait=10")
            wait_s = float(length)
    return Preference(respond_async, wait_s)


def length_s(value: str, header: str = "Request-Timeout") -> float:
    """Read a length of time, as in `1500ms`, `10s`, `2m`; gives seconds, 0 for none left."""
    found = _LENGTH.fullmatch(value)
    if found is None:
        raise BadHeader(header, value, "takes a length of time such as 1500ms, 10s or 2m")
    return min(float(found[1]) * _UNITS_S[found[2]], _LENGTH_S_MAX)


def length_text(seconds: float) -> str:
    """Write a length of time for Request-Timeout, in whole milliseconds; what is left is never rounded up."""
    return f"{max(0, int(seconds * 1000))}ms"


def idempotency_key(value: str) -> str:
    """Read Idempotency-Key: a structured string in quotes, or bare, as many clients send it."""
    key = value.strip()
    if key.startswith('"'):
        if _STRING.fullmatch(key) is None:
            raise BadHeader("Idempotency-Key", value, "begins a quoted string that doesn't end as one")
        key = _ESCAPE.sub(r"\1", key[1:-1])
    if _KEY.fullmatch(key) is None:
        raise BadHeader("Idempotency-Key", value, f"takes 1 to {KEY_CHARS_MAX} printable ASCII characters")
    return key


def is_key(text: str) -> bool:
    """Say whether a text can be an Idempotency-Key."""
    return _KEY.fullmatch(text) is not None


def quoted(key: str) -> str:
    """Write a key as the structured string that Idempotency-Key is."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def priority(value: str) -> Priority:
    """Read Ringpost-Priority."""
    found = _PRIORITIES.get(value.lower())
    if found is None:
        raise BadHeader("Ringpost-Priority", value, "takes high, normal or low")
    return found


def depth(value: str) -> int:
    """Read Ringpost-Depth: how many calls stand one behind the other."""
    return _count(value, "Ringpost-Depth", 0)


def attempt(value: str) -> int:
    """Read Ringpost-Attempt; the first is 1."""
    return _count(value, "Ringpost-Attempt", 1)


def hops(value: str) -> int:
    """Read Ringpost-Hops: how many messages stand before this one, each sent by the other."""
    return _count(value, "Ringpost-Hops", 0)


def path(value: str) -> tuple[str, ...]:
    """Read Ringpost-Path: the operations through which a call came, the first one first."""
    items = tuple(item.strip() for item in value.split(",", PATH_ITEMS_MAX))
    if len(items) > PATH_ITEMS_MAX or any(_OPERATION.fullmatch(item) is None for item in items):
        raise BadHeader("Ringpost-Path", value, f"takes at most {PATH_ITEMS_MAX} operations, as in accounts.register")
    return items


def path_text(operations: tuple[str, ...]) -> str:
    """Write Ringpost-Path; of a longer one the end, in which a circle shows."""
    return ", ".join(operations[-PATH_ITEMS_MAX:])


def after(value: str) -> After:
    """Read Ringpost-After: the id of a store, and 1 to 64 ids of messages or, each behind its name, of events:
    `5f0c8c2b9d1e4a37; 0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e, accounts.registered:0190c2c6-…`."""
    store_id, semicolon, listed = value.partition(";")
    items = listed.split(",", IDS_MAX)
    if not semicolon or _STORE_ID.fullmatch(store_id) is None or len(items) > IDS_MAX:
        raise _no_after(value)
    return After(store_id, tuple(_awaited(item.strip(), value) for item in items))


def after_text(after: After) -> str:
    """Write Ringpost-After."""
    items = [f"{one.event}:{one.text}" if one.event else one.text for one in after.awaited]
    return f"{after.store_id}; {', '.join(items)}"


def _awaited(item: str, value: str) -> Awaited:
    event, colon, text = item.rpartition(":")
    if colon and _OPERATION.fullmatch(event) is None:
        raise _no_after(value)
    try:
        return Awaited(ids.parse(text), event)
    except ValueError:
        raise _no_after(value) from None


def _no_after(value: str) -> BadHeader:
    detail = f"takes the id of a store, a semicolon and 1 to {IDS_MAX} ids of messages, with commas between them"
    return BadHeader("Ringpost-After", value, detail)


def traceparent(value: str | None) -> str:
    """Read traceparent (W3C Trace Context). Empty where it isn't one: then a new trace begins, as the standard asks."""
    found = None if value is None else _TRACE.fullmatch(value)
    if found is None or value is None:
        return ""
    version, trace_id, span_id, _, more = found.groups()
    unknown = version == "ff" or (version == "00" and more is not None)
    return "" if unknown or not trace_id.strip("0") or not span_id.strip("0") else value


def retry_after_s(value: str | None, now_s: float | None = None) -> float | None:
    """Read Retry-After: seconds, or with `now_s` (Unix time) a date. None where it says nothing that can be read."""
    if value is None:
        return None
    text = value.strip()
    if _DIGITS.fullmatch(text) is not None:
        return float(text)
    try:
        # Without a clock it is of ours, within one process: not rounded.
        after_s = float(text) if now_s is None else _date_s(text) - now_s
    except ValueError:
        return None
    return max(0.0, after_s) if isfinite(after_s) else None


def _date_s(text: str) -> float:
    """Read a date of HTTP (RFC 9110, 5.6.7) as Unix time. ValueError for anything else, its obsolete forms included."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no date of HTTP")
    day, month, year, hour, minute, second = found.groups()
    at = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    return at.timestamp()


def retry_after_text(seconds: float) -> str:
    """Write Retry-After: whole seconds, at least 1, never sooner than was meant."""
    return str(max(1, ceil(min(seconds, _LENGTH_S_MAX)))) if seconds == seconds else "1"


def _count(value: str, header: str, least: int) -> int:
    if _DIGITS.fullmatch(value) is None or not least <= int(value) <= _NUMBER_MAX:
        raise BadHeader(header, value, f"takes a whole number from {least} to {_NUMBER_MAX:,}")
    return int(value)
