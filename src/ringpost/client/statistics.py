"""What a process has learned of the targets that it calls, as values to look at: for logs, metrics, tests."""

from msgspec import Struct

from ringpost.client.guards import Guards, readings
from ringpost.core.breaker import Forced, State


class TargetStatistics(Struct, frozen=True):
    """An operation at a target. Counts are of the last ten seconds; ages and latencies are seconds.

    `state` of its breaker, since `state_age`; `p95` of good answers, None until 32 are known; `budget`: tokens left for
    retries and hedges, of 10, of which half always stay.
    """

    target: str
    instance: str
    operation: str
    state: State
    forced: Forced
    state_age: float
    error: str
    calls: int
    errors: int
    slow: int
    p95: float | None
    budget: float


def statistics_of(guards: Guards, now_s: float) -> tuple[TargetStatistics, ...]:
    """Give what is known of every target."""
    found = [
        TargetStatistics(
            watch.target,
            watch.instance,
            watch.operation,
            reading.state,
            reading.forced,
            max(now_s - reading.since_s, 0.0),
            reading.error,
            reading.calls,
            reading.errors,
            reading.slow,
            watch.latency.p95_s,
            watch.budget.tokens,
        )
        for watch, reading in readings(guards, now_s)
    ]
    return tuple(sorted(found, key=lambda one: (one.operation, one.target, one.instance)))
