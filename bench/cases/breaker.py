"""The breaker: a target whose error rate goes from 0 to 100 % and back, under a steady load.

Told from outside alone: it is open when requests stop coming to the target (a pause that chance doesn't make), closed
when callers are answered well again and go on being so; probes are what comes to the target in between.
"""

import time
from collections.abc import Iterator
from typing import Any

from bench.answers import Span, at_once, good_share, recovered_s, silent_from_s, within
from bench.cases.offering import Link, chain, offered, until
from bench.figures import Row, at_most
from bench.session import Sample, Session, figure

RATE = 100.0
WORK_S = 0.02  # so that two probes at once would overlap
PAUSE_S = 0.2  # at this rate chance makes one in 500 million
WELL = 0.95
WINDOW_S = 0.5
SETTLE_S = 0.5
KINDS: list[dict[str, Any]] = [{"path": "/c/to_d", "deadline_s": 1.0}]


def rows(session: Session) -> Iterator[Row]:
    found = session.measure("breaker", lambda: _once(session))
    yield Row(
        "breaker: a target that fails from 0 to 100 % of calls and back, 100 calls a second",
        [
            figure(found, "opens", "s", at_most(2)),
            figure(found, "closes", "s", at_most(5)),
            figure(found, "probes at once", "×", at_most(1)),
            figure(found, "probes", "/s"),
            figure(found, "before", "%"),
        ],
        note="from the target's first failure to the last request before the pause; from its healing until "
        f"{WELL:.0%} are answered well for good",
    )


def _once(session: Session) -> Sample:
    before_s, failing_s, after_s = session.size(15, 11), session.size(15, 5), session.size(15, 8)
    links = [Link("d", {"work_s": WORK_S, "spans": True}), Link("c", {"work_s": 0.0})]
    with session.scratch() as folder, chain(session, folder, links) as running:
        c, d = running["c"], running["d"]
        with offered(folder, c.url, KINDS, RATE, SETTLE_S + before_s + failing_s + after_s, 1) as end:
            until(time.monotonic() + SETTLE_S + before_s)
            failed_s = d.tell("failing")
            until(failed_s + failing_s)
            healed_s = d.tell("well")
            over = end()
        handled = [(begin_s, end_s) for begin_s, end_s in d.counted()["spans"]]
    opened_s = silent_from_s([begin_s for begin_s, _ in handled], failed_s, PAUSE_S)
    probing = Span(opened_s + WORK_S, healed_s)
    probes = sum(probing.holds(begin_s) for begin_s, _ in handled)
    return {
        "opens": opened_s - failed_s,
        "closes": recovered_s(over.answers, healed_s, WELL, WINDOW_S),
        "probes at once": at_once(handled, probing),
        "probes": probes / probing.length_s if probing.length_s > 0 else 0.0,
        "before": good_share(within(over.answers, Span(over.span.begin_s, failed_s))) * 100,
    }
