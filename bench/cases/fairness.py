"""Three processes that write one file without pause: how long the unluckiest commit waits, and who gets how much."""

from collections.abc import Iterator
from contextlib import ExitStack

from bench import children
from bench.cases.draining import FILE
from bench.figures import Row, at_least, at_most
from bench.session import Sample, Session, figure, percentile

LEAST_SHARE = 60.0  # of the most of the three, in %: even enough


def rows(session: Session) -> Iterator[Row]:
    alike = session.measure("three writers, 100 rows a commit", lambda: _once(session, (100, 100, 100)))
    yield Row(
        "three writers flat out (two senders and a worker, 100 a commit)",
        [
            figure(alike, "worst", "ms", at_most(50)),
            figure(alike, "share", "%", at_least(LEAST_SHARE)),
            figure(alike, "p50", "ms"),
            figure(alike, "rate", "/s"),
        ],
        note="share: commits of the least lucky against those of the luckiest",
    )
    unlike = session.measure("three writers, 1, 1,000 and 100 rows", lambda: _once(session, (1, 1000, 100)))
    yield Row(
        "three writers flat out (senders of 1 and of 1,000, a worker of 100)",
        [
            figure(unlike, "worst", "ms", at_most(50)),
            figure(unlike, "share", "%"),
            figure(unlike, "p50", "ms"),
            figure(unlike, "rate", "/s"),
        ],
    )


def _once(session: Session, batches: tuple[int, int, int]) -> Sample:
    seconds = 2.0 if session.quick else 4.0
    with session.scratch() as folder, ExitStack() as stack:
        path = str(folder / FILE)
        children.told("fill", folder, store=f"sqlite:///{path}", count=session.size(100_000, 40_000))
        writers = [
            stack.enter_context(
                children.part("write_on", folder, path=path, batch=batch, seconds=seconds, works=number == 2)
            )
            for number, batch in enumerate(batches)
        ]
        for writer in writers:
            writer.says("ready")
        for writer in writers:
            writer.tell("go")
        said = [writer.says("measured")["measured"] for writer in writers]
    commits = [len(one["waits_ms"]) for one in said]
    waits_ms = [wait for one in said for wait in one["waits_ms"]]
    return {
        "worst": max(waits_ms),
        "share": min(commits) / max(commits) * 100,
        "p50": percentile(waits_ms, 0.5),
        "rate": sum(one["rows"] for one in said) / seconds,
    }
