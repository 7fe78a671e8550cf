"""Removing messages that have been kept long enough."""

from collections.abc import Iterator

from bench import children
from bench.cases.draining import FILE
from bench.figures import Row
from bench.session import Sample, Session, figure


def rows(session: Session) -> Iterator[Row]:
    samples = session.measure("purge", lambda: _once(session))
    yield Row("purge, CPU a message", [figure(samples, "CPU", "µs"), figure(samples, "rate", "/s")])


def _once(session: Session) -> Sample:
    with session.scratch() as folder:
        return children.told("purge", folder, path=str(folder / FILE), count=session.size(100_000, 30_000))
