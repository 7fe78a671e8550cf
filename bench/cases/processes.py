"""Two worker processes on one file, against one."""

from collections.abc import Iterator

from bench.cases.drain import one_process
from bench.cases.draining import drained
from bench.figures import Figure, Row, at_least
from bench.session import Samples, Session, figure, median

BURN_US = 30.0


def rows(session: Session) -> Iterator[Row]:
    one = one_process(session)
    count = session.size(100_000, 40_000)
    two = session.measure("two processes, no-op", lambda: drained(session, count, workers=2))
    yield Row(
        "two worker processes, no-op handlers, against one",
        [_gain(two, one, 0.95), figure(two, "rate", "/s"), figure(two, "CPU", "µs")],
    )
    count = session.size(40_000, 15_000)

    def burning(workers: int) -> Samples:
        return session.measure(
            f"{workers} process{'es' * (workers > 1)}, handlers of {BURN_US:g} µs",
            lambda: drained(session, count, handler="burn", burn_us=BURN_US, workers=workers),
        )

    one, two = burning(1), burning(2)
    yield Row(
        f"two worker processes, handlers of {BURN_US:g} µs, against one",
        [_gain(two, one, 1.4), figure(two, "rate", "/s"), figure(two, "CPU", "µs")],
        note=f"one process: {median(one['rate']):,.0f} /s, {median(one['CPU']):.1f} µs",
    )


def _gain(two: Samples, one: Samples, bound: float) -> Figure:
    base = median(one["rate"])
    return Figure("gain", "×", [rate / base for rate in two["rate"]], at_least(bound))
