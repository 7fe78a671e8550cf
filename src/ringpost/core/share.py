"""How the connections to one target are shared among its operations: some that hang leave places for all the others.

An operation may take one more place as long as it has fewer than are free. So alone it takes half of them; of several
that hang each finds half of what the ones before it left (128, 64, 32 … of 256); and as places come back, whoever has
the fewest goes first, until all who want more have the same, and as many are free. Nothing needs to be known of who is
well and who hangs. It is what switches do that share a memory among their ports (dynamic thresholds, Choudhury and
Hahne, 1998, with a factor of one).

Beyond all that a few places are kept for operations that have none, one for each: when everything else is taken, calls
of another operation still go, one at a time.
"""

from collections.abc import Iterable

from ringpost.core.policy import USUAL, Policies

KEPT = 16
"""Places for operations that have none."""


def places_of(policies: Policies) -> int:
    """Give how many places a target has beside those that are kept: twice what any operation may have by policy."""
    limits = [int(policy["limit"]) for policy in policies.values() if "limit" in policy]
    return 2 * max([USUAL.limit, *limits])


def may_take(own: int, free: int) -> bool:
    """Say whether an operation that has so many places may take one more. `free` is below 0 by as many as are taken of
    those that are kept."""
    return own < free or (own == 0 and free > -KEPT)


def next_of(owns: Iterable[int], free: int) -> int | None:
    """Give which of those in line takes the next place: the first of those that have the fewest; None: none may."""
    fewest = min(((own, at) for at, own in enumerate(owns)), default=None)
    return fewest[1] if fewest is not None and may_take(fewest[0], free) else None
