"""Metastability: a service whose dependency becomes 20 times slower for two minutes at 80 % load, and then is well.

The dependency can do 16 at a time and takes 40 ms for each: by the slots of its operation with us, by a pool of 16
connections in the plain chain, where who calls it tries three times. Its capacity is what 16 callers get who ask again
when they are answered. Callers give up after a second.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench import children
from bench.answers import Span, amplification, good_share, recovered_s, shares, within
from bench.cases.offering import Link, Offered, Running, chain, offered, until
from bench.chart import Chart, Line, Panel, Phase, Tone
from bench.figures import Row, Unit, at_least, at_most
from bench.parts.condition import SLOWER
from bench.session import Sample, Session, figure

SLOTS = 16
WORK_S = 0.04
LOAD = 0.8
TRIES = 3
WELL = 0.95
WITHIN_S = 10.0
SETTLE_S = 1.0
KINDS: list[dict[str, Any]] = [{"path": "/c/to_d", "deadline_s": 1.0}]
UNITS: dict[str, Unit] = {"goodput": "%", "recovered": "s", "amplification": "×", "while slow": "%", "before": "%"}
BIN_S = 1.0


class Variant(Struct, frozen=True):
    label: str
    tone: Tone
    links: Sequence[Link]


CALLS = Variant(
    "Ringpost",
    "ours",
    [Link("d", {"work_s": WORK_S, "concurrency": SLOTS}), Link("c", {"work_s": 0.0})],
)
PLAIN = Variant(
    f"FastAPI + httpx, {TRIES} tries",
    "theirs",
    [
        Link("d", {"work_s": WORK_S, "connections": SLOTS}, plain=True),
        Link("c", {"work_s": 0.0, "tries": TRIES}, plain=True),
    ],
)


class Seen(Struct):
    variant: Variant
    offered: Offered
    before: Span
    slow: Span
    amplification: float  # the highest of the three phases


def rows(session: Session) -> Iterator[Row]:
    seen: dict[str, Seen] = {}

    def once(variant: Variant) -> Sample:
        seen[variant.label] = one = _seen(session, variant)
        return _sample(one)

    plain = session.beside(PLAIN.label, lambda: once(PLAIN), UNITS, reps=session.long_reps)
    found = session.measure("metastability", lambda: once(CALLS), reps=session.long_reps)
    yield Row(
        f"metastability: a dependency {SLOWER} × slower at 80 % load, then healed",
        [
            figure(found, "goodput", "%", at_least(95)),
            figure(found, "recovered", "s", at_most(10)),
            figure(found, "amplification", "×", at_most(1.2)),
            figure(found, "while slow", "%"),
            figure(found, "before", "%"),
            figure(found, "rate", "/s"),
            figure(found, "generator", "%"),
        ],
        peers=[plain],
        note=f"goodput: of what was asked from {WITHIN_S:g} s after the healing on; recovered: after so long it stayed "
        f"above {WELL:.0%}; amplification: the highest of before, slow and healed",
    )
    session.draw(_chart(list(seen.values())))


def _seen(session: Session, variant: Variant) -> Seen:
    before_s, slow_s, after_s = session.size(15, 4), session.size(120, 8), session.size(60, 14)
    with session.scratch() as folder, chain(session, folder, variant.links) as links:
        c, d = links["c"], links["d"]
        rate = LOAD * _capacity(folder, c, session.size(5, 2))
        counts = [_counts(links)]
        with offered(folder, c.url, KINDS, rate, SETTLE_S + before_s + slow_s + after_s, 1) as end:
            began_s = time.monotonic()
            until(began_s + SETTLE_S + before_s)
            counts.append(_counts(links))
            slow_at_s = d.tell("slow")
            until(slow_at_s + slow_s)
            counts.append(_counts(links))
            well_at_s = d.tell("well")
            over = end()
        counts.append(_counts(links))
        highest = max(
            amplification(came - came_before, needed - needed_before)
            for (came_before, needed_before), (came, needed) in pairwise(counts)
        )
        return Seen(variant, over, Span(over.span.begin_s + SETTLE_S, slow_at_s), Span(slow_at_s, well_at_s), highest)


def _capacity(folder: Path, c: Running, seconds: float) -> float:
    common = {"url": c.url, "server_pid": c.child.pid, "seconds": seconds, "path": KINDS[0]["path"]}
    return float(children.told("raw_call", folder, at_once=SLOTS, **common)["rate"])


def _counts(links: dict[str, Running]) -> tuple[int, int]:
    """Give how many requests have come to d, and how many c needed of it."""
    return sum(links["d"].counted()["arrived"].values()), links["c"].counted()["needed"]


def _sample(seen: Seen) -> Sample:
    answers = seen.offered.answers
    healed_s = seen.slow.end_s
    return {
        "goodput": good_share(within(answers, Span(healed_s + WITHIN_S, seen.offered.span.end_s))) * 100,
        "recovered": recovered_s(answers, healed_s, WELL),
        "amplification": seen.amplification,
        "while slow": good_share(within(answers, seen.slow)) * 100,
        "before": good_share(within(answers, seen.before)) * 100,
        "rate": seen.offered.rate,
        "generator": seen.offered.cpu * 100,
    }


def _chart(runs: Sequence[Seen]) -> Chart:
    slow, first_s = runs[-1].slow, runs[-1].before.begin_s
    return Chart(
        "metastability",
        f"A dependency {SLOWER} × slower at 80 % load, then healed",
        [Panel("answered within 1 s, % of asked", [_line(seen) for seen in runs], top=105)],
        [Phase(f"{SLOWER} × slower", slow.begin_s - first_s, slow.end_s - first_s)],
    )


def _line(seen: Seen) -> Line:
    span = Span(seen.before.begin_s, seen.offered.span.end_s)
    return Line(
        f"{seen.variant.label}, {seen.offered.rate:,.0f}/s",
        seen.variant.tone,
        shares(seen.offered.answers, span, BIN_S),
    )
