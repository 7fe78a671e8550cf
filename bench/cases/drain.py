"""Draining a queue with one worker process, at 200 and at 20 slots."""

from collections.abc import Iterator

from bench import children
from bench.cases.draining import FILE, drained
from bench.figures import Beside, Row, at_least, at_most
from bench.peers import queues
from bench.session import Sample, Samples, Session, figure


def rows(session: Session) -> Iterator[Row]:
    samples = one_process(session)
    yield Row(
        "drain, one worker process, 200 slots, SQLite FULL",
        [figure(samples, "rate", "/s", at_least(60_000)), figure(samples, "CPU", "µs", at_most(14))],
        raw_limit(session, 200),
        queues.beside(session, "drain"),
    )
    count = session.size(40_000, 15_000)
    samples = session.measure("drain, 20 slots", lambda: drained(session, count, slots=20))
    yield Row(
        "drain, one worker process, 20 slots, SQLite FULL",
        [figure(samples, "rate", "/s", at_least(25_000)), figure(samples, "CPU", "µs")],
        raw_limit(session, 20),
    )


def one_process(session: Session) -> Samples:
    """Measure the usual drain; others compare themselves with it."""
    count = session.size(100_000, 40_000)
    return session.measure("drain, 200 slots", lambda: drained(session, count))


def raw_limit(session: Session, slots: int) -> Beside:
    count = session.size(100_000, 40_000) if slots > 50 else session.size(40_000, 15_000)

    def once() -> Sample:
        with session.scratch() as folder:
            path = str(folder / FILE)
            children.told("fill", folder, store=f"sqlite:///{path}", count=count)
            return children.told("raw_drain", folder, path=path, slots=slots)

    return session.beside(f"the store's port alone, {slots} slots", once, {"rate": "/s", "CPU": "µs"})
