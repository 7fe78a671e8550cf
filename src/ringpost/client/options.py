"""What the options of the verbs mean: checked once, before any I/O, and turned into numbers."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from typing_extensions import TypeIs

from ringpost.contract.errors import UsageError, listed
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import check_taker
from ringpost.contract.vocabulary import CallOptions, Options, Seconds, SendOptions, When, seconds
from ringpost.core.message import Priority
from ringpost.core.policy import ATTEMPTS_MAX

CALL_OPTIONS = frozenset({"headers", "idempotency_key", "priority", "timeout", "after", "attempts", "hedge"})
SEND_OPTIONS = frozenset({"headers", "idempotency_key", "priority", "delay", "ttl", "ordering_key"})
KEPT_OPTIONS = frozenset({"headers", "idempotency_key", "priority"})  # of call_or_send, whose time is `wait`

KEY_LENGTH_MAX = 255
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\uffff]*")  # no control characters: a line break would begin another header
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_PRIORITIES = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}
_DUE_DELAY_MAX_S = 10 * 365 * 86400.0

# These say how a request travels; they are made from options, so that nothing is said twice and differently.
OWN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "operation-id",
        "prefer",
        "request-timeout",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def check_send_options(options: SendOptions, verb: str = "send") -> None:
    """Refuse what a message can't take; a length of time to wait is the first thing that people try."""
    if "timeout" in options:
        raise UsageError(
            f"{verb} takes no timeout: it returns as soon as the message is safe. Use `ttl=` to let it expire, or "
            "`await ticket.result(timeout=…)` to wait for its outcome."
        )
    if "after" in options:
        raise UsageError(f"{verb} takes no `after`: give it to the call that needs to see the effects.")
    _refuse_unknown(options, SEND_OPTIONS, verb)


def check_call_options(options: CallOptions | Options, verb: str = "call") -> None:
    """Refuse what a call can't take."""
    for name in ("delay", "ttl", "ordering_key"):
        if name in options:
            raise UsageError(f"{verb} takes no {name}: a call is answered now. Use send, or leave {name} out.")
    _refuse_unknown(options, CALL_OPTIONS if verb != "call_or_send" else KEPT_OPTIONS, verb)


def check_operation(operation: object, verb: str) -> None:
    """Say what belongs in the first place."""
    if isinstance(operation, Operation):
        return
    if isinstance(operation, Event):
        raise UsageError(f"{verb} takes an operation; {_name(operation)} is an event. Use publish.")
    raise UsageError(f"{verb} takes an operation first, such as Accounts.register, not {type(operation).__name__}.")


def check_event(event: object) -> None:
    """Say what belongs in the first place."""
    if isinstance(event, Event):
        return
    if isinstance(event, Operation):
        raise UsageError(f"publish takes an event; {_name(event)} is an operation. Use send.")
    raise UsageError(f"publish takes an event first, such as Accounts.registered, not {type(event).__name__}.")


def reply_to_name(operation: Operation[Any, Any], reply_to: object) -> str:
    """Give the full name of the operation that takes the Outcome of another; empty where nobody asked for it."""
    if reply_to is None:
        return ""
    if isinstance(reply_to, str):
        raise UsageError(
            f"reply_to={reply_to!r}: webhooks aren't in this version. Give an operation that takes the Outcome, or "
            "wait on the ticket."
        )
    if not _is_operation(reply_to):
        raise UsageError(f"reply_to takes an operation that takes the Outcome, not {type(reply_to).__name__}.")
    check_taker(reply_to, operation)
    return reply_to.full_name


def _is_operation(what: object) -> TypeIs[Operation[Any, Any]]:
    return isinstance(what, Operation)


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Give headers with lower-case names, refusing what would break or contradict the message they travel with."""
    if not isinstance(headers, Mapping):
        raise UsageError(f"headers takes a mapping of str to str, not {type(headers).__name__}.")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"headers takes str to str, not {name!r}: {value!r}.")
        low = name.lower()
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a header: letters, digits and - are.")
        if not _VALUE.fullmatch(value):
            raise UsageError(f"The header {name} has a control character in its value.")
        if low in OWN_HEADERS or low.startswith("ringpost-"):
            raise UsageError(
                f"The header {name} is Ringpost's own and can't be set; there is an option for what it says."
            )
        checked[low] = value
    return checked


def checked_line(key: object, what: str) -> str:
    """Give an ordering key. It never travels in a header, so it may be in any script."""
    if not isinstance(key, str):
        raise UsageError(f"{what} takes a str, not {type(key).__name__}.")
    if not 0 < len(key) <= KEY_LENGTH_MAX or not key.isprintable():
        raise UsageError(f"{what} must be 1 to {KEY_LENGTH_MAX} printable characters, not {key[:64]!r}.")
    return key


def checked_key(key: object, what: str) -> str:
    """Give an idempotency key, refusing what can't travel in a header."""
    if not isinstance(key, str):
        raise UsageError(f"{what} takes a str, not {type(key).__name__}.")
    if not _KEY.fullmatch(key):
        raise UsageError(f"{what} must be 1 to {KEY_LENGTH_MAX} printable ASCII characters, not {key[:64]!r}.")
    return key


def priority_of(given: object, fallback: str | None) -> Priority:
    """Give the priority: the option, else the operation's, else normal."""
    word = given if given is not None else fallback
    if word is None:
        return Priority.NORMAL
    found = _PRIORITIES.get(word) if isinstance(word, str) else None
    if found is None:
        raise UsageError(f"priority is {' or '.join(map(repr, _PRIORITIES))}, not {word!r}.")
    return found


def check_tries(options: CallOptions, operation: Operation[Any, Any]) -> None:
    """Refuse what a call can't be told of being tried again."""
    attempts, hedge = options.get("attempts", 1), options.get("hedge", False)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or not 1 <= attempts <= ATTEMPTS_MAX:
        raise UsageError(f"attempts is how often a call may be tried in all, 1 to {ATTEMPTS_MAX}, not {attempts!r}.")
    if not isinstance(hedge, bool):
        raise UsageError(f"hedge is True or False, not {hedge!r}.")
    if hedge and operation.effect != "read":
        raise UsageError(
            f"{_name(operation)} can't be asked twice at once: hedge=True is for operations declared "
            'Operation(…, effect="read").'
        )


def positive_s(value: Seconds, what: str) -> float:
    """Give a length of time in seconds that isn't zero."""
    found = seconds(value, what)
    if found <= 0:
        raise UsageError(f"{what} must be more than 0 seconds.")
    return found


def when(value: When, what: str) -> tuple[float, int | None]:
    """Give (delay in seconds, None) for a length of time, or (0, Unix milliseconds) for an instant."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(
                f"{what} takes an aware datetime; this one has no time zone. Use datetime.now(timezone.utc)."
            )
        return 0.0, round(value.timestamp() * 1000)
    delay_s = seconds(value, what)
    if delay_s > _DUE_DELAY_MAX_S:
        raise UsageError(f"{what} of {delay_s:g} s is more than ten years.")
    return delay_s, None


def _refuse_unknown(options: Mapping[str, object], known: frozenset[str], verb: str) -> None:
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(f"{verb} takes no {listed(unknown)}; its options are {listed(sorted(known))}.")


def _name(thing: Any) -> str:
    """Name an operation or event even where it belongs to no contract."""
    try:
        return str(thing.full_name)
    except UsageError:
        return "this"
