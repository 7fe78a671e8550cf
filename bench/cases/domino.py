"""The domino: a chain a → b → c → d whose end hangs. What doesn't need d must go on as if nothing had happened.

Every link works 100 ms as if waiting for a database, so that what limits a chain of ours is the slots of an operation
at their default (128 ÷ 0.4 s for the one that goes through to d), not two cores; the plain chain's limit is the CPU
time of httpx. Each is offered 80 % of what it carried just before, in the same run. Of five requests one is answered by
a, one needs b, one b and c, two need all three. Whoever calls gives up after a second.
"""

import time
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.answers import Span, against, amplification, good_share, latency_ms, shares, within
from bench.cases.offering import Link, Offered, Running, carried, chain, offered, until
from bench.chart import Chart, Line, Panel, Phase, Tone
from bench.figures import Row, Unit, at_least, at_most
from bench.session import Sample, Session, figure

WORK_S = 0.1
DEADLINE_S = 1.0
LOAD = 0.8
SETTLE_S = 1.0  # after a change of the rate, before anything counts
DRAIN_S = 30.0
BIN_S = 0.5  # of the picture
SHARES = {"alone": 0.2, "to_b": 0.2, "to_c": 0.2, "to_d": 0.4}
KINDS = [{"path": f"/a/{name}", "deadline_s": DEADLINE_S, "share": share} for name, share in SHARES.items()]
OTHERS = (0, 1, 2)  # the kinds that don't need d
UNITS: dict[str, Unit] = {"goodput": "%", "p99": "%", "amplification": "×", "rate": "/s", "p99 before": "ms"}


class Variant(Struct, frozen=True):
    """One way to build the chain. `first`: the rate at which looking for its capacity begins."""

    label: str
    tone: Tone
    first: float
    plain: bool = False
    sends: bool = False


PLAIN = Variant("FastAPI + httpx", "theirs", 80, plain=True)
CALLS = Variant("Ringpost, d called", "ours", 400)
SENDS = Variant("Ringpost, d sent to", "other", 400, sends=True)


class Seen(Struct):
    """One run of the experiment."""

    variant: Variant
    offered: Offered
    before: Span
    hung: Span
    amplification: float
    kept: float  # of what d was sent, the share that it had worked in the end


def rows(session: Session) -> Iterator[Row]:
    seen: dict[str, Seen] = {}

    def once(variant: Variant) -> Sample:
        seen[variant.label] = one = _seen(session, variant)
        return _sample(one)

    plain = session.beside(PLAIN.label, lambda: once(PLAIN), UNITS, reps=session.long_reps)
    for variant in (CALLS, SENDS):
        found = session.measure(
            f"domino: {variant.label}", lambda variant=variant: once(variant), reps=session.long_reps
        )  # type: ignore[misc]
        figures = [
            figure(found, "goodput", "%", at_least(95)),
            figure(found, "p99", "%", at_most(105)),
            figure(found, "amplification", "×", at_most(1.2)),
            *([figure(found, "kept", "%", at_least(100))] if variant.sends else []),
            figure(found, "p99 before", "ms"),
            figure(found, "rate", "/s"),
            figure(found, "generator", "%"),
        ]
        yield Row(
            f"domino: {variant.label} while it hangs: operations that don't need d, against before",
            figures,
            peers=[plain],
            note="rate: offered, 80 % of what the chain carried; generator: of one core",
        )
    session.draw(_chart(list(seen.values())))


def _seen(session: Session, variant: Variant) -> Seen:
    phase_s = session.size(20, 6)
    with session.scratch() as folder, chain(session, folder, _links(variant, folder)) as links:
        capacity = carried(session, folder, links["a"].url, KINDS, variant.first, session.size(3, 2))
        counted = {name: link.counted() for name, link in links.items()}
        with offered(folder, links["a"].url, KINDS, LOAD * capacity, SETTLE_S + 3 * phase_s, 1) as end:
            began_s = time.monotonic()
            until(began_s + SETTLE_S + phase_s)
            hung_s = links["d"].tell("hung")
            until(began_s + SETTLE_S + 2 * phase_s)
            healed_s = links["d"].tell("well")
            over = end()
        first_s = over.span.begin_s + SETTLE_S
        return Seen(
            variant,
            over,
            Span(first_s, hung_s),
            Span(hung_s, healed_s),
            _amplification(links, counted),
            _kept(over, links["d"], counted["d"]) if variant.sends else 1.0,
        )


def _links(variant: Variant, folder: Path) -> list[Link]:
    common: dict[str, Any] = {"work_s": WORK_S}
    both = {"store": f"sqlite:///{folder}/both.db"} if variant.sends else {}
    more = {"c": {**both, "sends": variant.sends}, "d": both}
    if variant.plain:
        return [Link(name, common, plain=True) for name in "dcba"]
    return [Link(name, {**common, **more.get(name, {})}) for name in "dcba"]


def _amplification(links: dict[str, Running], before: dict[str, dict[str, Any]]) -> float:
    """Give the highest of the chain: requests that came to a link for each that the handlers before it needed."""
    now = {name: link.counted() for name, link in links.items()}
    found = [0.0]
    for name in "bcd":
        arrived = sum(now[name]["arrived"].values()) - sum(before[name]["arrived"].values())
        asking = chr(ord(name) - 1)
        found.append(amplification(arrived, now[asking]["needed"] - before[asking]["needed"]))
    return max(found)


def _kept(over: Offered, d: Running, before: dict[str, Any]) -> float:
    """Wait until d has worked what it was sent, at most for some time; give the share that it has."""
    sent = sum(one.good for one in over.answers if one.kind not in OTHERS)
    until_s = time.monotonic() + DRAIN_S
    while (done := d.counted()["done"] - before["done"]) < sent and time.monotonic() < until_s:
        until(time.monotonic() + 0.2)
    return min(1.0, done / sent) if sent else 1.0


def _sample(seen: Seen) -> Sample:
    before = within(seen.offered.answers, seen.before, OTHERS)
    hung = within(seen.offered.answers, seen.hung, OTHERS)
    sample = {
        "goodput": against(good_share(hung), good_share(before), 0.0) * 100,
        "p99": against(latency_ms(hung, 0.99), latency_ms(before, 0.99), inf) * 100,
        "amplification": seen.amplification,
        "p99 before": latency_ms(before, 0.99),
        "rate": seen.offered.rate,
        "generator": seen.offered.cpu * 100,
    }
    return sample | {"kept": seen.kept * 100} if seen.variant.sends else sample


def _chart(runs: Sequence[Seen]) -> Chart:
    hung, first_s = runs[-1].hung, runs[-1].before.begin_s
    return Chart(
        "domino",
        "a → b → c → d, and d hangs: the operations that don't need d",
        [Panel("answered within 1 s, % of asked", [_line(seen) for seen in runs], top=105)],
        [Phase("d hangs", hung.begin_s - first_s, hung.end_s - first_s)],
    )


def _line(seen: Seen) -> Line:
    span = Span(seen.before.begin_s, seen.offered.span.end_s)
    points = shares(within(seen.offered.answers, span, OTHERS), span, BIN_S)
    return Line(f"{seen.variant.label}, {seen.offered.rate:,.0f}/s", seen.variant.tone, points)
