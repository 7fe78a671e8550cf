"""Overload: one service is offered ten times what it can do, by callers of mixed patience and priority.

What limits it is known: an operation of 8 slots whose handler waits 20 ms, some 400 a second. Its capacity is measured
with 8 callers who each ask again when they are answered; so are the unloaded latency, by one caller, and the memory.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench import children
from bench.answers import Answer, Span, curve, good_share, latency_ms, refusal_ms, within
from bench.cases.offering import Link, Offered, Running, chain, offered
from bench.chart import Chart, Level, Line, Panel
from bench.figures import Row, at_least, at_most
from bench.session import Sample, Session, figure, percentile

SLOTS = 8
LEAST_SLOTS = 1  # in the least form: ten times of that is little for any machine
WORK_S = 0.02
TIMES = 10
PATH = "/d/alone"
SETTLE_S = 2.0  # until the first answers of the overload, and the limits it finds, are behind it
LOOK_S = 0.25
PATIENCE_S = (0.05, 0.2, 1.0)
PRIORITIES = {"high": 0.2, "normal": 0.6, "low": 0.2}
KINDS: list[dict[str, Any]] = [
    {"path": PATH, "deadline_s": deadline_s, "priority": priority, "share": share}
    for deadline_s in PATIENCE_S
    for priority, share in PRIORITIES.items()
]
HIGH = [at for at, kind in enumerate(KINDS) if kind["priority"] == "high"]


class Alone(Struct):
    """What the service does without overload: calls a second with all slots busy, and what one caller waits."""

    capacity: float
    p99_ms: float
    memory_mb: float


class Seen(Struct):
    alone: Alone
    offered: Offered
    steady: Span
    memory_mb: float
    door_ms: list[float]  # what refusals took at the door itself


def rows(session: Session) -> Iterator[Row]:
    seen: list[Seen] = []

    def once() -> Sample:
        seen.append(_seen(session))
        return _sample(seen[-1])

    found = session.measure("overload", once, reps=session.long_reps)
    yield Row(
        f"overload: offered {TIMES} × capacity, patience of 50 ms to 1 s, three priorities",
        [
            figure(found, "goodput", "%", at_least(85)),
            figure(found, "accepted p99", "×", at_most(2)),
            figure(found, "at the door", "ms", at_most(5)),
            figure(found, "refused p99", "ms"),
            figure(found, "memory", "×", at_most(1.5)),
            figure(found, "high", "%"),
            figure(found, "capacity", "/s"),
            figure(found, "unloaded p99", "ms"),
            figure(found, "generator", "%"),
        ],
        note="goodput: of capacity, answered well within the caller's patience; accepted p99: of the unloaded one; "
        "at the door: refusals, p99, from the last byte's arrival; refused p99: at the client, from when it wrote; "
        "high: of the calls of high priority, answered well",
    )
    session.draw(_chart(seen[-1]))


def _seen(session: Session) -> Seen:
    slots = LEAST_SLOTS if session.least else SLOTS
    link = Link("d", {"work_s": WORK_S, "concurrency": slots})
    with session.scratch() as folder, chain(session, folder, [link]) as links:
        alone = _alone(folder, links["d"], slots, session.size(5, 2))
        before = len(links["d"].counted()["refusals_ms"])
        memory = _Memory(links["d"].child.pid)
        seconds = SETTLE_S + session.size(60, 5)
        with offered(folder, links["d"].url, KINDS, TIMES * alone.capacity, seconds, 1) as end:
            over = end()
        steady = Span(over.span.begin_s + SETTLE_S, over.span.end_s)
        return Seen(alone, over, steady, memory.most_mb(), links["d"].counted()["refusals_ms"][before:])


def _alone(folder: Path, service: Running, slots: int, seconds: float) -> Alone:
    def called(at_once: int) -> dict[str, float]:
        common = {"url": service.url, "server_pid": service.child.pid, "seconds": seconds, "path": PATH}
        return children.told("raw_call", folder, at_once=at_once, **common)

    unloaded, busy = called(1), called(slots)
    return Alone(busy["rate"], unloaded["p99"] / 1000, children.memory_mb(service.child.pid))


class _Memory:
    """The highest resident memory of a process from now on; looked at in a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def most_mb(self) -> float:
        self._over.set()
        self._thread.join()
        return self._most_mb

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self._most_mb = max(self._most_mb, children.memory_mb(self._pid))


def _sample(seen: Seen) -> Sample:
    steady, alone = within(seen.offered.answers, seen.steady), seen.alone
    good = sum(one.good for one in steady) / seen.steady.length_s
    return {
        "goodput": good / alone.capacity * 100,
        "accepted p99": latency_ms(_accepted(steady), 0.99) / alone.p99_ms,
        "refused p99": refusal_ms(steady, 0.99),
        "at the door": percentile(seen.door_ms, 0.99) if seen.door_ms else 0.0,
        "memory": seen.memory_mb / alone.memory_mb,
        "high": good_share(within(steady, seen.steady, HIGH)) * 100,
        "capacity": alone.capacity,
        "unloaded p99": alone.p99_ms,
        "generator": seen.offered.cpu * 100,
    }


def _accepted(answers: list[Answer]) -> list[Answer]:
    return [one for one in answers if one.good]


def _chart(seen: Seen) -> Chart:
    answers, span = seen.offered.answers, seen.offered.span
    capacity = seen.alone.capacity
    return Chart(
        "overload",
        f"{seen.offered.rate:,.0f} requests/s for a capacity of {capacity:,.0f}/s",
        [
            Panel(
                "answered in time, /s",
                [Line("answered within the caller's patience", "ours", curve(answers, span, 1.0))],
                [Level("capacity", capacity), Level("85 % of it", 0.85 * capacity)],
            ),
            Panel(
                "p99, ms",
                [
                    Line("accepted", "ours", _over_time(_accepted(answers), span, latency_ms)),
                    Line("refused", "other", _over_time(answers, span, refusal_ms)),
                ],
                [Level("2 × unloaded", 2 * seen.alone.p99_ms), Level("5 ms", 5.0)],
            ),
        ],
    )


def _over_time(answers: list[Answer], span: Span, p: Any) -> list[tuple[float, float]]:
    bins: dict[int, list[Answer]] = {}
    for one in within(answers, span):
        bins.setdefault(int(one.at_s - span.begin_s), []).append(one)
    return [(at + 0.5, p(some, 0.99)) for at, some in sorted(bins.items())]
