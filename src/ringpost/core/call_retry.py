"""When a call is tried again: only where that is safe, within its deadline, and so that layers don't multiply.

Safe is what certainly was not processed, what is declared to be harmless (`effect="read"` or `"idempotent"`), and what
has an idempotency key. The delay before attempt n + 1 is U(0, min(1 s, 0.1 s × 2^(n-1))): all of it is left to chance,
so that callers who failed together don't come back together. A `Retry-After` is waited for on top of that; where it
lies beyond the deadline, waiting for it is of no use and the error is raised at once. What is itself made within an
attempt after the first isn't tried again: somebody above does that already.
"""

from msgspec import Struct

FIRST_S = 0.1
LONGEST_S = 1.0
_DOUBLINGS_MAX = 10


class Tries(Struct, frozen=True):
    """How often a call may be tried. `attempts` in all; `above`: the attempt that whoever makes it is part of."""

    attempts: int = 3
    above: int = 1

    @property
    def most(self) -> int:
        """Give how many attempts there may be here."""
        return self.attempts if self.above == 1 else 1


class Failed(Struct, frozen=True):
    """An attempt that didn't go well. `number`: the first is 1. `unprocessed`: certainly no handler ran."""

    number: int
    at_s: float
    unprocessed: bool = False
    retry_after_s: float | None = None


def may_repeat(failed: Failed, tries: Tries, *, safe: bool) -> bool:
    """Say whether another attempt is allowed, time and budget aside."""
    return failed.number < tries.most and (safe or failed.unprocessed)


def next_at_s(failed: Failed, deadline_s: float, random01: float) -> float | None:
    """Give the instant of the next attempt; None where the deadline comes first. `random01` is from 0 to 1."""
    at_s = failed.at_s + (failed.retry_after_s or 0.0) + backoff_s(failed.number, random01)
    return at_s if at_s < deadline_s else None


def backoff_s(number: int, random01: float) -> float:
    """Give the delay after attempt `number` where nobody said one."""
    return random01 * min(LONGEST_S, FIRST_S * 2.0 ** min(number - 1, _DOUBLINGS_MAX))
