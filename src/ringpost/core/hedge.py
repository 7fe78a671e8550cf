"""Hedging: ask a second instance where the first one is late, and take the answer that comes first.

Only for what is declared `effect="read"`, only after the 95th percentile of what the operation takes (and never sooner
than 10 ms: whoever is that fast has no tail worth a second request), only while the breaker is closed and out of the
same budget as retries: what helps against one slow instance must not finish off a target that struggles.
"""

SOONEST_S = 0.010


def patience_s(p95_s: float) -> float:
    """Give how long a call may take before it is late."""
    return max(p95_s, SOONEST_S)


def hedge_at_s(began_s: float, deadline_s: float, p95_s: float) -> float | None:
    """Give the instant at which a call that isn't answered is worth a second one; None where less time would be left
    than such a call takes."""
    at_s = began_s + patience_s(p95_s)
    return at_s if at_s + p95_s < deadline_s else None
