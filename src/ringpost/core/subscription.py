"""How long a subscription collects for a service that isn't there, and what becomes of it when that is back."""

from collections.abc import Mapping
from typing import Final

from msgspec import structs

from ringpost.core.notes import Subscription

SUSPEND_AFTER_MS: Final = 7 * 24 * 3600 * 1000
"""Unseen for so long it collects no more: what nobody takes would fill the store, and then stop the publishers."""


CATCH_UP_WAITING_MAX: Final = 10_000
"""So many may wait in the queue of a subscription that catches up."""


def seen(before: Subscription | None, service: str, now_ms: int, *, from_beginning: bool = False) -> Subscription:
    """Give a subscription whose service is there: it gets events again, and what it missed stays written down.

    A new one begins behind, with `from_beginning`. A clock that was set back doesn't make it look old to others.
    """
    if before is None:
        return Subscription(service, now_ms, now_ms, behind=from_beginning)
    return structs.replace(before, service=service, seen_ms=max(before.seen_ms, now_ms), suspended=False)


def missed(before: Subscription, count: int, at: int, now_ms: int) -> Subscription:
    """Give a suspended subscription that missed so many more. `at`: the first one's place in the log; 0: in none."""
    return structs.replace(
        before,
        gap_from_ms=before.gap_from_ms or now_ms,
        gap_count=before.gap_count + count,
        gap_at=min(before.gap_at, at) if before.gap_at and at else before.gap_at or at,
    )


def refilled(before: Subscription) -> Subscription:
    """Give a subscription that is to get what it missed, and after that, in the same order, what comes meanwhile."""
    return structs.replace(before, behind=True, read_at=before.gap_at - 1, read_to=0, given=0)


def room(waiting: int, depth_max: int) -> int:
    """Give how many more a subscription may be given of the log, while so many wait in its queue: it must not be full,
    as that would stop the publishers."""
    return min(CATCH_UP_WAITING_MAX, max(1, depth_max // 2)) - waiting


def read_on(before: Subscription, read_at: int, given: int) -> Subscription:
    """Give a subscription that has read the log up to there."""
    return structs.replace(before, read_at=read_at, given=before.given + given)


def caught_up(before: Subscription, given: int) -> Subscription:
    """Give a subscription that has read all of the log: it is live again, and nothing is missing that was kept."""
    return structs.replace(
        before, behind=False, read_at=0, read_to=0, given=before.given + given, gap_from_ms=0, gap_count=0, gap_at=0
    )


def abandoned(
    subscriptions: Mapping[str, Subscription], earlier_ms: Mapping[str, int], now_ms: int
) -> dict[str, Subscription]:
    """Give those to suspend, by name: unseen for seven days, and also since the observer itself looked the last time.

    `earlier_ms`: when each was seen last as the observer found it then, longer ago than a living service lets pass
    without being seen. So a clock that is wrong by days suspends nobody who lives.
    """
    return {
        name: structs.replace(one, suspended=True)
        for name, one in subscriptions.items()
        if not one.suspended and now_ms - one.seen_ms >= SUSPEND_AFTER_MS and earlier_ms.get(name) == one.seen_ms
    }
