"""Leases: a worker holds a message for a while and renews; if it dies, another takes over. All in parts of the lease.

A holder that can't renew gives its handlers up before the lease ends, and others wait after it has ended: between the
two nobody holds the message, so that two handlers never believe at once that they do.
"""

from ringpost.core.message import Kind, State

LOSSES_SUSPECT = 2
LOSSES_MAX = 5
_RENEW = 1 / 3
_GIVE_UP = 2 / 3
_SWEEP = 1 / 3


def renew_every_s(lease_s: float) -> float:
    """Say how often to renew: two renewals may fail before anything happens."""
    return lease_s * _RENEW


def give_up_after_s(lease_s: float) -> float:
    """Say how long after the last renewal a holder cancels what it runs."""
    return lease_s * _GIVE_UP


def sweep_after_s(lease_s: float) -> float:
    """Say for how long a process must have written without a break before it may take others' leases away.

    After a stall of the disk every lease looks ended: their holders get the time to renew first.
    """
    return lease_s * _SWEEP


def suspect(losses: int) -> bool:
    """Say whether a message may be what kills its workers; such are run one at a time in a process."""
    return losses >= LOSSES_SUSPECT


def after_loss(losses: int, *, cancel_asked: bool, kind: Kind) -> State | None:
    """Say what becomes of a row whose holder was lost, its losses counted. None: a reservation, it is removed."""
    if kind is Kind.CALL:
        return None
    if cancel_asked:
        return State.CANCELLED
    return State.DEAD if losses >= LOSSES_MAX else State.READY
