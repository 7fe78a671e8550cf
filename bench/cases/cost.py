"""What resilience costs: calls with everything on, as it is by default, against everything off, one beside the other.

Two servers and two clients that differ in their settings alone. Each repetition measures both, now the one first and
now the other, and gives the share of the pair: what the machine does meanwhile happens to both.
"""

from collections.abc import Iterator, Mapping

from bench import children
from bench.children import NO_SETTINGS
from bench.figures import Row, at_most
from bench.session import Sample, Session, figure

SLOTS = 200
AT_ONCE = 64
PAIRS = 6
OFF = {
    "policies": "attempts=1,hedge=false,breaker=false,limit=1024",
    "limiter": "fixed",
    "call_queue": "0",
}


def rows(session: Session) -> Iterator[Row]:
    pairs = _Pairs(session)
    found = session.measure("the cost of resilience", pairs.measured, reps=session.size(PAIRS, 2))
    yield Row(
        "calls over HTTP of an operation that only reads, everything on, against everything off",
        [
            figure(found, "CPU", "%", at_most(110)),
            figure(found, "p50", "%", at_most(110)),
            figure(found, "CPU, 1 at once", "%", at_most(110)),
            figure(found, "p50, 1 at once", "%", at_most(110)),
            figure(found, "CPU on", "µs"),
            figure(found, "CPU off", "µs"),
        ],
        note=f"{AT_ONCE} at once where nothing is said; CPU of both sides, per call",
    )


class _Pairs:
    """Measure on and off in turn; who is first changes each time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._on_first = False

    def measured(self) -> Sample:
        self._on_first = not self._on_first
        order = (NO_SETTINGS, OFF) if self._on_first else (OFF, NO_SETTINGS)
        many = {id(settings): self._called(settings, AT_ONCE) for settings in order}
        one = {id(settings): self._called(settings, 1) for settings in order}
        on, off = many[id(NO_SETTINGS)], many[id(OFF)]
        on_1, off_1 = one[id(NO_SETTINGS)], one[id(OFF)]
        return {
            "CPU": _cpu(on) / _cpu(off) * 100,
            "p50": on["p50"] / off["p50"] * 100,
            "CPU, 1 at once": _cpu(on_1) / _cpu(off_1) * 100,
            "p50, 1 at once": on_1["p50"] / off_1["p50"] * 100,
            "CPU on": _cpu(on),
            "CPU off": _cpu(off),
        }

    def _called(self, settings: Mapping[str, str], at_once: int) -> Sample:
        seconds = 1.5 if self._session.quick else 3.0
        quick_end = {**settings, "shutdown": "1"}
        with (
            self._session.scratch() as folder,
            children.part("worker", folder, quick_end, handler="look", http="127.0.0.1:0", slots=SLOTS) as server,
        ):
            url = server.notes("the door is at ")
            asked = {"url": url, "server_pid": server.pid, "at_once": at_once, "seconds": seconds, "reads": True}
            return children.told("call", folder, settings=settings, **asked)


def _cpu(sample: Sample) -> float:
    return sample["client CPU"] + sample["server CPU"]
