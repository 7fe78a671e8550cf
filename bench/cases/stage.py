"""Draining with a handler that sends one message, which commits with the settlement."""

from collections.abc import Iterator

from bench.cases.drain import raw_limit
from bench.cases.draining import drained
from bench.figures import Row, at_least, at_most
from bench.session import Session, figure


def rows(session: Session) -> Iterator[Row]:
    count = session.size(60_000, 20_000)
    samples = session.measure("handler that sends one", lambda: drained(session, count, handler="stage"))
    yield Row(
        "drain, a handler that sends one message",
        [figure(samples, "rate", "/s", at_least(35_000)), figure(samples, "CPU", "µs", at_most(22))],
        raw_limit(session, 200),
        note="the raw limit is that of a message that sends nothing",
    )
