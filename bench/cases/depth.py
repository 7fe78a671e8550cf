"""A million messages waiting, and a million that have ended: the rate must not notice, nor the memory."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import children
from bench.cases.drain import one_process
from bench.cases.draining import FILE, copied, drained
from bench.figures import Figure, Row, at_least, at_most
from bench.session import Sample, Samples, Session, figure, median

MEMORY_GROWS_MB = 8.0  # within it memory counts as flat


def rows(session: Session) -> Iterator[Row]:
    empty = one_process(session)
    count = session.size(100_000, 40_000)
    many = session.size(1_000_000, 100_000)
    with ExitStack() as stack:
        folder = stack.enter_context(session.scratch())
        path = folder / FILE
        session.say(f"filling a store with {many:,} messages")
        children.told("fill", folder, 600, store=f"sqlite:///{path}", count=many)

        def once(label: str) -> Samples:
            return session.measure(label, lambda: _drain_copy(session, path, count))

        yield _row(f"{many:,} messages waiting", once(f"{many:,} waiting"), empty)
        session.say(f"ending {many:,} messages")
        children.told("raw_drain", folder, 600, path=str(path))
        children.told("fill", folder, store=f"sqlite:///{path}", count=count)
        yield _row(f"{many:,} messages that have ended", once(f"{many:,} ended"), empty)


def _drain_copy(session: Session, path: Path, count: int) -> Sample:
    return drained(session, count, prepare=lambda folder: copied(path, folder))


def _row(what: str, samples: Samples, empty: Samples) -> Row:
    base_rate, base_mb = median(empty["rate"]), median(empty["memory"])
    return Row(
        f"drain beside {what}, against an empty file",
        [
            Figure("share", "%", [rate / base_rate * 100 for rate in samples["rate"]], at_least(90)),
            Figure("memory grows", "MB", [mb - base_mb for mb in samples["memory"]], at_most(MEMORY_GROWS_MB)),
            figure(samples, "rate", "/s"),
            figure(samples, "CPU", "µs"),
        ],
    )
