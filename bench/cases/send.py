"""Durable sends from one process: one by one, a hundred at once, a thousand in a call."""

from collections.abc import Iterator

from bench import children
from bench.cases.draining import FILE
from bench.figures import Beside, Row, at_least
from bench.peers import queues
from bench.session import Sample, Samples, Session, figure

TARGETS = (("one", "one by one", 4_500), ("hundred", "100 at once", 60_000), ("thousand", "send_all of 1,000", 100_000))


def rows(session: Session) -> Iterator[Row]:
    ours = session.measure("durable sends", lambda: _once(session, "send"))
    raw = session.measure("the store's port alone, puts", lambda: _once(session, "raw_put"))
    for key, words, bound in TARGETS:
        yield Row(
            f"durable send, {words}",
            [
                figure(ours, f"{key}_rate", "/s", at_least(bound), "rate"),
                figure(ours, f"{key}_cpu", "µs", label="CPU"),
            ],
            _beside(raw, key),
            queues.beside(session, "send")
            if key == "one"
            else queues.beside(session, "bulk")
            if key == "hundred"
            else (),
        )


def _once(session: Session, part: str) -> Sample:
    with session.scratch() as folder:
        return children.told(
            part,
            folder,
            path=str(folder / FILE),
            singles=session.size(5_000, 1_500),
            rounds_of_100=session.size(500, 150),
            rounds_of_1000=session.size(80, 25),
        )


def _beside(raw: Samples, key: str) -> Beside:
    figures = [figure(raw, f"{key}_rate", "/s", label="rate"), figure(raw, f"{key}_cpu", "µs", label="CPU")]
    return Beside("the store's port alone, rows built beforehand", figures)
