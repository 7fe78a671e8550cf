"""When a message is tried again: a delay that doubles up to a limit, a part of it left to chance, a number of attempts.

A failure that is no answer of the handler's is tried again by the rule of the exception's nearest class. (Calls are
tried again by another rule, within their caller's deadline and budget.)
"""

from collections.abc import Mapping
from math import isfinite

from msgspec import Struct

from ringpost.contract.errors import UsageError

UNCHARGED_S_MAX = 30 * 24 * 3600.0
"""For how long after a message was put it may be tried again without an attempt being counted."""
_DOUBLINGS_MAX = 1000  # beyond it a float overflows; any delay has reached its limit long before


class Retry(Struct, frozen=True):
    """Say how often and how soon a failed message is tried again.

    The delay after attempt n is between half and all of `first * 2 ** (n - 1)` seconds, at most `longest`. After
    `attempts` attempts in all the message is dead. Raises UsageError for what can't be.
    """

    attempts: int = 20
    first: float = 1.0
    longest: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"Retry(attempts={self.attempts}): the first attempt counts, so it must be 1 or more.")
        if not (isfinite(self.first) and self.first >= 0):
            raise UsageError(f"Retry(first={self.first}): it must be a finite number of seconds, 0 or more.")
        if not (isfinite(self.longest) and self.longest >= self.first):
            raise UsageError(f"Retry(longest={self.longest}): it must be finite and at least first ({self.first:g} s).")


DEFAULT = Retry()
Rules = Retry | Mapping[type[Exception], Retry]


def next_delay_s(retry: Retry, attempt: int, random01: float) -> float:
    """Give the seconds until the attempt after this one (the first is 1). `random01` is from 0 to 1."""
    doubled = retry.first * 2.0 ** min(max(attempt - 1, 0), _DOUBLINGS_MAX)
    return (0.5 + 0.5 * random01) * min(retry.longest, doubled)


def spent(retry: Retry, attempt: int) -> bool:
    """Say whether this attempt was the last."""
    return attempt >= retry.attempts


def rule_for(rules: Rules, error: BaseException) -> Retry:
    """Give the rule of the error's nearest class, in the order of its bases."""
    if isinstance(rules, Retry):
        return rules
    for kind in type(error).__mro__:
        rule = rules.get(kind)
        if rule is not None:
            return rule
    return DEFAULT
