"""From the send to the handler, on an idle worker in another process."""

from collections.abc import Iterator

from bench import children
from bench.cases.draining import FILE
from bench.figures import Beside, Row, at_most
from bench.peers import queues
from bench.session import Sample, Session, figure, percentile


def rows(session: Session) -> Iterator[Row]:
    samples = session.measure("send to an idle worker", lambda: _once(session))
    yield Row(
        "send → handler, idle worker in another process",
        [figure(samples, "p50", "ms", at_most(1.0)), figure(samples, "p99", "ms", at_most(3.0))],
        Beside("the send itself, until it is durable", [figure(samples, "send", "ms", label="p50")]),
        queues.beside(session, "latency"),
    )


def _once(session: Session) -> Sample:
    count = session.size(500, 200)
    with session.scratch() as folder:
        path = str(folder / FILE)
        children.told("fill", folder, store=f"sqlite:///{path}", count=1)
        with children.part("worker", folder, handler="late", store=f"sqlite:///{path}", expected=count) as worker:
            worker.says("began")
            with children.part("pace", folder, path=path, count=count) as sender:
                sender.says("ready")
                sender.tell("go")
                sends_ms = sender.says("measured")["measured"]["sends_ms"]
                ages_ms = worker.says("ages_ms")["ages_ms"]
    return {
        "p50": percentile(ages_ms, 0.5),
        "p99": percentile(ages_ms, 0.99),
        "worst": max(ages_ms),
        "send": percentile(sends_ms, 0.5),
    }
