"""One `wait` of a store: what it waits for, and its end."""

import asyncio
from collections.abc import Iterable, Sequence

from ringpost.store.port import Woken


class Waiter:
    """Somebody who waits for work in queues, or for a change of ids."""

    __slots__ = ("future", "ids", "queues")

    def __init__(self, queues: frozenset[str], ids: frozenset[bytes], future: asyncio.Future[Woken]) -> None:
        self.queues = queues
        self.ids = ids
        self.future = future

    def wake(self, queues: frozenset[str], ids: frozenset[bytes]) -> bool:
        """Wake it if any of this is its own; False if not, or if it has been woken already."""
        woken = Woken(queues & self.queues, ids & self.ids)
        if self.future.done() or not (woken.queues or woken.ids):
            return False
        self.future.set_result(woken)
        return True


def wake(waiters: Sequence[Waiter], queues: Iterable[str], ids: Iterable[bytes]) -> None:
    """Wake one waiter a queue, and every one of the ids."""
    changed = frozenset(ids)
    if changed:
        for waiter in waiters:
            waiter.wake(frozenset(), changed)
    for queue in queues:
        one = frozenset((queue,))
        any(waiter.wake(one, frozenset()) for waiter in waiters)
