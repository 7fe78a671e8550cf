"""Ordering keys: a different one for every message, and ten that all share."""

from collections.abc import Iterator
from pathlib import Path

from bench import children
from bench.cases.drain import one_process
from bench.cases.draining import FILE, drained
from bench.figures import Figure, Row, at_least
from bench.session import Samples, Session, figure, median

HOT_KEYS = 10


def rows(session: Session) -> Iterator[Row]:
    base = median(one_process(session)["rate"])
    count = session.size(100_000, 40_000)
    many = _keyed(session, "ordering keys, all different", count, count)
    yield Row(
        "drain, all ordering keys different, against none",
        [
            Figure("share", "%", [rate / base * 100 for rate in many["rate"]], at_least(60)),
            figure(many, "rate", "/s"),
            figure(many, "CPU", "µs"),
        ],
    )
    hot = _keyed(session, f"ordering keys, {HOT_KEYS} hot ones", session.size(30_000, 10_000), HOT_KEYS)
    yield Row(
        f"drain, {HOT_KEYS} hot ordering keys, {session.size(30_000, 10_000) // HOT_KEYS:,} deep",
        [figure(hot, "rate", "/s", at_least(8_000)), figure(hot, "CPU", "µs")],
    )


def _keyed(session: Session, name: str, count: int, keys: int) -> Samples:
    return session.measure(
        name,
        lambda: drained(
            session,
            count,
            handler="line",
            prepare=lambda folder: _fill(folder / FILE, count, keys),
        ),
    )


def _fill(path: Path, count: int, keys: int) -> None:
    children.told("fill", path.parent, store=f"sqlite:///{path}", count=count, keys=keys)
