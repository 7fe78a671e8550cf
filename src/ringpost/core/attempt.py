"""How an attempt of a call over HTTP ended: what it says of the target, and whether another attempt may follow.

One table, for breaker, budget and retries. A target that answers is good, whatever it says: a declared Problem or a 4xx
is an answer. It is bad where it can't be reached, breaks off, fails (5xx) or doesn't answer in time. Neither is what
says nothing of it: that it sheds load (opening a breaker would turn "less" into "nothing"), that it was the wrong one,
or that a call which it made itself failed. The last one is a problem with `retryable: false`: who stands next to a
failure breaks and tries again, and no layer above it does either once more.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from ringpost.contract.errors import DeadlineExceeded, TransportError, Unavailable

Feeds = Literal["good", "bad", ""]
"""How an attempt counts for the breaker; empty: not at all."""


class End(Struct, frozen=True):
    """How an attempt ended. `again`: another one may go well, if it is safe and there is time for it.

    `late`: the time was over, which is the target's fault only if it had been enough for it before.
    """

    feeds: Feeds
    again: bool = False
    late: bool = False


GOOD = End("good")
BAD = End("bad")
LATE = End("bad", late=True)
DOWN = End("bad", again=True)
SHED = End("", again=True)
NEUTRAL = End("")
CLOSED = End("", again=True)
WAITING = End("good", again=True)

# What isn't here: below 500 good, else bad.
_BY_CODE: Mapping[str, End] = MappingProxyType(
    {
        "in_flight": WAITING,  # a request with this key is being handled: its answer can be had in a moment
        "not_found": NEUTRAL,
        "not_here": NEUTRAL,
        "not_yet": NEUTRAL,
        "wrong_instance": NEUTRAL,
        "wrong_store": NEUTRAL,
        "queue_full": SHED,
        "overloaded": SHED,
        "maintenance": CLOSED,  # on purpose, and it says until when
        "unavailable": DOWN,
        "deadline_exceeded": LATE,
        "loop_detected": NEUTRAL,  # the caller's own circle
    }
)
_BY_STATUS: Mapping[int, End] = MappingProxyType(
    {408: LATE, 421: NEUTRAL, 429: SHED, 502: DOWN, 503: DOWN, 504: LATE, 508: NEUTRAL}
)


def end_of_answer(status: int, code: str, *, retryable: bool = True) -> End:
    """Judge an answer by its status and the code of its problem, empty where it has none of Ringpost's.

    `retryable` as the problem says: False where what failed is a call that the target made itself.
    """
    if status < 400:
        return GOOD if status >= 200 else BAD
    if not retryable and status >= 500:
        return NEUTRAL
    return _BY_CODE.get(code) or _BY_STATUS.get(status) or (GOOD if status < 500 else BAD)


def end_of_error(error: TransportError) -> End:
    """Judge an attempt that brought no answer."""
    if isinstance(error, DeadlineExceeded):
        return LATE
    return DOWN if isinstance(error, Unavailable) else BAD
