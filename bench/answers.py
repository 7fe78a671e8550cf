"""What became of the requests of an open loop, and the arithmetic of it.

A latency counts from the instant at which the request was meant to go out. A generator that waits for a slow server
before it sends the next one would ask less just when answers are late, and measure the few that it asked.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

from msgspec import Struct

from bench.session import percentile

NONE = 0  # the status of a request that had no answer when its caller gave up
BROKEN = -1  # of one whose connection was lost
REFUSALS = frozenset({429, 503})


class Answer(Struct, frozen=True, array_like=True):
    """One request: when it was meant to go out, and how long it took from then; seconds of the monotonic clock."""

    kind: int
    at_s: float
    late_s: float  # by so much later than meant it was written
    taken_s: float
    status: int

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        return self.status in REFUSALS


class Span(Struct, frozen=True):
    """A time of the run, in seconds of the monotonic clock."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.begin_s

    def holds(self, instant_s: float) -> bool:
        return self.begin_s <= instant_s < self.end_s


def within(answers: Sequence[Answer], span: Span, kinds: Collection[int] | None = None) -> list[Answer]:
    """Give the requests that were meant to go out in a time."""
    return [one for one in answers if span.holds(one.at_s) and (kinds is None or one.kind in kinds)]


def good_share(answers: Sequence[Answer]) -> float:
    """Give how many of the requests were answered well before their caller gave up, 0 to 1."""
    return sum(one.good for one in answers) / len(answers) if answers else 0.0


def latency_ms(answers: Sequence[Answer], share: float) -> float:
    """Give a percentile of how long callers waited: for a good answer, or in vain. Who was refused did not wait."""
    waited = [one.taken_s * 1000 for one in answers if one.good or one.status == NONE]
    return percentile(waited, share) if waited else 0.0


def refusal_ms(answers: Sequence[Answer], share: float) -> float:
    """Give a percentile of how long a refusal took, from when the request was written."""
    refused = [(one.taken_s - one.late_s) * 1000 for one in answers if one.refused]
    return percentile(refused, share) if refused else 0.0


def against(value: float, before: float, nothing: float) -> float:
    """Give a value in proportion to what it was before; `nothing` where there was nothing to compare it with, which
    must not look like a target that was reached."""
    return value / before if before else nothing


def amplification(arrived: float, needed: float) -> float:
    """Give how many requests came for each that was needed."""
    return arrived / needed if needed else 0.0


def curve(answers: Sequence[Answer], span: Span, bin_s: float) -> list[tuple[float, float]]:
    """Give goodput over time: per bin its middle in seconds from the beginning, and good answers a second."""
    bins = [0] * max(1, round(span.length_s / bin_s))
    for one in answers:
        at = int((one.at_s - span.begin_s) / bin_s)
        if one.good and 0 <= at < len(bins):
            bins[at] += 1
    return [((at + 0.5) * bin_s, count / bin_s) for at, count in enumerate(bins)]


def shares(answers: Sequence[Answer], span: Span, bin_s: float) -> list[tuple[float, float]]:
    """Give the share of good answers over time, in %: per bin its middle in seconds from the beginning, and the share.

    A request counts when it was meant to go out. A bin in which nobody asked is left out.
    """
    bins: dict[int, list[Answer]] = {}
    for one in within(answers, span):
        bins.setdefault(int((one.at_s - span.begin_s) / bin_s), []).append(one)
    return [((at + 0.5) * bin_s, good_share(some) * 100) for at, some in sorted(bins.items())]


def recovered_s(answers: Sequence[Answer], since_s: float, share: float, window_s: float = 1.0) -> float:
    """Give how long after an instant the share of good answers was reached for good; infinite: never.

    Looked at in windows, from the last whole one on: a recovery that falls back is none.
    """
    windows: dict[int, list[Answer]] = {}
    for one in answers:
        if one.at_s >= since_s:
            windows.setdefault(int((one.at_s - since_s) / window_s), []).append(one)
    reached = float("inf")
    for at in sorted(windows, reverse=True)[1:]:
        if good_share(windows[at]) < share:
            break
        reached = at * window_s
    return reached


def silent_from_s(instants: Sequence[float], since_s: float, gap_s: float) -> float:
    """Give the last instant before the first pause of that length; infinite: there was none."""
    later = sorted(instant for instant in instants if instant >= since_s)
    return next((before for before, after in pairwise(later) if after - before >= gap_s), float("inf"))


def at_once(intervals: Sequence[tuple[float, float]], span: Span) -> int:
    """Give how many intervals overlapped at most, of those that began in a time."""
    edges: list[tuple[float, int]] = []
    for begin_s, end_s in intervals:
        if span.holds(begin_s):
            edges += [(begin_s, 1), (end_s, -1)]
    most = now = 0
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most
