"""Deadlines: an instant by which a call must be answered. On the wire it is what remains of the time, as clocks differ.

Instants are of one process's monotonic clock, in seconds.
"""

MARGIN_S = 0.020
"""What a caller keeps for itself of its own time, to make something of an answer that comes late."""

_WAY_BACK_SHARE, _WAY_BACK_S_MAX = 0.1, 0.25


def chosen_s(asked_s: float | None, declared_s: float | None, usual_s: float, longest_s: float) -> float:
    """Give the length of a call: as the caller asked, else as declared, else the usual; never above the longest."""
    if asked_s is None:
        asked_s = usual_s if declared_s is None else declared_s
    return asked_s if asked_s < longest_s else longest_s  # `min` takes three times as long, in every call


def child(now_s: float, timeout_s: float, parent_s: float | None) -> float:
    """Give the deadline of a call made within another: its own, and within the parent's less a margin."""
    own_s = now_s + timeout_s
    return own_s if parent_s is None else min(own_s, parent_s - MARGIN_S)


def ticket_by_s(arrived_s: float, deadline_s: float) -> float:
    """Give the instant at which a ticket must leave instead of an answer, to be there before its caller gives up: a
    tenth of the time, at most 250 ms, is for the way back."""
    return deadline_s - min(_WAY_BACK_SHARE * (deadline_s - arrived_s), _WAY_BACK_S_MAX)
