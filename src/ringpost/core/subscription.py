"""How long a subscription collects for a service that isn't there, and what becomes of it when that is back."""

from collections.abc import Mapping
from typing import Final

from msgspec import structs

from ringpost.core.notes import Subscription

SUSPEND_AFTER_MS: Final = 7 * 24 * 3600 * 1000
"""Unseen for so long it collects no more: what nobody takes would fill the store, and then stop the publishers."""


def seen(before: Subscription | None, service: str, now_ms: int) -> Subscription:
    """Give a subscription whose service is there: it gets events again, and what it missed stays written down.

    A clock that was set back doesn't make it look old to others.
    """
    if before is None:
        return Subscription(service, now_ms, now_ms)
    return structs.replace(before, service=service, seen_ms=max(before.seen_ms, now_ms), suspended=False)


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
